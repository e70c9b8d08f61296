//! A broker that stands still: Postgres keeps the log, and the session, and the relay its memory.

use crate::harness::{INSERT, LIMIT, World};
use crate::memory::peak;
use anyhow::{Result, ensure};
use local::process::Process;
use std::time::{Duration, Instant};
use tests::broker::Fault;
use tokio_postgres::Client;

/// Three times as long as the server waits for a sign of life.
const STALL: Duration = Duration::from_secs(6);

/// A server that closes a session after two seconds of silence.
async fn impatient() -> Result<World> {
    let world = World::bare(&[("wal_sender_timeout", "2s")]).await?;
    let output = world.relay("").arg("init").output()?;
    ensure!(output.status.success(), "relay init failed");
    Ok(world)
}

fn start(world: &World, topic: &str) -> Result<Process> {
    let mut command = world.relay(topic);
    command.arg("run").env("RELAY_BYTES_IN_FLIGHT", "1MiB").env("RELAY_REQUESTS_IN_FLIGHT", "4");
    world.start(command)
}

async fn walsender(client: &Client) -> Result<Option<i32>> {
    let sql = "select active_pid from pg_replication_slots where slot_name = 'relay'";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Watches the session while the broker answers nothing.
async fn watch(client: &Client) -> Result<()> {
    let first = walsender(client).await?;
    assert!(first.is_some(), "expected a session");
    let until = Instant::now() + STALL;
    while Instant::now() < until {
        assert_eq!(walsender(client).await?, first, "the server closed the session");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_stands_still_costs_neither_the_session_nor_memory() -> Result<()> {
    const ROWS: usize = 5000;
    let world = impatient().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    world.broker.script(vec![Fault::Hang(STALL); 4]);
    let mut relay = start(&world, &topic)?;
    relay.said("streaming", LIMIT).await?;
    // 20 MB through a budget of 1 MiB, in one transaction and in many.
    let rows = format!(
        "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
         select 'order', 'k' || n % 500, 'order.created', to_json(repeat('x', 4000)) from generate_series(1, {ROWS}) as n"
    );
    client.batch_execute(&rows).await?;
    for n in 1..=100_i64 {
        client.execute(INSERT, &[&"later", &n, &"order.created", &"{}"]).await?;
    }
    world.broker.wait("requests that hang", LIMIT, |s| s.requests >= 4).await;
    watch(&client).await?;
    world.broker.wait("all of it", LIMIT, |s| s.accepted.len() == ROWS + 100).await;
    let peak = peak(relay.id())?;
    println!("peak {peak} MiB");
    assert!(peak < 32, "expected a budget of 1 MiB and little more, found {peak} MiB");
    ensure!(!relay.log().contains("is lost"), "the session was lost:\n{}", relay.log());
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_large_row_that_comes_while_the_broker_stands_still_waits_its_turn() -> Result<()> {
    let world = impatient().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    world.broker.script(vec![Fault::Hang(STALL); 4]);
    let mut relay = start(&world, &topic)?;
    relay.said("streaming", LIMIT).await?;
    client
        .batch_execute(
            "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
             select 'order', 'k' || n, 'order.created', to_json(repeat('x', 4000)) from generate_series(1, 500) as n;
             insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
             values ('order', 'large', 'order.created', to_json(repeat('x', 30000000))),
                    ('order', 'last', 'order.created', '{}')",
        )
        .await?;
    world.broker.wait("requests that hang", LIMIT, |s| s.requests >= 4).await;
    watch(&client).await?;
    world.broker.wait("all that can be sent", LIMIT, |s| s.accepted.len() == 501).await;
    world
        .until(&client, "select count(*) = 1 from relay.dead_letter where key = '/order/large'")
        .await?;
    ensure!(!relay.log().contains("is lost"), "the session was lost:\n{}", relay.log());
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
