//! A failover: the standby becomes the primary, and is found.

use super::stream;
use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::{Result, ensure};
use dsn::Dsn;
use local::postgres::Postgres;
use relay::wire::Session;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// A connection string of both servers, the standby first.
fn either(world: &World, standby: &Postgres) -> String {
    format!(
        "postgres://postgres:postgres@127.0.0.1:{},127.0.0.1:{}/{}",
        standby.port(),
        world.postgres.port(),
        world.database
    )
}

/// The port of the server that an ordinary connection is with.
async fn server_of(dsn: &Dsn) -> Result<u16> {
    let (client, _driver) = dsn.connect("test").await?;
    let port: i32 = client.query_one("select inet_server_port()", &[]).await?.get(0);
    Ok(port.try_into()?)
}

#[tokio::test]
async fn after_a_failover_both_kinds_of_connection_find_the_new_primary() -> Result<()> {
    let mut world = World::new().await?;
    let standby = world.postgres.standby().await?;
    for wanted in ["", "?target_session_attrs=primary"] {
        let dsn: Dsn = format!("{}{wanted}", either(&world, &standby)).parse()?;
        assert_eq!(server_of(&dsn).await?, world.postgres.port());
        let (session, identity) = Session::start(&dsn, "relay", "relay").await?;
        assert_eq!(identity.timeline, "1");
        session.finish().await?;
        // The slot is free once the server has taken note.
        stream(&dsn).await?;
    }
    let dsn: Dsn = either(&world, &standby).parse()?;
    world.postgres.crash().await?;
    let none = dsn.connect("test").await.map(drop).unwrap_err();
    assert!(none.is_transient(), "{none}");
    let said = none.to_string();
    ensure!(said.contains("refused") && said.contains("read-only"), "{said}");
    let client = standby.connect(&world.database).await?;
    ensure!(client.query_one("select pg_promote()", &[]).await?.get::<_, bool>(0));
    assert_eq!(server_of(&dsn).await?, standby.port());
    let slot = "select pg_create_logical_replication_slot('relay', 'pgoutput')";
    client.batch_execute(slot).await?;
    let (_session, identity) = Session::start(&dsn, "relay", "relay").await?;
    assert_eq!(identity.timeline, "2", "the new primary has a history of its own");
    Ok(())
}

#[tokio::test]
async fn a_running_relay_goes_on_at_the_new_primary_from_17_on() -> Result<()> {
    let mut world = World::bare(&[]).await?;
    let sql = "select current_setting('server_version_num')::int / 10000";
    if world.client().await?.query_one(sql, &[]).await?.get::<_, i32>(0) < 17 {
        println!("skipped: no failover slots before PostgreSQL 17");
        return Ok(());
    }
    let standby = world.postgres.standby().await?;
    let mut init = world.relay("");
    let init = init.arg("init").env("RELAY_FAILOVER", "true").output()?;
    ensure!(init.status.success(), "{}", text(&init));
    let topic = world.broker.topic("orders.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("DATABASE_URL", either(&world, &standby));
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    let client = world.client().await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the first event", LIMIT, |s| s.accepted.len() == 1).await;
    // All of it stands on the standby: the slot, and the log up to here.
    let end: String = client.query_one("select pg_current_wal_lsn()::text", &[]).await?.get(0);
    let there = standby.connect(&world.database).await?;
    let replayed = format!("select coalesce(pg_last_wal_replay_lsn() >= '{end}', false)");
    world.until(&there, &replayed).await?;
    take_over_the_slot(&client, &there).await?;

    let began = Instant::now();
    world.postgres.crash().await?;
    ensure!(there.query_one("select pg_promote()", &[]).await?.get::<_, bool>(0));
    there.execute(INSERT, &[&"o", &2_i64, &"order.paid", &"{}"]).await?;
    world
        .broker
        .wait("the second event", LIMIT, |s| {
            s.accepted.iter().any(|a| a.entry.body.contains("order.paid"))
        })
        .await;
    println!("published from the new primary {:?} after the crash", began.elapsed());
    ensure!(relay.log().contains("timeline=\"2\""), "{}", relay.log());
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

/// Has the standby take over the slot, which it can when the primary's has moved on a little.
async fn take_over_the_slot(primary: &Client, standby: &Client) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        primary.batch_execute("select pg_log_standby_snapshot()").await?;
        // It fails while the standby's log is behind the slot.
        let done = standby.batch_execute("select pg_sync_replication_slots()").await;
        let there = "select exists (select from pg_replication_slots
            where slot_name = 'relay' and synced and not temporary)";
        if standby.query_one(there, &[]).await?.get(0) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the standby has no slot; asked last: {done:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
