//! What the pages say of captured tables, slots and the outbox where the answer is not plain:
//! partitions, composite keys, keys that change, rows from before, repeated inserts, a lost slot.

use crate::harness::{INSERT, LIMIT, World, member, text};
use anyhow::{Result, ensure};
use local::process::Process;
use serde_json::{Value, json};
use tests::broker::{Accepted, State};

const SLOTS: &str = include_str!("../relay/docs/slots.md");
const TABLES: &str = include_str!("../relay/docs/tables.md");
const OUTBOX: &str = include_str!("../relay/docs/outbox.md");

/// The only block of a page that has this name after `sql`.
fn sql(page: &'static str, name: &str) -> &'static str {
    let blocks = crate::readme::blocks_of(page, &format!("sql {name}"));
    assert_eq!(blocks.len(), 1, "sql {name}");
    blocks[0]
}

/// A world that captures this table, made by this SQL, and its relay.
async fn capture(table: &str, sql: &str) -> Result<(World, Process)> {
    let world = World::bare(&[]).await?;
    world.client().await?.batch_execute(sql).await?;
    let init = world.relay("").arg("init").env("RELAY_TABLES", table).output()?;
    ensure!(init.status.success(), "{}", text(&init));
    let mut command = world.relay(&world.broker.topic("tables.fifo"));
    command.arg("run").env("RELAY_TABLES", table);
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    Ok((world, relay))
}

fn accepted(state: &State) -> Vec<&Accepted> {
    let mut accepted: Vec<_> = state.accepted.iter().collect();
    // Of one change the deletion is before the creation.
    accepted.sort_by_key(|a| {
        let kind = member(a, "event_type").to_string();
        (member(a, "position").to_string(), kind.contains("created"))
    });
    accepted
}

/// Type and key of so many events, in the order of the log, the last of which has this key.
async fn told(world: &World, count: usize, last: &str) -> Vec<String> {
    let is_last = |a: &Accepted| member(a, "aggregate_id") == last;
    let all = |s: &State| s.accepted.len() >= count && s.accepted.iter().any(is_last);
    world.broker.wait("the last event", LIMIT, all).await;
    let state = world.broker.state();
    let text = |a: &Accepted, name| member(a, name).as_str().unwrap_or_default().to_owned();
    accepted(&state)
        .into_iter()
        .map(|a| format!("{} {}", text(a, "event_type"), text(a, "aggregate_id")))
        .collect()
}

const READINGS: &str = "
    create table reading (id int, day date, n int, primary key (id, day)) partition by range (day);
    create table reading_1 partition of reading for values from ('2026-01-01') to ('2026-02-01');
    create table reading_2 partition of reading for values from ('2026-02-01') to ('2026-03-01');
    create table reading_3 partition of reading for values from ('2026-03-01') to ('2026-04-01');";

#[tokio::test]
async fn what_becomes_of_a_partition_is_no_event_and_of_the_whole_table_one() -> Result<()> {
    let (world, _relay) = capture("public.reading", READINGS).await?;
    let client = world.client().await?;
    // Each of these takes rows away or brings some, and none is an event.
    client
        .batch_execute(
            "insert into reading values (1, '2026-01-01'), (2, '2026-02-01'), (3, '2026-03-01');
             truncate reading_1;
             alter table reading detach partition reading_2;
             insert into reading_2 values (4, '2026-02-02');
             delete from reading_2 where id = 4;
             insert into reading_2 values (5, '2026-02-03');
             alter table reading attach partition reading_2 for values from ('2026-02-01') to ('2026-03-01');
             drop table reading_3;
             truncate reading_2;",
        )
        .await?;
    // A row that moves to another partition, a change of a partition by its own name, the whole table.
    client
        .batch_execute(
            "insert into reading values (6, '2026-01-02', 1);
             update reading set n = 2 where id = 6;
             insert into reading_1 values (7, '2026-01-03');
             update reading set day = '2026-02-02' where id = 7;
             create table reading_4 (like reading including all);
             insert into reading_4 values (8, '2026-03-05');
             alter table reading attach partition reading_4 for values from ('2026-03-01') to ('2026-04-01');
             insert into reading values (10, '2026-03-06');
             truncate reading;
             insert into reading values (9, '2026-01-09')",
        )
        .await?;
    // A session with 14 goes by what it first found of a table: a detached partition is sent on, and
    // one that was written to before it was attached is not.
    let sql = "select current_setting('server_version_num')::int < 150000";
    let is_old: bool = client.query_one(sql, &[]).await?.get(0);
    let mut expected = vec![
        r#"reading.created ["1","2026-01-01"]"#,
        r#"reading.created ["2","2026-02-01"]"#,
        r#"reading.created ["3","2026-03-01"]"#,
    ];
    if is_old {
        expected.extend([
            r#"reading.created ["4","2026-02-02"]"#,
            r#"reading.deleted ["4","2026-02-02"]"#,
            r#"reading.created ["5","2026-02-03"]"#,
        ]);
    }
    expected.extend([
        r#"reading.created ["6","2026-01-02"]"#,
        r#"reading.updated ["6","2026-01-02"]"#,
        r#"reading.created ["7","2026-01-03"]"#,
        r#"reading.deleted ["7","2026-01-03"]"#,
        r#"reading.created ["7","2026-02-02"]"#,
    ]);
    if !is_old {
        expected.push(r#"reading.created ["10","2026-03-06"]"#);
    }
    expected.extend(["reading.truncated public.reading", r#"reading.created ["9","2026-01-09"]"#]);
    assert_eq!(told(&world, expected.len(), r#"["9","2026-01-09"]"#).await, expected);
    if is_old {
        attachments_are_said(&world, &client).await?;
    }
    Ok(())
}

/// The first look of the relay may come behind one attachment, and not behind all of them.
async fn attachments_are_said(world: &World, client: &tokio_postgres::Client) -> Result<()> {
    let deadline = std::time::Instant::now() + LIMIT;
    for year in 2030.. {
        // Two transactions.
        for sql in [
            format!("create table late_{year} (like reading including all)"),
            format!(
                "alter table reading attach partition late_{year}
                 for values from ('{year}-01-01') to ('{year}-02-01')"
            ),
        ] {
            client.batch_execute(&sql).await?;
        }
        let status = world.relay("").arg("status").output()?;
        if text(&status).contains("attached to it after it was made") {
            ensure!(status.status.code() == Some(1), "{}", text(&status));
            return Ok(());
        }
        ensure!(std::time::Instant::now() < deadline, "{}", text(&status));
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    unreachable!("years go on")
}

#[tokio::test]
async fn rows_that_are_deleted_before_their_partition_goes_are_events() -> Result<()> {
    let (world, _relay) = capture("public.reading", READINGS).await?;
    let client = world.client().await?;
    client.batch_execute("insert into reading values (1, '2026-01-01')").await?;
    client.batch_execute(sql(TABLES, "partition")).await?;
    client.batch_execute("insert into reading values (9, '2026-03-09')").await?;
    assert_eq!(
        told(&world, 3, r#"["9","2026-03-09"]"#).await,
        [
            r#"reading.created ["1","2026-01-01"]"#,
            r#"reading.deleted ["1","2026-01-01"]"#,
            r#"reading.created ["9","2026-03-09"]"#,
        ]
    );
    Ok(())
}

/// As the table on the page has it: the columns in the key's order, each as its text.
#[tokio::test]
async fn a_composite_key_is_an_array_of_texts_and_its_group_one_of_it() -> Result<()> {
    let (world, _relay) = capture(
        "public.line",
        r#"create table line (shop text, n int, day date, note text, primary key (shop, n, day))"#,
    )
    .await?;
    let client = world.client().await?;
    client
        .batch_execute("insert into line values ('a/b \"c\", é', 1, '2026-01-15', 'first')")
        .await?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    let state = world.broker.state();
    let event = &state.accepted[0];
    let key = r#"["a/b \"c\", é","1","2026-01-15"]"#;
    assert_eq!(member(event, "aggregate_id"), key);
    let cell = key.to_owned();
    let group = event.entry.group.clone().unwrap_or_default();
    // Not of 128 letters, digits and punctuation marks of ASCII: the hash.
    ensure!(group.starts_with("sha256:"), "{group}");
    ensure!(TABLES.contains(&format!("`{cell}`")), "the page does not show {cell}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_changes_beside_an_unchanged_toast_column_leaves_it_out_of_both_events()
-> Result<()> {
    for (identity, kept) in [("default", false), ("full", true)] {
        let (world, _relay) = capture(
            "public.page",
            &format!(
                "create table page (id int primary key, n int, body text);
                 alter table page alter body set storage external; alter table page replica identity {identity}"
            ),
        )
        .await?;
        let client = world.client().await?;
        client
            .batch_execute(
                "insert into page values (1, 1, repeat('long', 5000)); update page set id = 2",
            )
            .await?;
        assert_eq!(
            told(&world, 3, "2").await,
            ["page.created 1", "page.deleted 1", "page.created 2"]
        );
        let state = world.broker.state();
        let events = accepted(&state);
        let (deleted, created) = (events[1], events[2]);
        let data = |event: &Accepted, image: &str| member(event, "data")[image].clone();
        let unchanged = |event: &Accepted| member(event, "metadata")["unchanged"].clone();
        if kept {
            // The old row has it, and the new one gets it from there.
            assert_eq!(data(deleted, "before")["body"], json!("long".repeat(5000)));
            assert_eq!(data(created, "after")["body"], json!("long".repeat(5000)));
            assert_eq!(unchanged(created), Value::Null);
        } else {
            assert_eq!(data(deleted, "before"), json!({"id": 1}));
            assert_eq!(data(created, "after"), json!({"id": 2, "n": 1}));
            assert_eq!(unchanged(created), json!(["body"]));
        }
    }
    Ok(())
}

/// What was written again after a new slot: in order, each under its id and with its time.
fn came_again(world: &World, written: &[(String, String)]) {
    let state = world.broker.state();
    let events = accepted(&state);
    let kinds: Vec<_> = events
        .iter()
        .map(|a| member(a, "event_type").as_str().unwrap_or_default().to_owned())
        .collect();
    // What the new slot has sent comes once more, under its id.
    let expected =
        ["order.created", "order.created", "order.paid", "order.created", "customers.updated"];
    assert_eq!(kinds, expected);
    assert_eq!(events[3].entry.deduplication, events[0].entry.deduplication);
    for (event, (id, timestamp)) in events[1..3].iter().zip(written) {
        assert_eq!(member(event, "event_id"), **id);
        let told = member(event, "timestamp").as_str().unwrap_or_default().to_owned();
        assert_eq!(
            told.trim_end_matches('Z').trim_end_matches('0'),
            timestamp.trim_end_matches('Z').trim_end_matches('0')
        );
        assert_eq!(member(event, "aggregate_id"), "before");
    }
    assert_eq!(member(events[4], "data")["after"], json!({"id": 1, "name": "Ada"}));
}

#[tokio::test]
async fn rows_from_before_the_slot_are_no_events_until_they_are_written_again() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client
        .batch_execute("create table customers (id int primary key, name text); insert into customers values (1, 'Ada')")
        .await?;
    let init = || world.relay("").arg("init").env("RELAY_TABLES", "public.customers").output();
    assert!(init()?.status.success());
    // As after a lost slot: rows that no slot has seen, then a new one.
    let dropped = world.relay("").args(["drop", "--yes"]).output()?;
    assert!(dropped.status.success(), "{}", text(&dropped));
    for (version, kind) in [(1_i64, "order.created"), (2, "order.paid")] {
        client.execute(INSERT, &[&"before", &version, &kind, &"{}"]).await?;
    }
    let sql_time = "select event_id::text, to_char(recorded_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
        from relay.outbox order by position";
    let written: Vec<(String, String)> =
        client.query(sql_time, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let again = init()?;
    assert!(again.status.success(), "{}", text(&again));
    let mut command = world.relay(&world.broker.topic("orders.fifo"));
    command.arg("run").env("RELAY_TABLES", "public.customers");
    let _relay = world.start(command)?;
    client.execute(INSERT, &[&"after", &1_i64, &"order.created", &"{}"]).await?;
    let first = told(&world, 1, "after").await;
    assert_eq!(first, ["order.created after"], "nothing from before the slot came");

    let outbox =
        sql(SLOTS, "again").replace("'2026-01-15 10:00:00+00'", "now() - interval '1 hour'");
    assert_ne!(outbox, sql(SLOTS, "again"));
    client.batch_execute(&outbox).await?;
    client.batch_execute(sql(SLOTS, "touch")).await?;
    world.broker.wait("all of them", LIMIT, |s| s.accepted.len() >= 5).await;
    came_again(&world, &written);
    let rows: i64 = client.query_one("select count(*) from relay.outbox", &[]).await?.get(0);
    assert_eq!(rows, 3, "each row stands once");
    Ok(())
}

#[tokio::test]
async fn an_insert_that_is_repeated_under_its_id_is_one_event_and_no_constraint_says_so()
-> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let _relay = world.run(&world.broker.topic("orders.fifo")).await?;
    // The same statement twice, as a writer does that did not hear of its commit.
    for _ in 0..2 {
        client.batch_execute(sql(OUTBOX, "repeat")).await?;
    }
    client.execute(INSERT, &[&"last", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("all of them", LIMIT, |s| s.accepted.len() >= 3).await;
    let rows = "select count(*) from relay.outbox where aggregate_id = 'ord_123456'";
    assert_eq!(client.query_one(rows, &[]).await?.get::<_, i64>(0), 2);
    // The broker of the tests keeps what FIFO drops, by one deduplication id.
    let ids: Vec<_> =
        world.broker.state().accepted.iter().map(|a| a.entry.deduplication.clone()).collect();
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), different.len()), (3, 2));
    let letters = "select count(*) from relay.dead_letter";
    assert_eq!(client.query_one(letters, &[]).await?.get::<_, i64>(0), 0);
    // No arbiter, so `on conflict (event_id)` is refused, and without a target it keeps nothing out.
    let conflict = sql(OUTBOX, "repeat").trim_end().trim_end_matches(';');
    let error = client
        .batch_execute(&format!("{conflict} on conflict (event_id) do nothing"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INVALID_COLUMN_REFERENCE));
    client.batch_execute(&format!("{conflict} on conflict do nothing")).await?;
    assert_eq!(client.query_one(rows, &[]).await?.get::<_, i64>(0), 3);
    // One of ours, in the same transaction, decides whether the event is written at all.
    client
        .batch_execute("create table payment (payment_id uuid primary key, order_id text)")
        .await?;
    for _ in 0..2 {
        client.batch_execute(sql(OUTBOX, "once")).await?;
    }
    let rows = "select count(*) from relay.outbox where event_type = 'order.charged'";
    assert_eq!(client.query_one(rows, &[]).await?.get::<_, i64>(0), 1);
    Ok(())
}
