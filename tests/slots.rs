//! The slot: made, adopted, taken over, reported on, lost, moved, dropped.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::{Result, ensure};
use local::process::Process;
use std::process::Output;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

async fn version(client: &Client) -> Result<i32> {
    let sql = "select current_setting('server_version_num')::int / 10000";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

fn says(output: &Output, wanted: &[&str]) {
    let said = text(output);
    for wanted in wanted {
        assert!(said.contains(wanted), "expected {wanted:?} in:\n{said}");
    }
}

/// A second relay that stands by.
async fn standby(world: &World, topic: &str) -> Result<Process> {
    let mut command = world.relay(topic);
    command.arg("run");
    let mut second = world.start(command)?;
    second.said("standing by", LIMIT).await?;
    Ok(second)
}

#[tokio::test]
async fn a_standby_takes_over_within_two_seconds_of_a_death_and_of_an_end() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    for killed in [true, false] {
        let mut first = world.run(&topic).await?;
        let mut second = standby(&world, &topic).await?;
        if killed {
            first.kill();
        } else {
            assert!(first.terminate(LIMIT).await?.success());
        }
        let ended = Instant::now();
        second.said("streaming", LIMIT).await?;
        let took = ended.elapsed();
        println!(
            "{} after {took:?}",
            if killed { "killed: taken over" } else { "ended: taken over" }
        );
        assert!(took < Duration::from_secs(2), "expected less than 2 s, found {took:?}");
        let count = world.broker.state().accepted.len();
        client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
        world.broker.wait("an event", LIMIT, |s| s.accepted.len() > count).await;
        assert!(second.terminate(LIMIT).await?.success());
    }
    Ok(())
}

#[tokio::test]
async fn a_slot_that_is_there_is_adopted_and_one_that_is_not_ours_refused() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute("select pg_create_logical_replication_slot('relay', 'pgoutput')").await?;
    says(&world.relay("").arg("init").output()?, &["ok    slot relay is there and free"]);
    let other = world.postgres.create_database().await?;
    let url = world.postgres.url(&other);
    let refused = world.relay("").arg("init").env("DATABASE_URL", url).output()?;
    assert_eq!(refused.status.code(), Some(1));
    says(&refused, &["found it in", "a name of its own for each database"]);
    client.batch_execute("select pg_create_physical_replication_slot('physical')").await?;
    let refused = world.relay("").arg("init").env("RELAY_SLOT", "physical").output()?;
    says(&refused, &["to use pgoutput, found a physical one"]);
    Ok(())
}

#[tokio::test]
async fn a_slot_is_dropped_only_when_it_is_said_and_no_one_reads_from_it() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    let drop = |more: &[&str]| world.relay(&topic).arg("drop").args(more).output();
    let mut relay = world.run(&topic).await?;
    let refused = drop(&["--yes"])?;
    assert_eq!(refused.status.code(), Some(1));
    says(&refused, &["to be free, found process", "stop that relay first"]);
    assert!(relay.terminate(LIMIT).await?.success());
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    let asked = drop(&["--publication"])?;
    assert_eq!(asked.status.code(), Some(0));
    says(
        &asked,
        &[
            "would drop slot relay",
            "would never be published",
            "would drop publication relay",
            "--yes",
        ],
    );
    let done = drop(&["--yes", "--publication"])?;
    assert!(done.status.success());
    says(&done, &["gone  slot relay, with", "gone  publication relay"]);
    says(
        &drop(&["--yes", "--publication"])?,
        &["there is no slot relay", "there is no publication relay"],
    );
    assert_eq!(
        client.query_one("select count(*) from relay.outbox", &[]).await?.get::<_, i64>(0),
        1
    );
    Ok(())
}

#[tokio::test]
async fn the_state_of_the_slot_is_reported() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let status = || world.relay(&topic).arg("status").output();
    says(
        &status()?,
        &["reader        none", "Nothing flows: no relay reads", "retained", "(reserved)"],
    );
    let _relay = world.run(&topic).await?;
    // At first it catches up with the log that init wrote.
    let deadline = Instant::now() + LIMIT;
    let well = loop {
        let well = status()?;
        if text(&well).contains("(relay), streaming") || Instant::now() > deadline {
            break well;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(well.status.success(), "{}", text(&well));
    says(&well, &["reader        process", "(relay), streaming", "Events flow."]);
    if version(&world.client().await?).await? >= 17 {
        says(&well, &["failover      no"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_slot_that_lost_its_log_is_named_by_every_command_with_the_cure() -> Result<()> {
    let settings =
        [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("wal_keep_size", "0")];
    let world = World::bare(&settings).await?;
    ensure!(world.relay("").arg("init").output()?.status.success());
    let client = world.client().await?;
    let lost = "select wal_status = 'lost' from pg_replication_slots where slot_name = 'relay'";
    let deadline = Instant::now() + LIMIT;
    while !client.query_one(lost, &[]).await?.get::<_, bool>(0) {
        ensure!(Instant::now() < deadline, "the slot keeps its log");
        client
            .batch_execute("create table if not exists noise (t text); insert into noise select repeat('x', 500) from generate_series(1, 50000)")
            .await?;
        client.batch_execute("select pg_switch_wal()").await?;
        client.batch_execute("checkpoint").await?;
    }
    let topic = world.broker.topic("orders.fifo");
    for verb in ["run", "check", "status"] {
        let output = world.relay(&topic).arg(verb).output()?;
        assert_eq!(output.status.code(), Some(1), "{verb}");
        says(
            &output,
            &["slot relay is lost", "max_slot_wal_keep_size", "relay drop --yes", "relay.outbox"],
        );
    }
    // The cure works.
    assert!(world.relay(&topic).args(["drop", "--yes"]).output()?.status.success());
    assert!(world.relay(&topic).arg("init").output()?.status.success());
    let _relay = world.run(&topic).await?;
    Ok(())
}

#[tokio::test]
async fn a_slot_made_anew_behind_the_relays_back_is_noticed() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    let mut relay = world.run(&topic).await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    // The relay is held still while its slot goes, and an event with it.
    relay.signal("STOP");
    client
        .batch_execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'relay'")
        .await?;
    world
        .until(
            &client,
            "select active_pid is null from pg_replication_slots where slot_name = 'relay'",
        )
        .await?;
    client.batch_execute("select pg_drop_replication_slot('relay')").await?;
    client.execute(INSERT, &[&"o", &2_i64, &"order.paid", &"{}"]).await?;
    client.batch_execute("select pg_create_logical_replication_slot('relay', 'pgoutput')").await?;
    relay.signal("CONT");
    let ended = relay.ended(LIMIT).await?;
    assert_eq!(ended.code(), Some(1));
    assert!(
        relay.log().contains("made anew while this relay was not connected"),
        "{}",
        relay.log()
    );
    Ok(())
}

#[tokio::test]
async fn a_failover_slot_is_made_from_17_on_and_refused_before() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    let init = world.relay("").arg("init").env("RELAY_FAILOVER", "true").output()?;
    if version(&client).await? < 17 {
        assert_eq!(init.status.code(), Some(1));
        says(&init, &["expected PostgreSQL 17 or later for postgres.failover"]);
        return Ok(());
    }
    assert!(init.status.success(), "{}", text(&init));
    let made = client
        .query_one("select failover from pg_replication_slots where slot_name = 'relay'", &[])
        .await?;
    assert!(made.get::<_, bool>(0));
    // One that was made without is not taken for one.
    client.batch_execute("select pg_create_logical_replication_slot('plain', 'pgoutput')").await?;
    let mut command = world.relay("");
    command.arg("init").env("RELAY_FAILOVER", "true").env("RELAY_SLOT", "plain");
    says(&command.output()?, &["ALTER_REPLICATION_SLOT plain (FAILOVER)"]);
    Ok(())
}
