//! The outbox's partitions are made ahead and dropped behind, without a job of the user's.

use crate::harness::{INSERT, LIMIT, World};
use anyhow::Result;

const DAYS: &str =
    "select count(*) = $1::bigint from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'relay.outbox'::regclass and c.relname ~ '^outbox_[0-9]{8}$'";

#[tokio::test]
async fn coming_days_have_a_partition_and_a_running_relay_makes_those_that_are_missing()
-> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    assert!(client.query_one(DAYS, &[&8_i64]).await?.get::<_, bool>(0), "today and seven days");
    let last: String = client
        .query_one("select to_char((now() at time zone 'UTC')::date + 7, 'YYYYMMDD')", &[])
        .await?
        .get(0);
    client.batch_execute(&format!("drop table relay.outbox_{last}")).await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    world.until(&client, &format!("select to_regclass('relay.outbox_{last}') is not null")).await
}

#[tokio::test]
async fn a_partition_goes_only_behind_what_was_published_and_its_time() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "create table relay.outbox_20200101 partition of relay.outbox
             for values from ('2020-01-01 00:00:00+00') to ('2020-01-02 00:00:00+00')",
        )
        .await?;
    let there = "select to_regclass('relay.outbox_20200101') is not null";
    for kept in [
        "select relay.maintain_outbox()",
        "select relay.maintain_outbox(confirmed => '2020-01-01 12:00:00+00')",
        "select relay.maintain_outbox(confirmed => now(), keep => '100 years')",
    ] {
        client.query(kept, &[]).await?;
        assert!(client.query_one(there, &[]).await?.get::<_, bool>(0), "{kept}");
    }
    client.query("select relay.maintain_outbox(confirmed => now())", &[]).await?;
    assert!(!client.query_one(there, &[]).await?.get::<_, bool>(0));
    Ok(())
}

#[tokio::test]
async fn a_row_of_a_day_without_a_partition_is_published_too() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    let client = world.client().await?;
    let old =
        "insert into relay.outbox (recorded_at, aggregate_type, aggregate_id, event_type, data)
        values ('2020-06-01', 'order', 'old', 'order.created', '{}')";
    client.batch_execute(old).await?;
    client.execute(INSERT, &[&"new", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("both", LIMIT, |s| s.accepted.len() == 2).await;
    Ok(())
}
