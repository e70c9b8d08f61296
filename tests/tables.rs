//! Changes of tables as events: replica identity, TOAST, keys, and schemas of their time.

use crate::harness::{LIMIT, World, member, text};
use anyhow::{Result, ensure};
use local::process::Process;
use serde_json::{Value, json};
use tests::broker::Accepted;

/// A world whose relay captures these tables, made by this SQL, with this replica identity.
async fn world(tables: &str, sql: &str) -> Result<(World, String)> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute(sql).await?;
    let output = world.relay("").arg("init").env("RELAY_TABLES", tables).output()?;
    ensure!(output.status.success(), "relay init failed: {}", text(&output));
    let topic = world.broker.topic("tables.fifo");
    Ok((world, topic))
}

async fn start(world: &World, topic: &str, tables: &str) -> Result<Process> {
    let mut command = world.relay(topic);
    command.arg("run").env("RELAY_TABLES", tables);
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    Ok(relay)
}

/// Waits for so many events and returns them by their place in the stream.
async fn events(world: &World, count: usize) -> Vec<Accepted> {
    let enough = |s: &tests::broker::State| s.accepted.len() >= count;
    world.broker.wait("the events", LIMIT, enough).await;
    let mut accepted = world.broker.state().accepted.clone();
    assert_eq!(accepted.len(), count, "{accepted:#?}");
    // The place in the stream, and a deletion before the creation of the same change.
    accepted.sort_by_key(|a| {
        (member(a, "position").to_string(), created(a), member(a, "event_type").to_string())
    });
    accepted
}

fn created(event: &Accepted) -> bool {
    member(event, "event_type").as_str().is_some_and(|kind| kind.ends_with(".created"))
}

/// Type, aggregate, before and after of an event.
fn told(event: &Accepted) -> (String, String, Value, Value) {
    let data = member(event, "data");
    let text = |name| member(event, name).as_str().unwrap_or_default().to_owned();
    (text("event_type"), text("aggregate_id"), data["before"].clone(), data["after"].clone())
}

fn event(kind: &str, id: &str, before: Value, after: Value) -> (String, String, Value, Value) {
    (kind.to_owned(), id.to_owned(), before, after)
}

#[tokio::test]
async fn each_replica_identity_tells_what_it_can_of_the_old_row() -> Result<()> {
    let tables = "public.plain, public.whole, public.indexed, public.nothing";
    let (world, topic) = world(
        tables,
        "create table plain (id int primary key, note text);
         create table whole (id int primary key, note text);
         alter table whole replica identity full;
         create table indexed (id int primary key, code text not null unique, note text);
         alter table indexed replica identity using index indexed_code_key;
         create table nothing (id int generated always as identity primary key, note text);",
    )
    .await?;
    // `relay init` refuses a table whose updates Postgres would refuse.
    let client = world.client().await?;
    client
        .batch_execute(
            "alter table nothing replica identity nothing; alter table nothing drop column id",
        )
        .await?;
    let _relay = start(&world, &topic, tables).await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "insert into plain values (1, 'a'); update plain set note = 'b'; delete from plain;
             insert into whole values (1, 'a'); update whole set note = 'b'; delete from whole;
             insert into indexed values (1, 'x', 'a'); update indexed set code = 'y'; delete from indexed;",
        )
        .await?;
    client
        .batch_execute("begin; insert into nothing values ('n'); truncate plain, whole; commit")
        .await?;
    // A table without an identity that publishes updates refuses them: Postgres's own guard.
    assert!(client.batch_execute("update nothing set note = 'm'").await.is_err());
    let found: Vec<_> = events(&world, 13).await.iter().map(told).collect();
    assert_eq!(
        found,
        [
            event("plain.created", "1", json!(null), json!({"id": 1, "note": "a"})),
            event("plain.updated", "1", json!(null), json!({"id": 1, "note": "b"})),
            event("plain.deleted", "1", json!({"id": 1}), json!(null)),
            event("whole.created", "1", json!(null), json!({"id": 1, "note": "a"})),
            event(
                "whole.updated",
                "1",
                json!({"id": 1, "note": "a"}),
                json!({"id": 1, "note": "b"})
            ),
            event("whole.deleted", "1", json!({"id": 1, "note": "b"}), json!(null)),
            event("indexed.created", "x", json!(null), json!({"id": 1, "code": "x", "note": "a"})),
            event("indexed.deleted", "x", json!({"code": "x"}), json!(null)),
            event("indexed.created", "y", json!(null), json!({"id": 1, "code": "y", "note": "a"})),
            event("indexed.deleted", "y", json!({"code": "y"}), json!(null)),
            event("nothing.created", "public.nothing", json!(null), json!({"note": "n"})),
            event("plain.truncated", "public.plain", json!(null), json!(null)),
            event("whole.truncated", "public.whole", json!(null), json!(null)),
        ]
    );
    Ok(())
}

#[tokio::test]
async fn an_unchanged_toast_column_is_left_out_and_named_or_filled_in_from_the_old_row()
-> Result<()> {
    let tables = "public.plain, public.whole";
    let (world, topic) = world(
        tables,
        "create table plain (id int primary key, n int, body text);
         create table whole (id int primary key, n int, body text);
         alter table plain alter body set storage external;
         alter table whole alter body set storage external;
         alter table whole replica identity full;",
    )
    .await?;
    let client = world.client().await?;
    for table in ["plain", "whole"] {
        let sql = format!(
            "insert into {table} values (1, 1, repeat('long', 5000)); update {table} set n = 2; update {table} set body = null"
        );
        client.batch_execute(&sql).await?;
    }
    let _relay = start(&world, &topic, tables).await?;
    let events = events(&world, 6).await;
    let long = "long".repeat(5000);
    let after = |at: usize| member(&events[at], "data")["after"].clone();
    let unchanged = |at: usize| member(&events[at], "metadata")["unchanged"].clone();
    assert_eq!((after(0)["body"].as_str(), unchanged(0)), (Some(&*long), json!(null)));
    assert_eq!((after(1), unchanged(1)), (json!({"id": 1, "n": 2}), json!(["body"])));
    assert_eq!((after(2), unchanged(2)), (json!({"id": 1, "n": 2, "body": null}), json!(null)));
    assert_eq!((after(4)["body"].as_str(), unchanged(4)), (Some(&*long), json!(null)));
    assert_eq!(after(4)["n"], json!(2));
    Ok(())
}

#[tokio::test]
async fn a_changed_primary_key_is_a_deletion_then_a_creation_and_each_key_keeps_its_order()
-> Result<()> {
    let (world, topic) =
        world("public.item", "create table item (id int primary key, n int)").await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "insert into item values (1, 1); update item set n = 2; update item set id = 2, n = 3;
             update item set n = 4; begin; update item set id = 1; delete from item; commit",
        )
        .await?;
    let _relay = start(&world, &topic, "public.item").await?;
    let events = events(&world, 8).await;
    let told: Vec<_> =
        events.iter().map(told).map(|(kind, id, ..)| format!("{kind} {id}")).collect();
    assert_eq!(
        told,
        [
            "item.created 1",
            "item.updated 1",
            "item.deleted 1",
            "item.created 2",
            "item.updated 2",
            "item.deleted 2",
            "item.created 1",
            "item.deleted 1",
        ]
    );
    let accepted = world.broker.state().accepted.clone();
    for key in ["1", "2"] {
        let positions: Vec<String> = accepted
            .iter()
            .filter(|a| member(a, "aggregate_id") == key)
            .map(|a| member(a, "position").to_string())
            .collect();
        assert!(positions.is_sorted(), "key {key} came out of order: {positions:?}");
        let groups: std::collections::HashSet<_> = accepted
            .iter()
            .filter(|a| member(a, "aggregate_id") == key)
            .map(|a| a.entry.group.clone())
            .collect();
        assert_eq!(groups, [Some(format!("/item/{key}"))].into());
    }
    let ids: std::collections::HashSet<_> =
        accepted.iter().map(|a| member(a, "event_id").to_string()).collect();
    assert_eq!(ids.len(), 8, "each event has an id of its own");
    Ok(())
}

/// The same stream read twice gives the same ids: a table change has no id of its own in a row.
#[tokio::test]
async fn a_table_change_keeps_its_id_through_a_restart() -> Result<()> {
    let (world, topic) =
        world("public.item", "create table item (id int primary key, n int)").await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "select pg_copy_logical_replication_slot('relay', 'again');
             -- A copy of the slot, so of its history too.
             insert into relay.history (slot, epoch, system_id, database)
             select 'again', epoch, system_id, database from relay.history where slot = 'relay';
             insert into item values (1, 1)",
        )
        .await?;
    let mut relay = start(&world, &topic, "public.item").await?;
    let first = events(&world, 1).await.remove(0);
    assert!(relay.terminate(LIMIT).await?.success());
    let other = world.broker.topic("other.fifo");
    let mut command = world.relay(&other);
    command.arg("run").env("RELAY_TABLES", "public.item").env("RELAY_SLOT", "again");
    let _relay = world.start(command)?;
    let second = events(&world, 2).await;
    assert_eq!(member(&second[0], "event_id"), member(&first, "event_id"));
    assert_eq!(second[0].entry.body, second[1].entry.body);
    Ok(())
}

#[tokio::test]
async fn each_change_reads_with_the_schema_of_its_time() -> Result<()> {
    let tables = "public.item, public.late";
    let (world, topic) = world(
        tables,
        "create table item (id int primary key, a text, b int); create table late (id int primary key)",
    )
    .await?;
    let client = world.client().await?;
    client.batch_execute("alter publication relay drop table late").await?;
    // A backlog in which the table changes its shape, before any of it is read.
    client
        .batch_execute(
            "insert into item values (1, 'x', 1);
             alter table item add column c text default 'new'; insert into item values (2, 'x', 2);
             alter table item rename column a to renamed; insert into item values (3, 'x', 3);
             alter table item drop column b; insert into item values (4, 'x', 'y');
             alter table item alter column c drop default, alter column c type int using 7; insert into item values (5, 'x', 8);
             create type mood as enum ('glad'); alter table item add column m mood;
             insert into item values (6, 'x', 9, 'glad');
             alter type mood rename value 'glad' to 'happy'; update item set c = 10 where id = 6;
             insert into late values (1);
             alter publication relay add table late;
             insert into late values (2);
             begin; alter table item drop column m; insert into item values (7, 'x', 11); commit;
             drop type mood;",
        )
        .await?;
    let _relay = start(&world, &topic, tables).await?;
    let rows: Vec<_> = events(&world, 9).await.iter().map(|e| told(e).3).collect();
    assert_eq!(
        rows,
        [
            json!({"id": 1, "a": "x", "b": 1}),
            json!({"id": 2, "a": "x", "b": 2, "c": "new"}),
            json!({"id": 3, "renamed": "x", "b": 3, "c": "new"}),
            json!({"id": 4, "renamed": "x", "c": "y"}),
            json!({"id": 5, "renamed": "x", "c": 8}),
            json!({"id": 6, "renamed": "x", "c": 9, "m": "glad"}),
            json!({"id": 6, "renamed": "x", "c": 10, "m": "happy"}),
            json!({"id": 2}),
            json!({"id": 7, "renamed": "x", "c": 11}),
        ]
    );
    // And while it streams.
    client
        .batch_execute("alter table item add column d int; insert into item values (8, 'z', 1, 2)")
        .await?;
    let rows: Vec<_> = events(&world, 10).await.iter().map(|e| told(e).3).collect();
    assert_eq!(rows[9], json!({"id": 8, "renamed": "z", "c": 1, "d": 2}));
    Ok(())
}

#[tokio::test]
async fn a_delete_whose_key_the_server_does_not_send_keeps_all_that_it_sent() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute("create table acc (id int primary key, k text not null, n int)").await?;
    std::fs::write(world.folder().join("relay.toml"), "[[table]]\nname = 'acc'\nkey = ['k']\n")?;
    let outside = "the key column k of public.acc in its replica identity, found it outside";
    let cure = "ALTER TABLE \"public\".\"acc\" REPLICA IDENTITY FULL";
    let topic = world.broker.topic("tables.fifo");
    client.batch_execute("alter table acc replica identity full").await?;
    let init = world.relay("").arg("init").output()?;
    ensure!(init.status.success(), "{}", text(&init));
    // Before it starts, each says what identity the key needs.
    client.batch_execute("alter table acc replica identity default").await?;
    for verb in ["check", "run"] {
        let output = world.relay(&topic).arg(verb).output()?;
        ensure!(output.status.code() == Some(1), "{verb}: {}", text(&output));
        ensure!(text(&output).contains(outside), "{verb}: {}", text(&output));
        ensure!(text(&output).contains(cure), "{verb}: {}", text(&output));
    }
    client.batch_execute("alter table acc replica identity full").await?;
    let mut relay = world.run(&topic).await?;
    client
        .batch_execute(
            "insert into acc values (7, 'a', 1), (8, 'b', 2);
             alter table acc replica identity default;
             delete from acc where id = 7;
             update acc set k = 'c' where id = 8",
        )
        .await?;
    world
        .until(
            &client,
            "select count(*) = 1 from relay.dead_letter where event_type = 'acc.deleted'
               and key <> '' and body::jsonb = '{\"before\": {\"id\": \"7\"}, \"after\": null}'",
        )
        .await?;
    // The watch says it while it runs.
    relay.said(cure, LIMIT).await?;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
