//! Signs of life of the pipeline, for who watches over it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Written by the pipeline, read by the HTTP server.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// When the pipeline last went round, in milliseconds since `began`.
    beat: AtomicU64,
    streaming: AtomicBool,
}

/// A pipeline that has not gone round for so long hangs: it does so at least once a second.
const LIMIT: Duration = Duration::from_secs(15);

impl Default for Pulse {
    fn default() -> Self {
        Self { began: Instant::now(), beat: AtomicU64::new(0), streaming: AtomicBool::new(false) }
    }
}

impl Pulse {
    /// The pipeline went round; whether a session with Postgres streams.
    pub fn beat(&self, streaming: bool) {
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(at, Ordering::Relaxed);
        self.streaming.store(streaming, Ordering::Relaxed);
    }

    /// How long ago that was.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(beat)
    }

    /// Why it is not alive, if it is not.
    #[must_use]
    pub fn hangs(&self) -> Option<&'static str> {
        (self.silence() > LIMIT).then_some("the pipeline hangs: restart the relay")
    }

    /// Why it is not ready, if it is not; what blocks it stands in the conditions.
    #[must_use]
    pub fn waits(&self) -> Option<&'static str> {
        let streaming = self.streaming.load(Ordering::Relaxed);
        (!streaming).then_some("no session with Postgres streams: see `relay status` and the log")
    }
}
