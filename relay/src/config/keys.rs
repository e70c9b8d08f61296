//! The keys of the configuration: each with its variable, its values and its default.

use super::kind::Kind;
use bytesize::ByteSize;
use std::time::Duration;

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its section and its name, or the name of a list of tables.
    pub name: &'static str,
    /// The environment variable that wins over the file.
    pub variable: &'static str,
    /// The values that it may have.
    pub kind: Kind,
    /// Its default as it is written in the file; empty where it is not set.
    pub default: &'static str,
    /// What it decides.
    pub meaning: &'static str,
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// All of them: the reference table of the manual. `[[destination]]` stands in the file alone.
pub const KEYS: &[Key] = &[
    key(
        "postgres.url",
        "DATABASE_URL",
        Kind::Secret,
        "",
        "connection string of the source database",
    ),
    key("postgres.slot", "RELAY_SLOT", Kind::Slot, "relay", "replication slot"),
    key("postgres.publication", "RELAY_PUBLICATION", Kind::Text(63), "relay", "publication"),
    key(
        "postgres.password_file",
        "RELAY_PASSWORD_FILE",
        Kind::Text(4096),
        "",
        "file that holds the password alone",
    ),
    key(
        "postgres.login",
        "RELAY_LOGIN",
        Kind::OneOf(&["password", "aws-iam"]),
        "password",
        "what the login shows; aws-iam: a token for each connection",
    ),
    key(
        "postgres.failover",
        "RELAY_FAILOVER",
        Kind::Switch,
        "false",
        "make the slot one that standbys keep; PostgreSQL 17 or later",
    ),
    key(
        "postgres.heartbeat",
        "RELAY_HEARTBEAT",
        Kind::Duration(Duration::from_millis(100), DAY),
        "",
        "how often a sign of life is written into the log; never where it is not set",
    ),
    key(
        "publish.to",
        "RELAY_TOPIC_ARN",
        Kind::Address,
        "",
        "where events go that no route sends elsewhere",
    ),
    key(
        "publish.source",
        "RELAY_SOURCE",
        Kind::Text(255),
        "",
        "source of the events; the database's name where it is not set",
    ),
    key(
        "publish.format",
        "RELAY_FORMAT",
        Kind::OneOf(&["relay", "cloudevents", "payload"]),
        "relay",
        "what messages look like",
    ),
    key(
        "publish.bytes_in_flight",
        "RELAY_BYTES_IN_FLIGHT",
        Kind::Size(ByteSize::kib(64), ByteSize::gib(64)),
        "32MiB",
        "bytes of events on their way",
    ),
    key(
        "publish.ordering",
        "RELAY_ORDERING",
        Kind::OneOf(&["per-key", "per-key-together", "none"]),
        "per-key",
        "which events wait for each other",
    ),
    key(
        "publish.on_poison",
        "RELAY_ON_POISON",
        Kind::OneOf(&["dead-letter", "halt"]),
        "dead-letter",
        "halt: stop a destination that refuses an event",
    ),
    key(
        "publish.requests_in_flight",
        "RELAY_REQUESTS_IN_FLIGHT",
        Kind::Number(1, 4096),
        "512",
        "upper bound of the requests in flight to one destination; the relay adapts below it",
    ),
    key(
        "publish.requests_in_flight_at_least",
        "RELAY_REQUESTS_IN_FLIGHT_AT_LEAST",
        Kind::Number(1, 4096),
        "1",
        "lower bound; at most publish.requests_in_flight",
    ),
    key(
        "publish.shutdown_grace",
        "RELAY_SHUTDOWN_GRACE",
        Kind::Duration(Duration::ZERO, HOUR),
        "20s",
        "how long a shutdown waits for events on their way",
    ),
    key(
        "claim_check.bucket",
        "RELAY_CLAIM_CHECK_BUCKET",
        Kind::Bucket,
        "",
        "S3 bucket for what is too large for a message",
    ),
    key(
        "claim_check.prefix",
        "RELAY_CLAIM_CHECK_PREFIX",
        Kind::Prefix,
        "",
        "what the keys of its objects begin with",
    ),
    key(
        "claim_check.above",
        "RELAY_CLAIM_CHECK_ABOVE",
        Kind::Size(ByteSize::b(0), ByteSize::mib(256)),
        "",
        "size above which a message goes there; the destination's limit where it is not set",
    ),
    key(
        "claim_check.largest",
        "RELAY_CLAIM_CHECK_LARGEST",
        Kind::Size(ByteSize::mib(1), ByteSize::mib(256)),
        "16MiB",
        "largest event that goes there; it is held in memory whole",
    ),
    key(
        "aws.role_arn",
        "RELAY_ROLE_ARN",
        Kind::Role,
        "",
        "role to publish with; the chain's own credentials where it is not set",
    ),
    key(
        "aws.external_id",
        "RELAY_ROLE_EXTERNAL_ID",
        Kind::Text(1224),
        "",
        "what the role asks of those who take it on",
    ),
    key("aws.dual_stack", "RELAY_DUAL_STACK", Kind::Switch, "false", "endpoints with IPv6 too"),
    key("aws.fips", "RELAY_FIPS", Kind::Switch, "false", "endpoints validated under FIPS 140"),
    key(
        "outbox.partitions_ahead",
        "RELAY_OUTBOX_PARTITIONS_AHEAD",
        Kind::Number(0, 365),
        "7",
        "days with a partition made ahead",
    ),
    key(
        "outbox.keep",
        "RELAY_OUTBOX_KEEP",
        Kind::Duration(Duration::ZERO, Duration::from_secs(3650 * 24 * 3600)),
        "7days",
        "how long published partitions are kept",
    ),
    key(
        "observe.listen",
        "RELAY_LISTEN",
        Kind::Listen,
        "",
        "where metrics and health are served over HTTP; nowhere where it is not set",
    ),
    key(
        "values.numeric",
        "RELAY_NUMERIC",
        Kind::OneOf(&["string", "number"]),
        "string",
        "numeric in the events of tables: a JSON string or a JSON number",
    ),
    key("route", "RELAY_ROUTES", Kind::Routes, "", "where the events of one aggregate type go"),
    key("table", "RELAY_TABLES", Kind::Tables, "", "tables whose changes are events"),
];

const fn key(
    name: &'static str,
    variable: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, variable, kind, default, meaning }
}

/// The key of this name. Only names of the table are asked for.
pub(super) fn of_name(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.name == name).unwrap_or(&KEYS[0])
}

/// Variables that begin with `RELAY_` and are no keys: of the command line, of the consumer, of
/// the tests.
const OTHER_VARIABLES: &[&str] = &[
    "RELAY_CONFIG",
    "RELAY_LOG",
    "RELAY_LOG_FORMAT",
    "RELAY_METRICS",
    "RELAY_ADVISORIES",
    "RELAY_BLESS",
    "RELAY_KILL_SEED",
    "RELAY_LOCAL_PYTHON",
];

/// The known variable that an unknown one is a misspelling of, if it resembles one.
///
/// Everything else that begins with `RELAY_` is someone else's: Kubernetes sets
/// `RELAY_SERVICE_HOST` and more for a service of the name relay.
pub(super) fn misspelt(variable: &str) -> Option<&'static str> {
    let rest = variable.strip_prefix("RELAY_")?;
    let is_other = OTHER_VARIABLES.contains(&variable) || rest.starts_with("TEST_");
    if is_other || is_of_kubernetes(rest) {
        return None;
    }
    let by_key = KEYS.iter().find(|key| {
        // RELAY_PUBLISH_TO, RELAY_BUCKET, RELAY_REQUESTS.
        let name = key.name.replace('.', "_").to_ascii_uppercase();
        let last = key.name.rsplit('.').next().unwrap_or_default();
        let is_beginning = key.variable.strip_prefix(variable).is_some_and(|r| r.starts_with('_'));
        rest == name || rest.eq_ignore_ascii_case(last) || is_beginning
    });
    let known = KEYS.iter().map(|key| key.variable).chain(OTHER_VARIABLES.iter().copied().take(3));
    let near = known.filter_map(|known| {
        // RELAY_DATABASE_URL is taken for DATABASE_URL.
        let stem = known.strip_prefix("RELAY_").unwrap_or(known);
        let distance = strsim::osa_distance(rest, stem);
        (distance <= (stem.len() / 3).clamp(1, 3)).then_some((distance, known))
    });
    by_key.map(|key| key.variable).or_else(|| near.min().map(|(_, known)| known))
}

/// What Kubernetes sets in each container for each service: `X_SERVICE_HOST`, `X_SERVICE_PORT`,
/// `X_SERVICE_PORT_HTTP`, `X_PORT`, `X_PORT_80_TCP`, `X_PORT_80_TCP_ADDR`.
fn is_of_kubernetes(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let port = words.iter().rposition(|word| *word == "PORT");
    rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || rest.ends_with("PORT")
        || port.and_then(|at| words.get(at + 1)).is_some_and(|n| n.parse::<u16>().is_ok())
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
