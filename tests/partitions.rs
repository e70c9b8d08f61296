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
    // One without an upper end has every day to come, whatever its name says.
    client
        .batch_execute(
            "do $$ declare leaf regclass; begin
               for leaf in select inhrelid from pg_inherits where inhparent = 'relay.outbox'::regclass
                 and inhrelid <> 'relay.outbox_default'::regclass
               loop execute format('drop table %s', leaf); end loop;
             end $$;
             create table relay.outbox_20200101 partition of relay.outbox
             for values from ('2020-01-01 00:00:00+00') to (maxvalue)",
        )
        .await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    let steps = client.query("select relay.maintain_outbox(confirmed => now())", &[]);
    assert!(steps.await?.is_empty());
    let rows = "select count(*) from relay.outbox_20200101";
    assert_eq!(client.query_one(rows, &[]).await?.get::<_, i64>(0), 1);
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

#[tokio::test]
async fn upkeep_beside_a_reader_makes_no_insert_wait_and_each_partition_is_its_own() -> Result<()> {
    let world = World::new().await?;
    let (client, mut reader) = (world.client().await?, world.client().await?);
    for day in 1..=21 {
        let sql = format!(
            "create table relay.outbox_202001{day:02} partition of relay.outbox
             for values from ('2020-01-{day:02} 00:00:00+00') to ('2020-01-{day:02} 12:00:00+00')"
        );
        client.batch_execute(&sql).await?;
    }
    // No date, and a hand-made one that overlaps a day to come.
    client
        .batch_execute(
            "create table relay.outbox_20209999 partition of relay.outbox for values from ('2020-03-01 00:00:00+00') to ('2020-03-02 00:00:00+00');
             insert into relay.outbox (recorded_at, aggregate_type, aggregate_id, event_type, data)
             select d, 'order', 'o', 'order.created', '{}' from unnest('{2020-01-01 06:00+00, 2020-06-01 06:00+00}'::timestamptz[]) as d;
             do $$ begin execute format('create table relay.mine partition of relay.outbox for values from (%L) to (%L)', current_date + 20, current_date + 22); end $$",
        )
        .await?;
    let reading = reader.transaction().await?;
    reading.query("select from relay.outbox", &[]).await?;

    // Held by the reader: nothing is waited for, an insert of another session has no lock before it.
    let step = "select step, what from relay.maintain_outbox(9, confirmed => now())";
    let waits = "select set_config('lock_timeout', '10ms', false)";
    client.query(waits, &[]).await?;
    let upkeep = world.client().await?;
    for _ in 0..4 {
        let (done, written) = tokio::join!(
            upkeep.query(step, &[]),
            client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"])
        );
        let (done, _) = (done?, written?);
        for row in done {
            assert_ne!(row.get::<_, &str>(0), "drop");
        }
    }
    let deleted = "select count(*) = 0 from relay.outbox_default";
    assert!(client.query_one(deleted, &[]).await?.get::<_, bool>(0), "the default one is emptied");
    reading.rollback().await?;
    let left = "select count(*) = 0 from pg_class where relname ~ '^outbox_2020'";
    // Six calls, and some more where the server's own vacuum holds a partition for a moment.
    for _ in 0..12 {
        upkeep.query(step, &[]).await?;
    }
    assert!(client.query_one(left, &[]).await?.get::<_, bool>(0), "all are dropped");
    Ok(())
}

#[tokio::test]
async fn every_function_of_ours_is_safe_by_itself_under_any_search_path() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let output = world
        .relay("")
        .args(["init", "--read-model"])
        .env("READ_MODEL_URL", world.postgres.url(&world.database))
        .output()?;
    assert!(output.status.success(), "{}", crate::harness::text(&output));
    let careless = "select p.oid::regprocedure::text from pg_proc as p join pg_language as l on l.oid = p.prolang
        where p.pronamespace = 'relay'::regnamespace and l.lanname in ('sql', 'plpgsql') and p.prosqlbody is null
          and not (p.proname = 'emit' and l.lanname = 'sql') -- inlined, and qualified to the last name
          and not 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))";
    let careless = client.query(careless, &[]).await?;
    let careless: Vec<String> = careless.iter().map(|row| row.get(0)).collect();
    assert!(careless.is_empty(), "{careless:?}");
    Ok(())
}

/// The relay's bounds and the table's are the same, in the locale C too.
#[tokio::test]
async fn a_name_is_a_name_in_every_locale_and_to_the_relay() -> Result<()> {
    let world = World::new().await?;
    let names: Vec<String> = ["commande.créée", "", "a b", "注文", "a\u{a0}b", "\u{85}", "\u{7f}"]
        .into_iter()
        .map(str::to_owned)
        .chain((1..128_u8).map(|byte| format!("a{}", char::from(byte))))
        .chain((80..90).map(|n| "文".repeat(n)))
        .chain((120..130).map(|n| "é".repeat(n)))
        .chain((250..260).map(|n| "n".repeat(n)))
        .collect();
    let server = world.postgres.connect("postgres").await?;
    let c = "create database c template template0 encoding 'UTF8' locale 'C'";
    server.batch_execute(c).await?;
    let output = world
        .relay("")
        .arg("init")
        .env("DATABASE_URL", world.postgres.url("c"))
        .env("RELAY_SLOT", "c")
        .output()?;
    assert!(output.status.success(), "{}", crate::harness::text(&output));
    for database in ["c", &world.database] {
        let client = world.postgres.connect(database).await?;
        let sql = "select n, relay.is_name(n) from unnest($1::text[]) as n";
        for row in client.query(sql, &[&names]).await? {
            let (name, is): (&str, bool) = (row.get(0), row.get(1));
            assert_eq!(is, relay::bounds::is_name(name), "{name:?} in {database}");
        }
    }
    Ok(())
}
