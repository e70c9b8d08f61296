//! Publications of every kind, and their changes while the relay runs.

use crate::harness::{INSERT, LIMIT, World, member, text};
use anyhow::Result;
use std::collections::HashSet;
use tests::broker::{Accepted, State};
use tokio_postgres::Client;

async fn version(client: &Client) -> Result<i32> {
    let sql = "select current_setting('server_version_num')::int / 10000";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// The events that come from an outbox row and a row of `item`, under this publication.
async fn published(world: &World, publication: &str) -> Result<()> {
    let client = world.client().await?;
    client.batch_execute("drop publication if exists relay").await?;
    client.batch_execute(publication).await?;
    let topic = world.broker.topic("orders.fifo");
    let tables = "public.item, public.split";
    let check = world.relay(&topic).arg("check").env("RELAY_TABLES", tables).output()?;
    // All tables, or all of the schema relay: the keys of relay.emit are among them.
    let all = publication.contains("all tables") || publication.contains("in schema");
    let said = text(&check);
    assert_eq!(check.status.success(), !all, "{publication}: {said}");
    assert_eq!(said.matches("FAIL").count(), usize::from(all), "{publication}: {said}");
    assert_eq!(said.contains("that covers relay.secret"), all, "{publication}: {said}");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_TABLES", tables);
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    // A relay that is ended between a change and its commit sends the change again.
    let id = |a: &Accepted| member(a, "event_id").to_string();
    let before: HashSet<String> = world.broker.state().accepted.iter().map(id).collect();
    let kinds = |s: &State| -> HashSet<String> {
        let new = s.accepted.iter().filter(|a| !before.contains(&id(a)));
        new.map(|a| member(a, "event_type").as_str().unwrap_or_default().to_owned()).collect()
    };
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    client.batch_execute("insert into item default values; insert into split values (1)").await?;
    world.broker.wait("three events", LIMIT, |s| kinds(s).len() == 3).await;
    let all = ["order.created", "item.created", "split.created"].map(str::to_owned);
    assert_eq!(kinds(&world.broker.state()), HashSet::from(all), "{publication}");
    client.batch_execute("delete from item; delete from split").await?;
    world.broker.wait("the deletions", LIMIT, |s| kinds(s).len() == 5).await;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn publications_for_all_tables_in_schema_and_via_root_all_do() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "create table item (id int generated always as identity primary key, note text);
             create table split (id int primary key) partition by range (id);
             create table split_1 partition of split for values from (0) to (100);
             create table \"not for us\" (id int primary key)",
        )
        .await?;
    published(
        &world,
        "create publication relay for all tables with (publish_via_partition_root = true)",
    )
    .await?;
    published(&world, "create publication relay for table relay.outbox, item, split with (publish_via_partition_root = true)").await?;
    if version(&client).await? < 15 {
        println!("skipped: publications of schemas are from 15 on");
        return Ok(());
    }
    published(&world, "create publication relay for tables in schema relay, public with (publish_via_partition_root = true)").await
}

#[tokio::test]
async fn what_a_publication_leaves_out_of_a_table_is_named_with_the_cure() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "create table item (id int primary key, note text);
             create table split (id int primary key) partition by range (id);
             create table split_1 partition of split for values from (0) to (100)",
        )
        .await?;
    let topic = world.broker.topic("orders.fifo");
    let refused = |table: &str, wanted: &[&str]| -> Result<()> {
        for verb in ["check", "run"] {
            let output = world.relay(&topic).arg(verb).env("RELAY_TABLES", table).output()?;
            assert_eq!(output.status.code(), Some(1), "{}", text(&output));
            for wanted in wanted {
                assert!(
                    text(&output).contains(wanted),
                    "{verb}: expected {wanted} in {}",
                    text(&output)
                );
            }
        }
        Ok(())
    };
    refused("public.item", &["found that it is not there", "ADD TABLE \"public\".\"item\""])?;
    refused("public.nowhere", &["public.nowhere"])?;
    client.batch_execute("alter publication relay add table item, split").await?;
    refused(
        "public.item",
        &["leaves some kinds out", "publish = 'insert, update, delete, truncate'"],
    )?;
    client
        .batch_execute("alter publication relay set (publish = 'insert, update, delete, truncate')")
        .await?;
    assert!(
        world
            .relay(&topic)
            .arg("check")
            .env("RELAY_TABLES", "public.item")
            .output()?
            .status
            .success()
    );
    std::fs::write(world.folder().join("relay.toml"), "[[table]]\nname = 'item'\nkey = ['sku']\n")?;
    let output = world.relay(&topic).arg("check").output()?;
    assert!(text(&output).contains("the key column sku"), "{}", text(&output));
    std::fs::remove_file(world.folder().join("relay.toml"))?;
    client.batch_execute("drop publication relay; create publication relay for table split, relay.outbox_default").await?;
    refused("public.split", &["publish_via_partition_root"])?;
    // One that was made by hand is changed only when that is asked for.
    client.batch_execute("drop publication relay; create publication relay for table relay.outbox with (publish_via_partition_root = true)").await?;
    let init = |more: &[&str]| {
        world.relay("").arg("init").args(more).env("RELAY_TABLES", "public.item").output()
    };
    let left = init(&[])?;
    assert!(
        !left.status.success() && text(&left).contains("relay init --adopt-publication"),
        "{}",
        text(&left)
    );
    let adopted = init(&["--adopt-publication"])?;
    assert!(
        adopted.status.success() && text(&adopted).contains("added public.item"),
        "{}",
        text(&adopted)
    );
    Ok(())
}

#[tokio::test]
async fn a_row_filter_is_told_and_kept() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    if version(&client).await? < 15 {
        println!("skipped: row filters are from 15 on");
        return Ok(());
    }
    client
        .batch_execute(
            "alter publication relay set table relay.outbox where (event_type <> 'order.noted')",
        )
        .await?;
    let topic = world.broker.topic("orders.fifo");
    let check = world.relay(&topic).arg("check").output()?;
    assert!(
        check.status.success() && text(&check).contains("only rows of relay.outbox come for which"),
        "{}",
        text(&check)
    );
    let count = world.broker.state().accepted.len();
    let _relay = world.run(&topic).await?;
    for kind in ["order.created", "order.noted", "order.paid"] {
        client.execute(INSERT, &[&"o", &1_i64, &kind, &"{}"]).await?;
    }
    world.broker.wait("two events", LIMIT, |s| s.accepted.len() == count + 2).await;
    let kind = member(&world.broker.state().accepted[count + 1], "event_type");
    assert_eq!(kind, "order.paid");
    Ok(())
}

#[tokio::test]
async fn changes_of_the_publication_are_picked_up_while_running() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    let event = async |n: i64| client.execute(INSERT, &[&"o", &n, &"order.created", &"{}"]).await;
    event(1).await?;
    client.batch_execute("alter publication relay drop table relay.outbox").await?;
    event(2).await?;
    client.batch_execute("alter publication relay add table relay.outbox").await?;
    event(3).await?;
    world.broker.wait("two of three", LIMIT, |s| s.accepted.len() == 2).await;
    let versions: Vec<_> =
        world.broker.state().accepted.iter().map(|a| member(a, "aggregate_version")).collect();
    assert_eq!(versions, [1, 3]);

    // Without its publication the relay waits, says why, and goes on.
    client.batch_execute("drop publication relay").await?;
    client
        .batch_execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'relay'")
        .await?;
    relay.said("expected the publication relay, found none", LIMIT).await?;
    assert!(relay.is_running() && relay.log().contains("run `relay init`"), "{}", relay.log());
    let init = world.relay("").arg("init").output()?;
    if version(&client).await? < 18 {
        // What was written while there was none, by the relay too, cannot be decoded before 18.
        assert!(
            !init.status.success() && text(&init).contains("relay drop --yes"),
            "{}",
            text(&init)
        );
        return Ok(());
    }
    assert!(init.status.success(), "{}", text(&init));
    event(4).await?;
    world.broker.wait("the next one", LIMIT, |s| s.accepted.len() == 3).await;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
