//! Memory is bounded: a large transaction needs no more than a small one.

use crate::harness::{LIMIT, World};
use anyhow::{Context, Result};

/// The most memory that a process ever had resident, in MiB.
pub(crate) fn peak(process: u32) -> Result<u64> {
    status(process, "VmHWM:")
}

/// The memory that a process has resident now, in MiB.
pub(crate) fn resident(process: u32) -> Result<u64> {
    status(process, "VmRSS:")
}

fn status(process: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("expected {name} of the process"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? / 1024)
}

#[tokio::test]
async fn a_transaction_larger_than_the_budget_is_published_within_it() -> Result<()> {
    const ROWS: usize = 40_000;
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    // 80 MB in one transaction, through a budget of 4 MiB.
    let rows = format!(
        "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
         select 'order', 'k' || n % 500, 'order.created', to_json(repeat('x', 2000)) from generate_series(1, {ROWS}) as n"
    );
    client.batch_execute(&rows).await?;
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_BYTES_IN_FLIGHT", "4MiB");
    let mut relay = world.start(command)?;
    world.broker.wait("all rows", LIMIT * 3, |s| s.accepted.len() == ROWS).await;
    let peak = peak(relay.id())?;
    println!("peak {peak} MiB");
    assert!(peak < 64, "expected less than 64 MiB, found {peak}");
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
