//! What the two sources together are.

use super::*;

const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:orders.fifo";

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn two_variables_are_enough() {
    let config = Config::from_sources(
        "",
        env(&[("DATABASE_URL", "postgres://u@h/d"), ("RELAY_TOPIC_ARN", TOPIC), ("HOME", "/")]),
    )
    .unwrap();
    assert_eq!(config.database_url().unwrap(), "postgres://u@h/d");
    assert_eq!(config.destinations().unwrap().addresses[0].to_string(), TOPIC);
}

#[test]
fn a_variable_wins_over_the_file() {
    let file =
        "[postgres]\nslot = 'a'\n[publish]\nshutdown_grace = '5s'\nbytes_in_flight = '1MiB'\n";
    let config =
        Config::from_sources(file, env(&[("RELAY_SLOT", "b"), ("RELAY_REQUESTS_IN_FLIGHT", "3")]))
            .unwrap();
    assert_eq!(config.postgres.slot, "b");
    assert_eq!(config.publish.requests_in_flight, 3);
    assert_eq!(config.publish.shutdown_grace, Duration::from_secs(5));
    assert_eq!(config.publish.bytes_in_flight, ByteSize::mib(1));
}

#[test]
fn what_is_unknown_is_refused_with_the_nearest() {
    let error = Config::from_sources("[postgres]\nslott = 'a'", env(&[])).unwrap_err().to_string();
    assert!(error.contains("`slott`") && error.contains("did you mean `slot`"), "{error}");
    let error = Config::from_sources("", env(&[("RELAY_SLOTT", "a")])).unwrap_err().to_string();
    assert!(error.contains("did you mean RELAY_SLOT?"), "{error}");
    let url = env(&[("RELAY_DATABASE_URL", "postgres://h/d")]);
    let error = Config::from_sources("", url).unwrap_err().to_string();
    assert!(error.contains("did you mean DATABASE_URL?"), "{error}");
}

#[test]
fn wrong_values_are_named() {
    for (name, value, said) in [
        ("RELAY_SLOT", "My-Slot", "lower-case"),
        ("RELAY_REQUESTS_IN_FLIGHT", "0", "from 1 to 4096"),
        ("RELAY_REQUESTS_IN_FLIGHT", "many", "a number"),
        ("RELAY_HEARTBEAT", "0s", "from 100ms to 1day"),
        ("RELAY_LISTEN", "localhost", "an IP address with a port"),
        ("RELAY_BYTES_IN_FLIGHT", "0", "from 64.0 KiB"),
        ("RELAY_SHUTDOWN_GRACE", "soon", "a duration such as"),
        ("RELAY_ROUTES", "order", "TYPE=ADDRESS"),
        ("RELAY_FAILOVER", "yes", "true or false"),
    ] {
        let error = Config::from_sources("", env(&[(name, value)])).unwrap_err().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
}

#[test]
fn routes_share_destinations() {
    let routes = format!("order={TOPIC}, customer=arn:aws:sqs:eu-west-1:123456789012:customers");
    let config =
        Config::from_sources("", env(&[("RELAY_TOPIC_ARN", TOPIC), ("RELAY_ROUTES", &routes)]))
            .unwrap();
    let destinations = config.destinations().unwrap();
    assert_eq!(destinations.addresses.len(), 2);
    assert_eq!(destinations.by_type["order"], 0);
}

#[test]
fn no_secret_is_shown() {
    let config =
        Config::from_sources("", env(&[("DATABASE_URL", "postgres://u:hunter2@h/d")])).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

fn said(file: &str, variables: &[(&str, &str)]) -> String {
    let error = Config::from_sources(file, env(variables)).and_then(|config| {
        config.destinations()?;
        Ok(())
    });
    error.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn the_defaults_of_the_table_are_those_of_the_code() {
    for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
        let variable = [(key.variable.to_owned(), key.default.to_owned())];
        // Without a bucket the largest object may not be set.
        if key.name == "claim_check.largest" {
            continue;
        }
        assert_eq!(Config::from_sources("", variable).unwrap(), Config::default(), "{}", key.name);
    }
    assert_eq!(Config::default().claim_check.largest, ByteSize::mib(16));
}

#[test]
fn each_word_of_a_key_is_one() {
    for key in KEYS {
        let Kind::OneOf(words) = key.kind else { continue };
        for word in words {
            let variable = [(key.variable.to_owned(), (*word).to_owned())];
            assert!(Config::from_sources("", variable).is_ok(), "{} = {word}", key.name);
        }
    }
}

#[test]
fn a_newline_behind_a_value_is_not_part_of_it_and_an_empty_value_is_none() {
    let padded = format!("{TOPIC}\n");
    let config = Config::from_sources(
        "[postgres]\nslot = 'a'",
        env(&[
            ("RELAY_TOPIC_ARN", &padded),
            ("RELAY_SLOT", ""),
            ("RELAY_LISTEN", " \n"),
            ("RELAY_FAILOVER", ""),
            ("RELAY_TABLES", ""),
            ("RELAY_REQUESTS_IN_FLIGHT", "3\r\n"),
        ]),
    )
    .unwrap();
    assert_eq!(config.publish.to.as_deref(), Some(TOPIC));
    assert_eq!((config.postgres.slot.as_str(), config.publish.requests_in_flight), ("a", 3));
    assert_eq!(config.observe.listen, None);
    let url = Config::from_sources("", env(&[("DATABASE_URL", "postgres://h/d\n")])).unwrap();
    assert_eq!(url.database_url().unwrap(), "postgres://h/d");
}

#[test]
fn what_would_have_no_effect_is_refused_with_both_places() {
    const QUEUE: &str = "arn:aws:sqs:eu-west-1:123456789012:customers";
    let route = |to: &str| format!("[[route]]\naggregate_type = 'order'\nto = '{to}'\n");
    let error = said(&(route(TOPIC) + &route(QUEUE)), &[]);
    assert!(
        error.contains("RELAY_ROUTES")
            && error.contains(&format!("entry 1 (to {TOPIC}) and entry 2 (to {QUEUE})"))
            && error.contains("in the file"),
        "{error}"
    );
    let error = said("", &[("RELAY_ROUTES", &format!("order={TOPIC},a={TOPIC},order={TOPIC}"))]);
    assert!(error.contains("entry 1") && error.contains("entry 3"), "{error}");
    assert!(error.contains("in the variable"), "{error}");
    for tables in ["public.a,,b", "public.a,", ",b", "a, ,b", "public.a,public.", "a,public.a"] {
        let error = said("", &[("RELAY_TABLES", tables)]);
        assert!(error.contains("table (RELAY_TABLES)"), "{tables}: {error}");
    }
    let table = "[[table]]\nname = 'public.a'\n";
    let error = said(&table.repeat(2), &[]);
    assert!(error.contains("as entry 1 and as entry 2"), "{error}");
    let error = said("[[table]]\nname = 'a'\nkey = ['id', 'id']", &[]);
    assert!(error.contains("each once"), "{error}");
    let error = said("[postgres]\nlogin = 'aws-iam'\npassword_file = '/x'", &[]);
    assert!(error.contains("postgres.password_file (RELAY_PASSWORD_FILE)"), "{error}");
    let own = format!("[[destination]]\nto = '{TOPIC}'\nclaim_check = true");
    let error = said(&own, &[("RELAY_TOPIC_ARN", TOPIC)]);
    assert!(error.contains("claim_check.bucket"), "{error}");
}

#[test]
fn variables_of_others_are_left_alone_and_misspelt_ones_are_refused() {
    let foreign = [
        "RELAY_SERVICE_HOST",
        "RELAY_SERVICE_PORT",
        "RELAY_SERVICE_PORT_METRICS",
        "RELAY_PORT",
        "RELAY_PORT_80_TCP",
        "RELAY_PORT_80_TCP_PROTO",
        "RELAY_PORT_80_TCP_ADDR",
        "RELAY_SLOT_SERVICE_HOST",
        "RELAY_METRICS",
        "RELAY_METRICS_PORT_9464_TCP_PORT",
        "RELAY_TEST_POSTGRES",
        "RELAY_TEST_SEED",
        "RELAY_TEAM_COLOUR",
        "RELAYED",
    ];
    for name in foreign {
        assert_eq!(said("", &[("RELAY_TOPIC_ARN", TOPIC), (name, "x")]), "", "{name}");
    }
    for (name, known) in [
        ("RELAY_SLOTS", "RELAY_SLOT"),
        ("RELAY_SLTO", "RELAY_SLOT"),
        ("RELAY_TABLE", "RELAY_TABLES"),
        ("RELAY_ROUTE", "RELAY_ROUTES"),
        ("RELAY_TOPIC", "RELAY_TOPIC_ARN"),
        ("RELAY_PUBLISH_TO", "RELAY_TOPIC_ARN"),
        ("RELAY_POSTGRES_SLOT", "RELAY_SLOT"),
        ("RELAY_BUCKET", "RELAY_CLAIM_CHECK_BUCKET"),
        ("RELAY_REQUEST_IN_FLIGHT", "RELAY_REQUESTS_IN_FLIGHT"),
        ("RELAY_HARTBEAT", "RELAY_HEARTBEAT"),
        ("RELAY_LOG_FROMAT", "RELAY_LOG_FORMAT"),
    ] {
        let error = said("", &[(name, "x")]);
        assert!(error.contains(&format!("did you mean {known}?")), "{name}: {error}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_in_a_variable_of_ours_alone() {
    use std::os::unix::ffi::OsStringExt as _;
    let raw = |text: &[u8]| OsString::from_vec(text.to_vec());
    let other = [(raw(b"LS_COLORS"), raw(b"\xff")), (raw(b"\xfe"), raw(b"x"))];
    assert!(Config::from_system("", other).is_ok());
    let ours = [(raw(b"RELAY_SLOT"), raw(b"\xff"))];
    let error = Config::from_system("", ours).unwrap_err().to_string();
    assert!(error.contains("postgres.slot (RELAY_SLOT)") && error.contains("UTF-8"), "{error}");
}

#[test]
fn a_wrong_value_in_the_file_names_its_key_and_no_secret_is_quoted() {
    for (file, expected) in [
        ("[publish]\nbytes_in_flight = 'much'", "publish.bytes_in_flight (RELAY_BYTES_IN_FLIGHT)"),
        ("[publish]\nordering = 3", "publish.ordering (RELAY_ORDERING)"),
        ("[publish]\nrequests_in_flight = '3'", "a number from 1 to 4096, found \"3\""),
        ("[observe]\nlisten = true", "found a TOML boolean"),
        ("[[route]]\naggregate_type = 'a'", "route[0]"),
        ("[[table]]\nname = 3", "table[0].name"),
        ("[[destination]]\nto = 'x'\nformat = 'avro'", "destination[0].format"),
        ("postgres = 3", "postgres"),
        ("[postgres]\nslot = 'a'\nslot = 'b'", "line 3"),
    ] {
        let error = said(file, &[]);
        assert!(error.contains(expected), "{file}: {error}");
    }
    for file in [
        "[postgres]\nurl = 'postgres://u:hunter2@h/d",
        "[postgres]\nurl = \"postgres://u:hunter2\\n@h/d\"",
        "[postgres]\nurl = ['hunter2']",
    ] {
        let error = said(file, &[]);
        assert!(!error.is_empty() && !error.contains("hunter2"), "{file}: {error}");
    }
}

/// What may stand in a value: nothing, edges, and anything.
fn value() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    const EDGES: &[&str] = &[
        "",
        " ",
        "\n",
        "0",
        "-1",
        "0s",
        "1s",
        "18446744073709551615",
        "99999999999999999999",
        "1e309",
        "NaN",
        "18446744073709551615s",
        "18446744073709551615EiB",
        "true",
        "a=b",
        "a,b",
        "a,,b",
        "=",
        ",",
        ".",
        "\0",
        "\u{202e}",
        "127.0.0.1:99999",
        "[::1]:0",
        "arn:aws:sns:r:1:n",
        "https://h/1/q",
    ];
    let repeated = (proptest::sample::select(EDGES), 0_usize..3000)
        .prop_map(|(edge, times)| edge.repeat(times));
    prop_oneof![
        proptest::sample::select(EDGES).prop_map(str::to_owned),
        repeated,
        any::<String>(),
        "[0-9]{1,20}(ms|s|h|days|KiB|GiB)?",
    ]
}

proptest::proptest! {
    /// Any text in any key, in the variable or in the file: a configuration, or an error that
    /// names the key and its variable.
    #[test]
    fn any_value_is_taken_or_refused_by_the_name_of_its_key(
        at in 0..KEYS.len(),
        value in value(),
    ) {
        let key = &KEYS[at];
        let in_file = key.name.split_once('.').map(|(section, name)| {
            let value = toml::Value::from(value.as_str());
            let inner = toml::Table::from_iter([(name.to_owned(), value)]);
            toml::Table::from_iter([(section.to_owned(), toml::Value::Table(inner))]).to_string()
        });
        let variable = [(key.variable.to_owned(), value.clone())];
        let of_file = in_file.map(|file| Config::from_sources(&file, []));
        for read in [Some(Config::from_sources("", variable)), of_file].into_iter().flatten() {
            let Err(error) = read else { continue };
            let said = error.to_string();
            proptest::prop_assert!(said.contains(key.name) && said.contains(key.variable), "{}", said);
            proptest::prop_assert!(said.len() < 1000 && !said.contains('\u{202e}'), "{}", said);
            let is_shown = value.len() > 3 && !value.trim().is_empty() && said.contains(&value);
            proptest::prop_assert!(!matches!(key.kind, Kind::Secret) || !is_shown, "{}", said);
        }
    }
}
