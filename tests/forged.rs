//! Only who may execute relay.emit or relay.redrive can make the relay send.

use crate::harness::{LIMIT, World, member, text};
use anyhow::Result;
use std::collections::HashSet;
use tests::broker::State;

#[tokio::test]
async fn messages_that_nobody_signed_are_passed_over_counted_and_told() -> Result<()> {
    let world = World::new().await?;
    let owner = world.client().await?;
    owner
        .batch_execute("drop role if exists stranger; create role stranger; grant usage on schema relay to stranger")
        .await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    let stranger = world.client().await?;
    stranger.batch_execute("set role stranger").await?;
    let event = r#"{"event_id":"01930000-0000-7000-8000-000000000001","recorded_at":"2026-01-15T10:30:00Z","aggregate_type":"order","aggregate_id":"forged","event_type":"order.created","event_version":"1.0","data":{},"metadata":{}}"#;
    // Of the right form, with a digest of no key.
    let key = owner.query_one("select max(id) from relay.secret", &[]).await?.get::<_, i32>(0);
    let guessed = [&[1][..], &key.to_be_bytes(), &[7; 32], event.as_bytes()].concat();
    for (prefix, content) in [
        ("relay.event", event.as_bytes()),
        ("relay.redrive", b"\0"),
        ("relay.event", b"\x01\0\0\0\x01"),
        ("relay.event", &[1; 64]),
        ("relay.event", &guessed),
        ("relay.secret", b"99"),
    ] {
        let sql = "select pg_logical_emit_message(true, $1, $2::bytea)";
        stranger.execute(sql, &[&prefix, &content]).await?;
    }
    for sql in [
        "select relay.emit('order', 'o', 'order.created', '{}')",
        "select relay.redrive(array[1::bigint])",
        "select relay.write_message('relay.event', '')",
        "select relay.rotate_secret()",
        "select from relay.secret",
    ] {
        let refused = stranger.execute(sql, &[]).await.unwrap_err();
        assert_eq!(
            refused.code().map(tokio_postgres::error::SqlState::code),
            Some("42501"),
            "{sql}"
        );
    }
    // Whoever may publish is not held up by them.
    owner.batch_execute("grant execute on function relay.emit_event to stranger").await?;
    stranger.batch_execute("select relay.emit('order', 'allowed', 'order.created', '{}')").await?;
    world.broker.wait("the event that may be sent", LIMIT, |s| !s.accepted.is_empty()).await;
    assert_eq!(member(&world.broker.state().accepted[0], "aggregate_id"), "allowed");
    world
        .until(&owner, "select count(*) = 1 from relay.condition where kind = 'forged-messages' and found like '%found 5 others%'")
        .await?;
    let status = text(&world.relay(&topic).arg("status").output()?);
    assert!(status.contains("found 5 others"), "{status}");
    let here: String = owner.query_one("select pg_current_wal_lsn()::text", &[]).await?.get(0);
    owner.batch_execute("select pg_logical_emit_message(true, 'end', '')").await?;
    let passed =
        format!("select bool_and(confirmed_flush_lsn >= '{here}') from pg_replication_slots");
    world.until(&owner, &passed).await?;
    let letters: i64 = owner.query_one("select count(*) from relay.dead_letter", &[]).await?.get(0);
    assert_eq!(letters, 0);
    Ok(())
}

#[tokio::test]
async fn a_new_key_signs_at_once_and_the_relay_learns_it_while_it_runs() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    for key in ["a", "b", "c"] {
        client
            .batch_execute(&format!(
                "begin; savepoint s; select relay.emit('order', '{key}', 'order.created', '{{}}'); release s; commit; select relay.rotate_secret()"
            ))
            .await?;
    }
    client.batch_execute("select relay.emit('order', 'd', 'order.created', '{}')").await?;
    world.broker.wait("all of them", LIMIT, |s| s.accepted.len() == 4).await;
    assert!(relay.terminate(LIMIT).await?.success());
    // And a relay that comes later reads what the old keys signed.
    client.batch_execute("select relay.emit('order', 'e', 'order.created', '{}'); select relay.rotate_secret(); select relay.emit('order', 'f', 'order.created', '{}')").await?;
    let _relay = world.run(&topic).await?;
    // A relay that is ended between a message and its commit sends it again.
    let keys = |s: &State| -> HashSet<String> {
        s.accepted.iter().map(|a| member(a, "aggregate_id").to_string()).collect()
    };
    world.broker.wait("the others", LIMIT, |s| keys(s).len() == 6).await;
    let forged: i64 = client
        .query_one("select count(*) from relay.condition where kind = 'forged-messages'", &[])
        .await?
        .get(0);
    assert_eq!(forged, 0);
    Ok(())
}

#[tokio::test]
async fn emit_takes_every_type_that_the_outbox_takes() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let ids = [
        "'o1'",
        "'o1'::text",
        "'o1'::varchar",
        "gen_random_uuid()",
        "7::smallint",
        "7",
        "7::bigint",
    ];
    let values =
        ["'{\"n\": 1}'", "'{\"n\": 1}'::json", "'{\"n\": 1}'::jsonb", "'{\"n\": 1}'::text"];
    for id in ids {
        for data in values {
            client.execute(&format!("select relay.emit('order', {id}, 'x', {data})"), &[]).await?;
            for metadata in values {
                let sql = format!(
                    "select relay.emit(aggregate_type => 'order', aggregate_id => {id}, event_type => 'x', data => {data}, metadata => {metadata}, aggregate_version => 1)"
                );
                client.execute(&sql, &[]).await?;
            }
        }
    }
    // Its own search_path: a planted function is not called.
    client
        .batch_execute(
            "create schema planted; create function planted.to_json(text) returns json language sql as $$ select '\"planted\"'::json $$;
             create function planted.sha256(bytea) returns bytea language sql as $$ select ''::bytea $$;
             set search_path = planted, public, pg_catalog; select relay.emit('order', 'real', 'x', '{}')",
        )
        .await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    // Keys do not wait for each other: the one that was written last is not the last to be sent.
    let written = ids.len() * values.len() * 5 + 1;
    world.broker.wait("all", LIMIT, |s| s.accepted.len() >= written).await;
    let state = world.broker.state();
    assert_eq!(state.accepted.len(), written);
    let real: Vec<_> =
        state.accepted.iter().filter(|a| member(a, "aggregate_id") == "real").collect();
    assert_eq!(real.len(), 1);
    assert_eq!(member(real[0], "data"), serde_json::json!({}));
    Ok(())
}
