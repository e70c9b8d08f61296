//! What the README and the pages of the manual show works: their SQL runs, their configurations
//! and connection strings are ones.

use crate::harness::{LIMIT, World, member};
use anyhow::Result;
use relay::config::Config;

/// The blocks of one language in the README.
fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(include_str!("../README.md"), language)
}

/// The manual.
const PAGES: [(&str, &str); 21] = [
    ("aws", include_str!("../relay/docs/aws.md")),
    ("by-hand", include_str!("../relay/docs/by-hand.md")),
    ("commands", include_str!("../relay/docs/commands.md")),
    ("configuration", include_str!("../relay/docs/configuration.md")),
    ("connection", include_str!("../relay/docs/connection.md")),
    ("dead-letters", include_str!("../relay/docs/dead-letters.md")),
    ("debezium", include_str!("../relay/docs/debezium.md")),
    ("formats", include_str!("../relay/docs/formats.md")),
    ("idle", include_str!("../relay/docs/idle.md")),
    ("observing", include_str!("../relay/docs/observing.md")),
    ("ordering", include_str!("../relay/docs/ordering.md")),
    ("outbox", include_str!("../relay/docs/outbox.md")),
    ("large-events", include_str!("../relay/docs/large-events.md")),
    ("new-projection", include_str!("../relay/docs/new-projection.md")),
    ("performance", include_str!("../relay/docs/performance.md")),
    ("read-your-writes", include_str!("../relay/docs/read-your-writes.md")),
    ("roles", include_str!("../relay/docs/roles.md")),
    ("side-effects", include_str!("../relay/docs/side-effects.md")),
    ("slots", include_str!("../relay/docs/slots.md")),
    ("tables", include_str!("../relay/docs/tables.md")),
    ("values", include_str!("../relay/docs/values.md")),
];

pub(crate) fn blocks_of<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn the_sql_of_the_readme_publishes_its_events() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client
        .batch_execute("create table orders (order_id text, status text, version bigint)")
        .await?;
    let sql = blocks("sql");
    assert_eq!(sql.len(), 2);
    for statements in sql {
        client.batch_execute(statements).await?;
    }
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    world.broker.wait("both events", LIMIT, |s| s.accepted.len() == 2).await;
    for accepted in &world.broker.state().accepted {
        assert_eq!(member(accepted, "event_type"), "order.paid");
        assert_eq!(member(accepted, "aggregate_version"), 5);
    }
    Ok(())
}

#[test]
fn the_configuration_of_the_readme_is_one_and_names_every_key() {
    let [text] = blocks("toml")[..] else { panic!("expected one configuration") };
    let config = Config::from_sources(text, []).unwrap();
    assert_eq!(config.destinations().unwrap().addresses.len(), 2);
    for key in relay::config::KEYS {
        let name = key.name.rsplit('.').next().unwrap();
        assert!(
            text.contains(name) && text.contains(key.variable),
            "{} ({}) is not in the README",
            key.name,
            key.variable
        );
    }
    let defaults = Config::default();
    assert_eq!(config.publish.bytes_in_flight, defaults.publish.bytes_in_flight);
    assert_eq!(config.publish.requests_in_flight, defaults.publish.requests_in_flight);
    assert_eq!(config.publish.requests_in_flight_at_least, 1);
    assert_eq!(config.publish.ordering, defaults.publish.ordering);
    assert_eq!(config.publish.on_poison, defaults.publish.on_poison);
    assert_eq!(config.publish.shutdown_grace, defaults.publish.shutdown_grace);
    assert_eq!(config.outbox, defaults.outbox);
}

#[test]
fn the_table_of_keys_in_the_manual_is_that_of_the_code() {
    let mut table = String::from(
        "| key | variable | what it may be | default | what it decides |\n|---|---|---|---|---|\n",
    );
    for key in relay::config::KEYS {
        let default = if key.default.is_empty() { "" } else { &format!("`{}`", key.default) };
        let (kind, meaning) = (key.kind.expected(), key.meaning);
        table +=
            &format!("| `{}` | `{}` | {kind} | {default} | {meaning} |\n", key.name, key.variable);
    }
    let page = include_str!("../relay/docs/configuration.md");
    assert!(page.contains(&table), "expected in relay/docs/configuration.md:\n{table}");
}

#[test]
fn the_configurations_and_connection_strings_of_the_manual_are_ones() {
    for (page, text) in PAGES {
        for block in blocks_of(text, "toml") {
            let config = Config::from_sources(block, []).unwrap_or_else(|e| panic!("{page}: {e}"));
            let url = config.database_url().unwrap();
            url.parse::<dsn::Dsn>().unwrap_or_else(|e| panic!("{page}: {url}: {e}"));
        }
        for line in blocks_of(text, "dsn").into_iter().flat_map(str::lines) {
            line.parse::<dsn::Dsn>().unwrap_or_else(|e| panic!("{page}: {line}: {e}"));
        }
    }
}

#[tokio::test]
async fn the_sql_of_the_manual_runs() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client
        .batch_execute("create table customers (id int primary key); create role rds_iam")
        .await?;
    local::migrations::apply(&client, "sql/read_model").await?;
    let mut run = 0;
    for (page, text) in PAGES {
        for block in blocks_of(text, "sql") {
            client.batch_execute(block).await.map_err(|e| anyhow::anyhow!("{page}: {e}"))?;
            run += 1;
        }
    }
    assert!(run >= 3, "expected the manual's SQL, found {run} blocks");
    Ok(())
}

#[test]
fn the_commands_of_the_manual_are_known() {
    let relay = local::stack::binary("relay").unwrap();
    for (page, text) in PAGES.into_iter().chain([("README", include_str!("../README.md"))]) {
        for line in blocks_of(text, "sh").into_iter().flat_map(str::lines) {
            let words = line.split(" #").next().unwrap_or_default();
            let Some(arguments) = words.trim().strip_prefix("relay ") else { continue };
            let output = std::process::Command::new(&relay)
                .args(arguments.split_whitespace())
                .arg("--help")
                .output()
                .unwrap();
            assert!(output.status.success(), "{page}: {line}: {}", crate::harness::text(&output));
        }
    }
}

#[test]
fn the_formats_of_the_manual_are_the_golden_ones() {
    let page = include_str!("../relay/docs/formats.md");
    for (format, golden) in [
        ("relay", include_str!("../relay/envelope/golden/relay_1.json")),
        ("cloudevents", include_str!("../relay/envelope/golden/cloudevents_1.json")),
        ("payload", include_str!("../relay/envelope/golden/payload_1.json")),
    ] {
        assert_eq!(blocks_of(page, &format!("json {format}")), [golden], "{format}");
    }
    let page = include_str!("../relay/docs/large-events.md");
    let golden = include_str!("../relay/envelope/golden/claim_check_1.json");
    assert_eq!(blocks_of(page, "json claim_check"), [golden]);
}

#[test]
fn the_readme_leads_to_every_page_and_every_page_is_tried() {
    let readme = include_str!("../README.md");
    // Its code runs as the documentation of the crate `consumer`; the chaos suite's is a command's.
    let elsewhere = ["consumer", "chaos"];
    for entry in std::fs::read_dir(local::workspace().join("relay/docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let page = name.trim_end_matches(".md");
        assert!(
            readme.contains(&format!("(relay/docs/{name})")),
            "the README does not name {name}"
        );
        let tried = PAGES.iter().any(|(of, _)| *of == page) || elsewhere.contains(&page);
        assert!(tried, "{name} is not among the pages that are tried");
    }
}

/// The places within a page that its links lead to, as GitHub names them.
fn anchors(page: &str) -> Vec<String> {
    page.lines()
        .filter_map(|line| {
            line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
        })
        .map(|title| {
            title
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn the_links_between_the_pages_lead_somewhere() {
    let docs = local::workspace().join("relay/docs");
    for entry in std::fs::read_dir(&docs).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|l| l.0);
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { docs.join(file) };
            let to = std::fs::read_to_string(&target);
            let to = to.unwrap_or_else(|e| panic!("{}: {link}: {e}", path.display()));
            let there = anchor.is_empty() || anchors(&to).iter().any(|a| a == anchor);
            assert!(there, "{}: {link} leads nowhere", path.display());
        }
    }
}
