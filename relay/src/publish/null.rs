//! A sink that accepts everything and sends nothing, to measure the path up to it.

use super::schedule::BatchLimits;
use super::{Outcome, Outgoing, Publisher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Counts what it is given, and tells when it was so many.
#[derive(Clone, Debug)]
pub struct Null {
    accepted: Arc<AtomicU64>,
    awaited: u64,
    reached: Arc<Notify>,
}

impl Null {
    /// A sink that waits for this many events.
    #[must_use]
    pub fn until(events: u64) -> Self {
        Self { accepted: Arc::default(), awaited: events, reached: Arc::default() }
    }

    /// Ready once that many events came.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }
}

impl Publisher for Null {
    async fn publish(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        let more = batch.len() as u64;
        let before = self.accepted.fetch_add(more, Ordering::Relaxed);
        if before < self.awaited && before + more >= self.awaited {
            self.reached.notify_one();
        }
        vec![Outcome::Accepted; batch.len()]
    }

    /// Those of an SNS topic.
    fn limits(&self) -> BatchLimits {
        BatchLimits::of_aws(Some(256 * 1024))
    }

    fn name(&self) -> &str {
        "null"
    }
}
