//! The relay's own writes can fail: it is told, it costs no one else more than it must, and what
//! was written meanwhile flows once they succeed.

use crate::harness::{LIMIT, World, text};
use crate::memory::peak;
use anyhow::Result;
use local::process::Process;
use std::time::{Duration, Instant};

/// A role that may do all that a relay does but write dead letters.
const ROLE: &str = "create role app login replication password 'app';
    grant usage on schema relay to app;
    grant select on all tables in schema relay to app;
    grant insert, update, delete on relay.condition to app;
    grant insert, update on relay.history to app";

fn start(world: &World, settings: &[(&str, &str)]) -> Result<Process> {
    let url = world.postgres.url(&world.database).replace("postgres:postgres@", "app:app@");
    let topic = world.broker.topic("orders.fifo");
    let mut command = world.relay("");
    command.arg("run").env("DATABASE_URL", url).envs(settings.iter().copied());
    if !settings.iter().any(|(name, _)| *name == "RELAY_ROUTES") {
        command.env("RELAY_TOPIC_ARN", topic);
    }
    world.start(command)
}

async fn status(world: &World, expected: &[&str]) -> Result<Option<i32>> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let output = world.relay("").arg("status").output()?;
        let said = text(&output);
        if expected.iter().all(|expected| said.contains(expected)) {
            return Ok(output.status.code());
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, found {said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn dead_letters_that_cannot_be_written_are_told_stay_in_the_budget_and_come_later()
-> Result<()> {
    const BUDGET: u64 = 4;
    let world = World::new().await?;
    let client = world.client().await?;
    client.batch_execute(ROLE).await?;
    let topic = world.broker.topic("customers.fifo");
    let (routes, budget) = (format!("customer={topic}"), format!("{BUDGET}MiB"));
    let mut relay =
        start(&world, &[("RELAY_ROUTES", &routes), ("RELAY_BYTES_IN_FLIGHT", &budget)])?;
    relay.said("streaming", LIMIT).await?;
    // No route for them: letters of events that never became entries, 60 MB.
    let orders = "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
        select 'order', 'o' || n, 'order.created', to_json(repeat('x', 900000)) from generate_series(1, 70) as n";
    client.batch_execute(orders).await?;
    let said =
        ["Nothing flows: ", "permission denied for table dead_letter", "grant the relay's role"];
    assert_eq!(status(&world, &said).await?, Some(1));
    let peak = peak(relay.id())?;
    println!("peak {peak} MiB");
    assert!(peak < BUDGET + 28, "expected the letters within the budget, found {peak} MiB");
    let lines = |relay: &Process| relay.log().lines().filter(|l| l.contains("dead_letter")).count();
    assert!(lines(&relay) < 5, "expected it to be said once, found {}", relay.log());
    assert!(!relay.log().contains("db error"), "{}", relay.log());
    client.batch_execute("grant insert on relay.dead_letter to app").await?;
    world
        .until(&client, "select count(*) = 70 from relay.dead_letter where length(body) > 900000")
        .await?;
    assert_eq!(status(&world, &["Events flow."]).await?, Some(0));
    // A lock is no error, and is told as well; readers of the table are not in its way.
    let mut locker = world.client().await?;
    let lock = locker.transaction().await?;
    lock.batch_execute("lock table relay.dead_letter in share mode").await?;
    client.batch_execute(&orders.replace("70", "1")).await?;
    assert_eq!(
        status(&world, &["Some events do not flow", "no answer for more than 10s"]).await?,
        Some(1)
    );
    lock.rollback().await?;
    world.until(&client, "select count(*) = 71 from relay.dead_letter").await?;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_type_whose_schema_may_not_be_used_stops_nothing() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "create schema shop; create type shop.mood as enum ('sad', 'glad');
             create domain shop.level as int; create type shop.pair as (mood shop.mood, n shop.level[]);
             create table item (id int primary key, mood shop.mood, pair shop.pair, many shop.pair[])",
        )
        .await?;
    let init = world.relay("").arg("init").env("RELAY_TABLES", "public.item").output()?;
    assert!(init.status.success(), "{}", text(&init));
    client.batch_execute(ROLE).await?;
    client.batch_execute("grant insert on relay.dead_letter to app").await?;
    let mut relay = start(&world, &[("RELAY_TABLES", "public.item")])?;
    client
        .batch_execute(
            "insert into item values (1, 'glad', row('sad', '{1,2}'), array[row('glad', '{3}')::shop.pair])",
        )
        .await?;
    world.broker.wait("the change", LIMIT, |s| s.accepted.len() == 1).await;
    let data = crate::harness::member(&world.broker.state().accepted[0], "data");
    assert_eq!(
        data["after"],
        serde_json::json!({
            "id": 1, "mood": "glad", "pair": {"mood": "sad", "n": [1, 2]},
            "many": [{"mood": "glad", "n": [3]}]
        })
    );
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_relay_that_holds_the_slot_and_stands_still_is_told() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let relay = world.run(&topic).await?;
    let shown =
        "select exists (select from pg_stat_activity where application_name = 'relay alive relay')";
    world.until(&world.client().await?, shown).await?;
    relay.signal("STOP");
    let told = status(&world, &["Nothing flows: ", "no sign of life"]).await;
    relay.signal("CONT");
    assert_eq!(told?, Some(1));
    assert_eq!(status(&world, &["Events flow."]).await?, Some(0));
    Ok(())
}
