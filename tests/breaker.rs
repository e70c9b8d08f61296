//! A destination that does not take events: left alone, named, and no burden to the others.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::Result;
use local::process::Process;
use std::time::{Duration, Instant};
use tests::broker::Fault;

const MISSING: &str = "arn:aws:sns:us-east-1:000000000000:customers.fifo";
const CUSTOMER: &str = "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
    select 'customer', 'c' || n, 'customer.joined', to_json(repeat('x', 2000)) from generate_series(1, 2000) as n";

/// A relay whose customers go to a topic that is not there.
fn start(world: &World, topic: &str, settings: &[(&str, &str)]) -> Result<Process> {
    let mut command = world.relay(topic);
    command.arg("run").env("RELAY_ROUTES", format!("customer={MISSING}"));
    command.envs(settings.iter().copied());
    world.start(command)
}

/// What `relay status` says, once it says `expected`, and its exit code.
async fn status(world: &World, topic: &str, expected: &str) -> Result<Option<i32>> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let output = world.relay(topic).arg("status").output()?;
        if text(&output).contains(expected) {
            return Ok(output.status.code());
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, found {}", text(&output));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_destination_that_is_wrong_is_named_and_the_others_go_on() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let relay = start(&world, &topic, &[])?;
    let client = world.client().await?;
    client.batch_execute(CUSTOMER).await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the order", LIMIT, |s| s.accepted.len() == 1).await;
    let said =
        format!("Some events do not flow: events to {MISSING} do not flow, those to others do");
    assert_eq!(status(&world, &topic, &said).await?, Some(1));
    assert!(relay.log().contains("the destination is wrong"), "{}", relay.log());
    let requests = world.broker.state().requests;
    assert!(requests < 50, "it is left alone between tries, found {requests} requests");
    assert_eq!(world.broker.topic("customers.fifo"), MISSING);
    world.broker.wait("the customers", LIMIT, |s| s.accepted.len() == 2001).await;
    assert_eq!(status(&world, &topic, "Events flow.").await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn when_its_events_fill_the_budget_it_is_said_which_holds_the_rest() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let relay = start(&world, &topic, &[("RELAY_BYTES_IN_FLIGHT", "256KiB")])?;
    let client = world.client().await?;
    client.batch_execute(CUSTOMER).await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    let said = format!("Nothing flows: {MISSING} does not take events");
    assert_eq!(status(&world, &topic, &said).await?, Some(1));
    assert!(relay.log().contains("the budget of bytes in flight is spent"), "{}", relay.log());
    assert_eq!(world.broker.state().accepted.len(), 0);
    let _ = world.broker.topic("customers.fifo");
    world.broker.wait("all of them", LIMIT, |s| s.accepted.len() == 2001).await;
    assert_eq!(status(&world, &topic, "Events flow.").await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn where_it_is_so_set_a_refused_event_stops_its_destination_and_no_other() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let _ = world.broker.topic("customers.fifo");
    world.broker.script([Fault::Refuse("InvalidParameter")]);
    let client = world.client().await?;
    let mut relay = start(&world, &topic, &[("RELAY_ON_POISON", "halt")])?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    assert_eq!(status(&world, &topic, "on_poison").await?, Some(1));
    client.execute(INSERT, &[&"p", &1_i64, &"order.created", &"{}"]).await?;
    client.batch_execute(CUSTOMER).await?;
    world.broker.wait("the customers", LIMIT, |s| s.accepted.len() == 2000).await;
    let kept: i64 = client.query_one("select count(*) from relay.dead_letter", &[]).await?.get(0);
    assert_eq!(kept, 0);
    relay.kill();
    let mut relay = start(&world, &topic, &[])?;
    world
        .broker
        .wait("the orders", LIMIT, |s| s.accepted.iter().filter(|a| a.target == topic).count() == 2)
        .await;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_setting_lets_a_keys_events_share_a_request_and_another_drops_the_order() -> Result<()> {
    const EVENTS: u64 = 300;
    let of_one_key = format!(
        "insert into relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type, data)
         select 'order', 'hot', n, 'order.changed', '{{}}' from generate_series(1, {EVENTS}) as n"
    );
    for (ordering, most_requests, in_order) in [
        ("per-key", EVENTS * 2, true),
        ("per-key-together", EVENTS / 5, true),
        ("none", EVENTS / 5, false),
    ] {
        let world = World::new().await?;
        let topic = world.broker.topic("orders");
        world.client().await?.batch_execute(&of_one_key).await?;
        let slow = Fault::Slow(Duration::from_millis(20));
        // Slow enough for more to have come from Postgres before each answer.
        world.broker.script(vec![slow; if ordering == "per-key" { 0 } else { 30 }]);
        let mut command = world.relay(&topic);
        command.arg("run").env("RELAY_ORDERING", ordering);
        let _relay = world.start(command)?;
        world.broker.wait("all of them", LIMIT, |s| s.accepted.len() == 300).await;
        let state = world.broker.state();
        assert!(state.requests <= most_requests, "{ordering}: {} requests", state.requests);
        let versions =
            state.accepted.iter().map(|a| crate::harness::member(a, "aggregate_version"));
        let versions: Vec<Option<i64>> = versions.map(|version| version.as_i64()).collect();
        assert!(!in_order || versions.is_sorted(), "{ordering}: {versions:?}");
        // The broker watches for two requests of one key at once.
        assert!(
            ordering == "per-key-together" || state.violations.is_empty() == in_order,
            "{ordering}: {:?}",
            state.violations
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_refuses_every_entry_is_told_as_a_refused_request_is() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let fault = |code, sender_fault| {
        move |_: &str| Some(Fault::FailEntries { places: (0..10).collect(), code, sender_fault })
    };
    world.broker.draw(fault("KMSAccessDenied", true));
    let relay = world.run(&topic).await?;
    let client = world.client().await?;
    client.batch_execute(&CUSTOMER.replace("2000) as n", "100) as n")).await?;
    let said = format!("Some events do not flow: events to {topic} do not flow");
    assert_eq!(status(&world, &topic, &said).await?, Some(1));
    assert!(relay.log().contains("the destination is wrong"), "{}", relay.log());
    assert!(world.broker.state().requests < 50, "it is left alone between tries");
    assert!(relay.log().matches("KMSAccessDenied").count() < 4, "{}", relay.log());
    world.broker.draw(fault("InternalError", false));
    assert_eq!(status(&world, &topic, "InternalError").await?, Some(1));
    world.broker.calm();
    world.broker.wait("all of them", LIMIT, |s| s.accepted.len() == 100).await;
    assert_eq!(status(&world, &topic, "Events flow.").await?, Some(0));
    let kept: i64 = client.query_one("select count(*) from relay.dead_letter", &[]).await?.get(0);
    assert_eq!(kept, 0);
    Ok(())
}
