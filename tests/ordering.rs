//! Order per key, no loss, and nothing in flight twice, through a broker that misbehaves.

use crate::harness::{LIMIT, World, member};
use anyhow::Result;
use local::orders::{SHOP, Workload, Written, write};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tests::broker::{Fault, State};

/// The versions of each key, by first acceptance, must count up from 1.
pub(crate) fn out_of_order(state: &State) -> Vec<String> {
    let (mut seen, mut last) = (HashSet::new(), HashMap::new());
    let mut wrong = Vec::new();
    for accepted in &state.accepted {
        if !seen.insert(accepted.entry.deduplication.clone()) {
            continue;
        }
        let key = accepted.entry.group.clone().unwrap_or_default();
        let version = member(accepted, "aggregate_version").as_i64().unwrap_or(0);
        let before = last.insert(key.clone(), version).unwrap_or(0);
        if version != before + 1 {
            wrong.push(format!("{key}: {version} after {before}"));
        }
    }
    wrong
}

#[tokio::test]
async fn faults_of_the_broker_lose_nothing_and_reorder_nothing() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client.batch_execute(SHOP).await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    world.broker.misbehave(7, 30);
    let workload = Workload {
        url: world.postgres.url(&world.database),
        connections: 4,
        orders: 150,
        customers: 0,
        time: None,
        seed: 7,
        pause: Duration::ZERO,
        most_behind: u64::MAX,
    };
    write(&workload, Arc::new(Written::default())).await?;
    let committed: i64 = client.query_one("select count(*) from relay.outbox", &[]).await?.get(0);
    let distinct = |s: &State| {
        s.accepted.iter().map(|a| a.entry.deduplication.clone()).collect::<HashSet<_>>().len()
    };
    world.broker.wait("every event", LIMIT, |s| i64::try_from(distinct(s)) == Ok(committed)).await;
    assert!(relay.terminate(LIMIT).await?.success());
    let state = world.broker.state();
    assert_eq!(out_of_order(&state), Vec::<String>::new());
    assert_eq!(state.violations, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_failed_entry_holds_back_its_own_key_only() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let failing =
        |_| Fault::FailEntries { places: vec![0], code: "InternalError", sender_fault: false };
    let client = world.client().await?;
    client
        .batch_execute(
            "insert into relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type, data)
             select 'order', 'k' || k, v, 'order.created', '{}' from generate_series(1, 3) as v, generate_series(1, 5) as k order by v, k",
        )
        .await?;
    world.broker.script((0..3).map(failing));
    let _relay = world.run(&topic).await?;
    world.broker.wait("15 events", LIMIT, |s| s.accepted.len() == 15).await;
    let state = world.broker.state();
    assert_eq!(out_of_order(&state), Vec::<String>::new());
    assert_eq!(state.violations, Vec::<String>::new());
    Ok(())
}
