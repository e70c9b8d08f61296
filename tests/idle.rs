//! An idle relay holds back no log: what others write is confirmed, and a heartbeat moves it on.

use crate::harness::{LIMIT, World};
use anyhow::Result;
use tokio_postgres::Client;

/// Writes some megabytes of log that no one publishes.
const NOISE: &str = "create table if not exists noise (n int, t text);
    insert into noise select n, repeat('x', 500) from generate_series(1, 10000) as n";

async fn log_end(client: &Client) -> Result<String> {
    Ok(client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?.get(0))
}

#[tokio::test]
async fn the_log_of_other_databases_is_confirmed_and_not_retained() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    let other = world.postgres.create_database().await?;
    let other = world.postgres.connect(&other).await?;
    let client = world.client().await?;
    other.batch_execute(NOISE).await?;
    let end = log_end(&client).await?;
    confirmed_past(&world, &client, &end).await?;
    // And what was written into the relay's own database, but is not published.
    client.batch_execute(NOISE).await?;
    let end = log_end(&client).await?;
    confirmed_past(&world, &client, &end).await
}

async fn confirmed_past(world: &World, client: &Client, end: &str) -> Result<()> {
    let sql = format!(
        "select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name = 'relay'"
    );
    world.until(client, &sql).await
}

#[tokio::test]
async fn a_heartbeat_moves_an_idle_database_on_and_publishes_nothing() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_HEARTBEAT", "100ms");
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    let client = world.client().await?;
    for _ in 0..3 {
        let end = log_end(&client).await?;
        let sql = format!(
            "select confirmed_flush_lsn > '{end}' from pg_replication_slots where slot_name = 'relay'"
        );
        world.until(&client, &sql).await?;
    }
    // It goes on when its connection is cut.
    client
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'relay heartbeat'", &[])
        .await?;
    let end = log_end(&client).await?;
    let sql = format!(
        "select confirmed_flush_lsn > '{end}' from pg_replication_slots where slot_name = 'relay'"
    );
    world.until(&client, &sql).await?;
    assert!(relay.terminate(LIMIT).await?.success());
    assert_eq!(world.broker.state().requests, 0);
    Ok(())
}
