//! Events that cannot be sent are kept with their reason, and come again when they are redriven.

use crate::harness::{INSERT, LIMIT, World, member, text};
use anyhow::Result;
use std::process::Output;
use tests::broker::Fault;

fn dead_letters(world: &World, arguments: &[&str]) -> Result<Output> {
    Ok(world.relay("").arg("dead-letters").args(arguments).output()?)
}

const REFUSED: Fault = Fault::Refuse("InvalidParameter");

/// A world in which the first of three events of a key was refused.
async fn one_refused(topic: &str, world: &World) -> Result<local::process::Process> {
    let client = world.client().await?;
    world.broker.script([REFUSED]);
    for (version, kind) in [(1_i64, "order.created"), (2, "order.paid"), (3, "order.shipped")] {
        client.execute(INSERT, &[&"ord_1", &version, &kind, &"{\"x\": 1}"]).await?;
    }
    let relay = world.run(topic).await?;
    world.broker.wait("those behind it", LIMIT, |s| s.accepted.len() == 2).await;
    Ok(relay)
}

#[tokio::test]
async fn a_redriven_event_arrives_with_its_id_and_its_letter_is_gone() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = one_refused(&topic, &world).await?;
    let client = world.client().await?;
    let kept = client
        .query_one("select id, event_id::text, attempts, error_code from relay.dead_letter", &[])
        .await?;
    let (id, event_id): (i64, String) = (kept.get(0), kept.get(1));
    assert_eq!((kept.get::<_, i32>(2), kept.get::<_, &str>(3)), (1, "InvalidParameter"));

    let listed =
        text(&dead_letters(&world, &["list", "--type", "order.created", "--since", "1h"])?);
    assert!(
        listed.contains("order.created  key /order/ord_1") && listed.contains(&topic),
        "{listed}"
    );
    assert!(listed.contains("InvalidParameter") && listed.contains("1 dead letter"), "{listed}");
    let none = text(&dead_letters(&world, &["list", "--until", "1h"])?);
    assert!(none.contains("0 dead letters"), "{none}");
    let shown = text(&dead_letters(&world, &["show", &id.to_string()])?);
    assert!(shown.contains(&event_id) && shown.contains("{\"x\": 1}"), "{shown}");

    let redriven = dead_letters(&world, &["redrive", "--key", "/order/ord_1"])?;
    assert!(redriven.status.success(), "{}", text(&redriven));
    assert!(text(&redriven).contains("redrove 1 dead letter"), "{}", text(&redriven));
    world.broker.wait("the redriven event", LIMIT, |s| s.accepted.len() == 3).await;
    {
        let state = world.broker.state();
        let last = &state.accepted[2];
        assert_eq!(member(last, "event_id"), event_id);
        assert_eq!(member(last, "event_type"), "order.created");
        assert_eq!(last.entry.deduplication.as_deref(), Some(event_id.as_str()));
        assert_eq!(last.entry.attributes.len(), state.accepted[0].entry.attributes.len());
    }
    let left: i64 = client.query_one("select count(*) from relay.dead_letter", &[]).await?.get(0);
    assert_eq!(left, 0);
    Ok(())
}

#[tokio::test]
async fn what_is_redriven_while_no_relay_runs_waits_in_the_log_and_may_be_refused_again()
-> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = one_refused(&topic, &world).await?;
    assert!(relay.terminate(LIMIT).await?.success());
    assert!(dead_letters(&world, &["redrive", "--all"])?.status.success());
    let client = world.client().await?;
    world.broker.script([REFUSED]);
    let _relay = world.run(&topic).await?;
    world.until(&client, "select count(*) = 1 from relay.dead_letter").await?;
    assert!(dead_letters(&world, &["redrive", "--all"])?.status.success());
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 3).await;
    Ok(())
}

#[tokio::test]
async fn a_letter_for_an_address_of_old_goes_where_its_like_go_today() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client.execute(INSERT, &[&"ord_1", &1_i64, &"order.created", &"{}"]).await?;
    let mut command = world.relay("");
    let topic = world.broker.topic("orders.fifo");
    command.arg("run").env("RELAY_ROUTES", format!("customer={topic}"));
    let mut relay = world.start(command)?;
    world.until(&client, "select count(*) = 1 from relay.dead_letter").await?;
    assert!(relay.terminate(LIMIT).await?.success());
    let _relay = world.run(&topic).await?;
    assert!(dead_letters(&world, &["redrive", "--destination", "(none)"])?.status.success());
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    assert_eq!(world.broker.state().accepted[0].entry.group.as_deref(), Some("/order/ord_1"));
    Ok(())
}

#[tokio::test]
async fn nothing_is_redriven_or_dropped_by_accident() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client.batch_execute("select relay.write_message('relay.event', 'nonsense')").await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    world.until(&client, "select count(*) = 1 from relay.dead_letter").await?;
    for verb in ["redrive", "drop"] {
        let refused = dead_letters(&world, &[verb])?;
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused).contains("or --all"), "{}", text(&refused));
    }
    let kept = dead_letters(&world, &["redrive", "--all"])?;
    assert_eq!(kept.status.code(), Some(1));
    assert!(text(&kept).contains("1 dead letter cannot be redriven"), "{}", text(&kept));
    let unsaid = dead_letters(&world, &["drop", "--all"])?;
    assert!(text(&unsaid).contains("would drop 1 dead letter"), "{}", text(&unsaid));
    assert_eq!(
        text(&dead_letters(&world, &["drop", "--all", "--yes"])?),
        "dropped 1 dead letter\n"
    );
    let gone = dead_letters(&world, &["show", "1"])?;
    assert!(text(&gone).contains("found none"), "{}", text(&gone));
    Ok(())
}

#[tokio::test]
async fn while_a_dead_letter_cannot_be_written_its_event_is_in_flight() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut client = world.client().await?;
    let lock = client.transaction().await?;
    lock.batch_execute("lock table relay.dead_letter in access exclusive mode").await?;
    let mut relay = one_refused_behind_a_lock(&topic, &world).await?;
    let watch = world.client().await?;
    // Whatever is committed behind it is accepted, and yet not confirmed.
    let confirmed =
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = 'relay'";
    let before: String = watch.query_one(confirmed, &[]).await?.get(0);
    watch.execute(INSERT, &[&"ord_2", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("another key's event", LIMIT, |s| s.accepted.len() == 1).await;
    relay.kill();
    let after: String = watch.query_one(confirmed, &[]).await?.get(0);
    assert_eq!(before, after, "confirmed past an event that is nowhere");
    lock.rollback().await?;
    let _relay = world.run(&topic).await?;
    let first = |a: &tests::broker::Accepted| a.entry.group.as_deref() == Some("/order/ord_1");
    world.broker.wait("the event again", LIMIT, |s| s.accepted.iter().any(first)).await;
    Ok(())
}

/// The first event is refused while its letter cannot be written.
async fn one_refused_behind_a_lock(topic: &str, world: &World) -> Result<local::process::Process> {
    let client = world.client().await?;
    world.broker.script([REFUSED]);
    client.execute(INSERT, &[&"ord_1", &1_i64, &"order.created", &"{}"]).await?;
    let relay = world.run(topic).await?;
    world.broker.wait("the refusal", LIMIT, |s| s.requests == 1).await;
    let waits = "select count(*) = 1 from pg_stat_activity
        where application_name = 'relay dead letters' and wait_event_type = 'Lock'";
    world.until(&client, waits).await?;
    Ok(relay)
}
