//! Long transactions, wide rows and large values: correct, in order, and in bounded memory.

use crate::harness::{INSERT, LIMIT, World, member};
use crate::memory::{peak, resident};
use anyhow::Result;
use local::process::Process;
use local::stack::binary;
use std::collections::HashMap;
use std::process::Command;

/// The budget that these tests give the relay, in MiB.
const BUDGET: u64 = 4;

fn start(world: &World, topic: &str) -> Result<Process> {
    let mut command = world.relay(topic);
    command.arg("run").env("RELAY_BYTES_IN_FLIGHT", format!("{BUDGET}MiB"));
    world.start(command)
}

#[tokio::test]
async fn a_transaction_of_a_million_rows_needs_no_more_memory_than_a_small_one() -> Result<()> {
    const ROWS: usize = 1_000_000;
    let world = World::new().await?;
    let client = world.client().await?;
    let rows = format!(
        "select count(relay.write_message('relay.event', convert_to(format(
            '{{\"event_id\":\"%s\",\"recorded_at\":\"2026-01-15T10:30:00Z\",\"aggregate_type\":\"order\",\"aggregate_id\":\"k%s\",
              \"event_type\":\"order.created\",\"event_version\":\"1.0\",\"data\":{{\"n\":%s}},\"metadata\":{{}}}}',
            gen_random_uuid(), n % 1000, n), 'UTF8'))) from generate_series(1, {ROWS}) as n"
    );
    client.batch_execute(&rows).await?;
    // The whole path but the sending, which would take minutes: the null sink of the benchmark.
    let mut command = Command::new(binary("bench")?);
    command.args([
        "client",
        "relay",
        "--slot",
        "relay",
        "--publication",
        "relay",
        "--peak",
        "--url",
    ]);
    command.arg(world.postgres.url(&world.database)).args(["--events", &ROWS.to_string()]);
    let mut relay = world.start(command)?;
    let ended = relay.ended(LIMIT * 3).await?;
    assert!(ended.success(), "{}", relay.log());
    let peak: u64 = relay.log().trim().rsplit(' ').next().unwrap_or_default().parse()?;
    println!("peak {peak} MiB");
    assert!(peak < 32 + 16, "expected less than the budget of 32 MiB and 16, found {peak}");
    Ok(())
}

#[tokio::test]
async fn a_thousand_concurrent_transactions_come_whole_and_in_order() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = start(&world, &topic)?;
    relay.said("streaming", LIMIT).await?;
    let before = resident(relay.id())?;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..50 {
        let client = world.client().await?;
        writers.spawn(async move {
            for n in 0..20_i64 {
                let key = format!("k{writer}");
                client.execute(INSERT, &[&key, &(n + 1), &"order.created", &"{}"]).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    world.broker.wait("a thousand events", LIMIT, |s| s.accepted.len() == 1000).await;
    let mut versions: HashMap<String, Vec<i64>> = HashMap::new();
    for accepted in &world.broker.state().accepted {
        let id = member(accepted, "aggregate_id").to_string();
        versions
            .entry(id)
            .or_default()
            .push(member(accepted, "aggregate_version").as_i64().unwrap());
    }
    assert_eq!(versions.len(), 50);
    assert!(versions.values().all(|v| *v == (1..=20).collect::<Vec<i64>>()), "{versions:?}");
    let peak = peak(relay.id())?;
    println!("before {before} MiB, peak {peak} MiB");
    // The program itself, its pages of the file included, is not what is judged here.
    let most = before + BUDGET + 8;
    assert!(peak < most, "expected less than {most} MiB, found {peak}");
    Ok(())
}

#[tokio::test]
async fn a_table_of_1600_columns_comes_whole() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    let columns =
        |each: &dyn Fn(usize) -> String| (1..1600).map(each).collect::<Vec<_>>().join(", ");
    let table = columns(&|n| format!("c{n} int"));
    client.batch_execute(&format!("create table wide (id int primary key, {table})")).await?;
    let init = world.relay("").arg("init").env("RELAY_TABLES", "public.wide").output()?;
    assert!(init.status.success(), "{}", crate::harness::text(&init));
    let values = columns(&|n| n.to_string());
    client
        .batch_execute(&format!("insert into wide values (0, {values}); update wide set c1599 = 0"))
        .await?;
    let topic = world.broker.topic("wide.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_TABLES", "public.wide");
    let _relay = world.start(command)?;
    world.broker.wait("both", LIMIT, |s| s.accepted.len() == 2).await;
    let after = member(&world.broker.state().accepted[1], "data")["after"].clone();
    assert_eq!(after.as_object().map(serde_json::Map::len), Some(1600));
    assert_eq!(
        (&after["c1"], &after["c1598"], &after["c1599"]),
        (&1.into(), &1598.into(), &0.into())
    );
    Ok(())
}

#[tokio::test]
async fn a_value_of_50_mb_is_set_aside_by_its_size_and_holds_up_nothing() -> Result<()> {
    const MB: usize = 50;
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute("create table blob (id int primary key, body text)").await?;
    let init = world.relay("").arg("init").env("RELAY_TABLES", "public.blob").output()?;
    assert!(init.status.success(), "{}", crate::harness::text(&init));
    let topic = world.broker.topic("orders.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_BYTES_IN_FLIGHT", "4MiB").env("RELAY_TABLES", "public.blob");
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    let before = resident(relay.id())?;
    client
        .batch_execute(&format!(
            "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
             values ('order', 'big', 'order.created', to_json(repeat('x', {MB} * 1000000)));
             insert into blob values (7, repeat('y', {MB} * 1000000));
             insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
             values ('order', 'big', 'order.paid', '{{}}')"
        ))
        .await?;
    world.broker.wait("the event behind them", LIMIT, |s| s.accepted.len() == 1).await;
    assert_eq!(member(&world.broker.state().accepted[0], "event_type"), "order.paid");
    world.until(&client, "select count(*) = 2 from relay.dead_letter").await?;
    let sql = "select key, event_type, reason, body, event_id is not null from relay.dead_letter order by position";
    let rows = client.query(sql, &[]).await?;
    let told: Vec<(String, String, String, bool)> =
        rows.iter().map(|r| (r.get(0), r.get(1), r.get(3), r.get(4))).collect();
    let letter = |key: &str, kind: &str| (key.to_owned(), kind.to_owned(), String::new(), true);
    assert_eq!(told, [letter("/order/big", "order.created"), letter("/blob/7", "blob.created")]);
    let reason: String = rows[0].get(2);
    assert!(
        reason.contains("at most 1048576 bytes") && reason.contains("in its own table"),
        "{reason}"
    );
    let (peak, after) = (peak(relay.id())?, resident(relay.id())?);
    println!("before {before} MiB, peak {peak} MiB, after {after} MiB");
    assert!(
        peak < before + 50 + BUDGET + 16,
        "expected it to be held once, found a peak of {peak} MiB"
    );
    // The rest was read after it, so the memory is free by now.
    assert!(after < before + BUDGET + 16, "expected the memory back, found {after} MiB");
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
