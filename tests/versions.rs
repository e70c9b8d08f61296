//! What differs from one version of Postgres to the next, and must make no difference.
//!
//! `tests/run` runs every test of a server on the oldest and the newest version;
//! these are the ones that the differences gave rise to.

use crate::harness::{INSERT, LIMIT, World, member, text};
use anyhow::{Context as _, Result};
use tests::broker::State;
use tokio_postgres::Client;

async fn major(client: &Client) -> Result<i32> {
    let sql = "select current_setting('server_version_num')::int / 10000";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

fn keys(state: &State) -> Vec<String> {
    state.accepted.iter().map(|a| member(a, "aggregate_id").to_string().replace('"', "")).collect()
}

/// Until version 15 a transaction without a change is sent; later ones are left out.
#[tokio::test]
async fn a_transaction_without_an_event_is_confirmed_whether_it_is_sent_or_not() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    let client = world.client().await?;
    client
        .batch_execute("create table unrelated (n int); insert into unrelated values (1)")
        .await?;
    let written: String =
        client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{written}' from pg_replication_slots where slot_name = 'relay'"
    );
    world.until(&client, &confirmed).await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

/// With protocol 1 a prepared transaction comes when it commits, like any other.
#[tokio::test]
async fn a_prepared_transaction_is_published_when_it_commits_and_not_before() -> Result<()> {
    let world = World::bare(&[("max_prepared_transactions", "4")]).await?;
    assert!(world.relay("").arg("init").output()?.status.success());
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    let client = world.client().await?;
    for key in ["kept", "dropped"] {
        client.batch_execute("begin").await?;
        client.execute(INSERT, &[&key, &1_i64, &"order.created", &"{}"]).await?;
        client.batch_execute(&format!("prepare transaction '{key}'")).await?;
    }
    client.execute(INSERT, &[&"between", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the event between", LIMIT, |s| s.accepted.len() == 1).await;
    client.batch_execute("commit prepared 'kept'").await?;
    client.batch_execute("rollback prepared 'dropped'").await?;
    client.execute(INSERT, &[&"after", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the events after", LIMIT, |s| s.accepted.len() == 3).await;
    assert!(relay.terminate(LIMIT).await?.success());
    let mut found = keys(&world.broker.state());
    assert_eq!(found.first().map(String::as_str), Some("between"));
    found.sort_unstable();
    assert_eq!(found, ["after", "between", "kept"]);
    Ok(())
}

/// What was written by a replication worker is an event too: the origin says so, and is read.
#[tokio::test]
async fn a_transaction_of_another_origin_is_published() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "select pg_replication_origin_create('elsewhere');
             select pg_replication_origin_session_setup('elsewhere');
             begin;
             select pg_replication_origin_xact_setup('0/ABCDEF', '2026-01-15 10:30:00+00');
             insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
             values ('order', 'replicated', 'order.created', '{}');
             commit;
             select pg_replication_origin_session_reset();",
        )
        .await?;
    world.broker.wait("the event", LIMIT, |s| keys(s) == ["replicated"]).await;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

/// From version 18 on a publication can send generated columns too.
#[tokio::test]
async fn columns_of_the_users_own_are_passed_over_generated_ones_too() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "alter table relay.outbox
                add column note text default 'mine',
                add column size int generated always as (length(aggregate_id)) stored",
        )
        .await?;
    if major(&client).await? >= 18 {
        client
            .batch_execute("alter publication relay set (publish_generated_columns = stored)")
            .await?;
    }
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    client.execute(INSERT, &[&"o", &7_i64, &"order.created", &"{\"n\": 1}"]).await?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    assert!(relay.terminate(LIMIT).await?.success());
    let state = world.broker.state();
    assert_eq!(member(&state.accepted[0], "aggregate_version"), 7);
    assert_eq!(member(&state.accepted[0], "data")["n"], 1);
    assert!(!state.accepted[0].entry.body.contains("mine"));
    Ok(())
}

/// From version 15 on a publication can leave columns out.
#[tokio::test]
async fn a_publication_that_leaves_a_column_out_is_named_with_the_cure() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    let narrow = "alter publication relay set table relay.outbox (recorded_at, position, event_id)";
    if major(&client).await? < 15 {
        let refused = client.batch_execute(narrow).await;
        assert!(refused.is_err(), "expected a server that knows no column lists");
        return Ok(());
    }
    client.batch_execute(narrow).await?;
    for arguments in [&["init"][..], &["run"], &["check"]] {
        let output = world.relay(&topic).args(arguments).output()?;
        assert!(!output.status.success(), "{arguments:?}: {}", text(&output));
        assert!(
            text(&output).contains("a column list without aggregate_type"),
            "{}",
            text(&output)
        );
    }
    let said = text(&world.relay(&topic).arg("check").output()?);
    let cure = said.split_once("run BEGIN;").and_then(|(_, rest)| rest.split_once("COMMIT"));
    client.batch_execute(&format!("begin;{}commit", cure.context("expected a cure")?.0)).await?;
    let mut relay = world.run(&topic).await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the event", LIMIT, |s| keys(s) == ["o"]).await;

    // Under a running relay: each row is a dead letter, and the cure is told.
    client.batch_execute(narrow).await?;
    client.execute(INSERT, &[&"o", &2_i64, &"order.paid", &"{}"]).await?;
    let letter =
        "select count(*) = 1 from relay.dead_letter where reason like '%column aggregate_type%'";
    world.until(&client, letter).await?;
    relay.said("found a column list without aggregate_type", LIMIT).await?;
    assert_eq!(keys(&world.broker.state()), ["o"]);
    Ok(())
}
