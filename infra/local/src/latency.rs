//! How long events took, from the commit times that the databases keep.

use anyhow::{Context, Result};
use std::collections::HashMap;
use time::OffsetDateTime;
use tokio_postgres::Client;
use uuid::Uuid;

/// Latencies and throughput of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Events measured.
    pub events: usize,
    /// From commit until the queue received the message, milliseconds: median and 99th percentile.
    pub published: (f64, f64),
    /// From commit until the effect was committed, milliseconds: median and 99th percentile.
    pub projected: (f64, f64),
    /// Events from the first commit to the last effect, per second.
    pub throughput: f64,
}

/// Measures; both databases must have `track_commit_timestamp` on.
///
/// # Errors
/// When a database cannot be read.
pub async fn measure(shop: &Client, read_model: &Client) -> Result<Latency> {
    let sql = "select event_id, pg_xact_commit_timestamp(xmin) from relay.outbox";
    let rows = shop.query(sql, &[]).await.context("read the commit times of the outbox")?;
    let committed: HashMap<Uuid, OffsetDateTime> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let sql = "select event_id, sent_at, pg_xact_commit_timestamp(xmin) from relay.inbox where projection = 'order_summary'";
    let rows = read_model.query(sql, &[]).await.context("read the commit times of the inbox")?;
    let (mut published, mut projected) = (Vec::new(), Vec::new());
    let mut last: Option<OffsetDateTime> = None;
    for row in &rows {
        let Some(commit) = committed.get(&row.get(0)) else {
            continue;
        };
        let effect: OffsetDateTime = row.get(2);
        // The queue's clock counts in milliseconds: what it cuts off can fall before the commit.
        let milliseconds =
            |until: OffsetDateTime| ((until - *commit).as_seconds_f64() * 1000.0).max(0.0);
        published.extend(row.get::<_, Option<OffsetDateTime>>(1).map(milliseconds));
        projected.push(milliseconds(effect));
        last = last.max(Some(effect));
    }
    let first = committed.values().min();
    let seconds = first.zip(last).map_or(0.0, |(first, last)| (last - *first).as_seconds_f64());
    let events = projected.len();
    #[expect(clippy::cast_precision_loss, reason = "a count of events is far below 2^52")]
    let throughput = if seconds > 0.0 { events as f64 / seconds } else { 0.0 };
    Ok(Latency {
        events,
        published: percentiles(published),
        projected: percentiles(projected),
        throughput,
    })
}

/// The median and the 99th percentile.
fn percentiles(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |hundredths: usize| {
        values.get((values.len() * hundredths / 100).min(values.len().saturating_sub(1)))
    };
    (at(50).copied().unwrap_or(0.0), at(99).copied().unwrap_or(0.0))
}
