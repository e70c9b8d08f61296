//! A publisher that is watched: what it accepted, when, and what that cost.

use crate::measure::{Cost, Meter};
use anyhow::{Context, Result};
use relay::publish::schedule::BatchLimits;
use relay::publish::{Outcome, Outgoing, Publisher};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;
use tokio::sync::Notify;
use uuid::Uuid;

/// Hands batches on to a publisher and takes note of what it accepted.
#[derive(Clone, Debug)]
pub(crate) struct Watched<P> {
    inner: P,
    watch: Arc<Watch>,
}

#[derive(Debug)]
pub(crate) struct Watch {
    awaited: u64,
    accepted: AtomicU64,
    requests: AtomicU64,
    reached: Notify,
    /// Starts with the first batch: connecting is not part of the measurement.
    meter: OnceLock<Option<Meter>>,
    /// Set with the last of the awaited events.
    cost: OnceLock<Option<Cost>>,
    /// When each event was accepted, where that is asked for.
    seen: Option<Mutex<Vec<(Uuid, SystemTime)>>>,
}

impl<P> Watched<P> {
    /// Watches for so many events; with `clocked` it notes the time of each.
    pub(crate) fn new(inner: P, awaited: u64, clocked: bool) -> Self {
        let room = usize::try_from(awaited).unwrap_or(0);
        let watch = Watch {
            awaited,
            accepted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            reached: Notify::new(),
            meter: OnceLock::new(),
            cost: OnceLock::new(),
            seen: clocked.then(|| Mutex::new(Vec::with_capacity(room))),
        };
        Self { inner, watch: Arc::new(watch) }
    }

    pub(crate) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }
}

impl Watch {
    /// Ready once all awaited events were accepted.
    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }

    /// What it took from the first batch to the last answer, and how many requests.
    pub(crate) fn cost(&self) -> Option<(Cost, u64)> {
        Some(((*self.cost.get()?)?, self.requests.load(Ordering::Relaxed)))
    }

    /// Writes for each event a line with its id and the microsecond it was accepted in.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let file = std::fs::File::create(file).context("write what was seen")?;
        let mut file = std::io::BufWriter::new(file);
        let seen = self.seen.as_ref().context("no times were noted")?;
        let seen = seen.lock().map_err(|_| anyhow::anyhow!("a sink failed"))?;
        for (id, at) in &*seen {
            let micros = at.duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
            writeln!(file, "{id} {micros}")?;
        }
        file.flush()?;
        Ok(())
    }

    fn answered(&self, batch: &[&Outgoing], outcomes: &[Outcome]) {
        let entries = batch.iter().zip(outcomes);
        let accepted = entries.filter(|(_, outcome)| **outcome == Outcome::Accepted);
        let more = if let Some(seen) = &self.seen
            && let Ok(mut seen) = seen.lock()
        {
            let (now, before) = (SystemTime::now(), seen.len());
            seen.extend(accepted.map(|(entry, _)| (entry.event.event_id, now)));
            seen.len() - before
        } else {
            accepted.count()
        };
        let more = more as u64;
        let before = self.accepted.fetch_add(more, Ordering::Relaxed);
        if before < self.awaited && before + more >= self.awaited {
            let meter = self.meter.get().and_then(Option::as_ref);
            self.cost.get_or_init(|| meter?.read().ok());
            self.reached.notify_one();
        }
    }
}

impl<P: Publisher> Publisher for Watched<P> {
    async fn publish(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        self.watch.meter.get_or_init(|| Meter::start().ok());
        self.watch.requests.fetch_add(1, Ordering::Relaxed);
        let outcomes = self.inner.publish(batch).await;
        self.watch.answered(batch, &outcomes);
        outcomes
    }

    fn limits(&self) -> BatchLimits {
        self.inner.limits()
    }

    async fn learn_limits(&self) -> Result<(), relay::publish::DestinationError> {
        self.inner.learn_limits().await
    }

    fn is_known(&self) -> bool {
        self.inner.is_known()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
