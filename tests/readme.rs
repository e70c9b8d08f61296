//! What the README shows works: its SQL runs, its configuration is one.

use crate::harness::{LIMIT, World, member};
use anyhow::Result;
use relay::config::Config;

/// The blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let readme = include_str!("../README.md");
    let fence = format!("```{language}\n");
    readme.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
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
    for (key, variable, _) in relay::config::KEYS {
        let name = key.rsplit('.').next().unwrap();
        assert!(
            text.contains(name) && text.contains(variable),
            "{key} ({variable}) is not in the README"
        );
    }
    let defaults = Config::default();
    assert_eq!(config.publish.bytes_in_flight, defaults.publish.bytes_in_flight);
    assert_eq!(config.publish.requests_in_flight, defaults.publish.requests_in_flight);
    assert_eq!(config.publish.shutdown_grace, defaults.publish.shutdown_grace);
    assert_eq!(config.outbox, defaults.outbox);
}
