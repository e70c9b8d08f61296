//! The keys: their variables, what they mean, and how a variable's text is put into the file's table.

/// A key, its variable, and what it means: the reference table of the manual.
pub const KEYS: &[(&str, &str, &str)] = &[
    ("postgres.url", "DATABASE_URL", "connection string of the source database"),
    ("postgres.slot", "RELAY_SLOT", "replication slot (relay)"),
    ("postgres.publication", "RELAY_PUBLICATION", "publication (relay)"),
    ("postgres.password_file", "RELAY_PASSWORD_FILE", "file that holds the password alone"),
    (
        "postgres.login",
        "RELAY_LOGIN",
        "password, or aws-iam: a token for each connection (password)",
    ),
    ("postgres.failover", "RELAY_FAILOVER", "make the slot one that standbys keep, 17+ (false)"),
    ("postgres.heartbeat", "RELAY_HEARTBEAT", "how often a sign of life is written (never)"),
    ("publish.to", "RELAY_TOPIC_ARN", "ARN of a topic or queue, or URL of a queue"),
    ("publish.source", "RELAY_SOURCE", "source of the events (the database's name)"),
    ("publish.format", "RELAY_FORMAT", "relay, cloudevents or payload (relay)"),
    ("publish.bytes_in_flight", "RELAY_BYTES_IN_FLIGHT", "bytes of events on their way (32 MiB)"),
    (
        "publish.ordering",
        "RELAY_ORDERING",
        "per-key, per-key-together or none: which events wait for each other (per-key)",
    ),
    (
        "publish.on_poison",
        "RELAY_ON_POISON",
        "dead-letter, or halt: stop a destination that refuses an event (dead-letter)",
    ),
    (
        "publish.requests_in_flight",
        "RELAY_REQUESTS_IN_FLIGHT",
        "requests in flight to one destination at most (512)",
    ),
    (
        "publish.requests_in_flight_at_least",
        "RELAY_REQUESTS_IN_FLIGHT_AT_LEAST",
        "and at least, whatever latency and throttling say (1)",
    ),
    (
        "publish.shutdown_grace",
        "RELAY_SHUTDOWN_GRACE",
        "how long a shutdown waits for events on their way (20s)",
    ),
    (
        "outbox.partitions_ahead",
        "RELAY_OUTBOX_PARTITIONS_AHEAD",
        "days with a partition made ahead (7)",
    ),
    ("outbox.keep", "RELAY_OUTBOX_KEEP", "how long published partitions are kept (7days)"),
    ("route", "RELAY_ROUTES", "in the variable: TYPE=ADDRESS, separated by commas"),
    ("values.numeric", "RELAY_NUMERIC", "numeric as a JSON string or number (string)"),
    (
        "table",
        "RELAY_TABLES",
        "tables whose changes are events; in the variable: SCHEMA.NAME, separated by commas",
    ),
];

/// Variables that begin with `RELAY_` and are no keys.
pub(super) const OTHER_VARIABLES: &[&str] = &["RELAY_CONFIG", "RELAY_LOG", "RELAY_LOG_FORMAT"];

pub(super) fn set(file: &mut toml::Table, key: &str, value: &str) -> Result<(), String> {
    if key == "route" {
        let routes = value.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| {
            let (aggregate_type, to) = pair.split_once('=').ok_or_else(|| {
                format!("expected TYPE=ADDRESS, separated by commas, found {pair:?}")
            })?;
            let mut route = toml::Table::new();
            route.insert("aggregate_type".to_owned(), aggregate_type.trim().into());
            route.insert("to".to_owned(), to.trim().into());
            Ok(toml::Value::Table(route))
        });
        let routes = routes.collect::<Result<Vec<_>, String>>()?;
        file.insert(key.to_owned(), toml::Value::Array(routes));
        return Ok(());
    }
    if key == "table" {
        file.insert(key.to_owned(), super::table::from_variable(value));
        return Ok(());
    }
    let Some((section, name)) = key.split_once('.') else {
        return Ok(());
    };
    let is_number = name.starts_with("requests_in_flight") || name == "partitions_ahead";
    let value = if name == "failover" {
        let switch: bool =
            value.parse().map_err(|_| format!("expected true or false, found {value:?}"))?;
        toml::Value::Boolean(switch)
    } else if is_number {
        let number: i64 =
            value.parse().map_err(|_| format!("expected a number, found {value:?}"))?;
        toml::Value::Integer(number)
    } else {
        toml::Value::String(value.to_owned())
    };
    let section = file.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let section = section.as_table_mut().ok_or("expected a table of that name in the file")?;
    section.insert(name.to_owned(), value);
    Ok(())
}

/// Adds the nearest known key to serde's word about an unknown one.
pub(super) fn explain(message: &str) -> String {
    let Some(unknown) = message.strip_prefix("unknown field `").and_then(|m| m.split('`').next())
    else {
        return message.to_owned();
    };
    let known = message.split('`').skip(3).step_by(2);
    let nearest = known.max_by(|a, b| {
        strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b))
    });
    let nearest = nearest.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default();
    format!("expected a known key, found `{unknown}`{nearest}")
}

pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known
        .max_by(|a, b| strsim::jaro_winkler(word, a).total_cmp(&strsim::jaro_winkler(word, b)))
        .unwrap_or_default()
}
