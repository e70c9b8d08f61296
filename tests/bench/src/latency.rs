//! From commit to the sink, or to the broker's answer, at a steady pace.

use crate::clients::Reader;
use crate::load::{Source, connections};
use crate::measure::Cost;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;
use uuid::Uuid;

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) rate: u32,
    pub(crate) reached: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// The relay's most memory, in bytes.
    pub(crate) peak: u64,
}

/// Writes at this pace while the reader reads, and compares each event's arrival with the
/// time that the server gave its commit: at the null sink, or accepted by the broker. What is
/// committed in the first `warm_up` seconds is written and not counted.
pub(crate) async fn at(
    source: &Source,
    keys: u32,
    rate: u32,
    seconds: u32,
    warm_up: u32,
    reader: Reader<'_>,
) -> Result<Latency> {
    let all = warm_up + seconds;
    source.client.batch_execute("truncate relay.outbox; checkpoint").await?;
    source.make_slot("latency").await?;
    let folder = tempfile::tempdir()?;
    let seen = folder.path().join("seen");
    let events = rate / connections(rate) * connections(rate) * all;
    let mut relay = reader
        .command(&source.url(), "latency", events, Some(&seen))?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the relay")?;
    let streams = "select count(*) = 1 from pg_stat_replication where state = 'streaming'";
    while !source.client.query_one(streams, &[]).await?.get::<_, bool>(0) {
        ensure!(relay.try_wait()?.is_none(), "the relay ended early");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = std::time::Instant::now();
    source.pace(rate, all, keys).await?;
    let reached = f64::from(events) / began.elapsed().as_secs_f64();
    let (cost, _) = Cost::told(&relay.wait_with_output()?)?;
    source.drop_slot("latency").await?;
    let compared = compare(source, &std::fs::read_to_string(&seen)?).await?;
    let first = compared.iter().map(|(committed, _)| *committed).min().unwrap_or(0);
    let counted = compared.iter().filter(|(at, _)| at - first >= i64::from(warm_up) * 1_000_000);
    let mut late: Vec<i64> = counted.map(|(_, late)| *late).collect();
    ensure!(!late.is_empty(), "expected events after {warm_up} s, found none");
    late.sort_unstable();
    let percentile = |p: usize| -> f64 {
        let micros = late.get((late.len() * p / 100).min(late.len() - 1)).copied().unwrap_or(0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64() * 1000.0
    };
    Ok(Latency { rate, reached, p50: percentile(50), p99: percentile(99), peak: cost.peak })
}

/// When each event was committed and how much later it arrived, in microseconds.
async fn compare(source: &Source, seen: &str) -> Result<Vec<(i64, i64)>> {
    const SQL: &str =
        "select event_id, (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint
        from relay.outbox";
    let rows = source.client.query(SQL, &[]).await?;
    let committed: HashMap<Uuid, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let late = seen.lines().map(|line| {
        let (id, at) = line.split_once(' ').context("a line without a time")?;
        let committed = committed.get(&id.parse()?).context("an event that no one wrote")?;
        anyhow::Ok((*committed, at.parse::<i64>()? - committed))
    });
    let late = late.collect::<Result<Vec<_>>>()?;
    ensure!(
        late.len() == committed.len(),
        "expected {} events, found {}",
        committed.len(),
        late.len()
    );
    Ok(late)
}
