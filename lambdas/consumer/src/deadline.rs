//! The end of a delivery.
//!
//! Knows: that a host which can hold its messages for longer moves the end. Must not know: how it
//! holds them, what is done until then.

use std::future::{Future, pending};
use tokio::sync::watch;
use tokio::time::Instant;

/// The end came before the work was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Passed;

/// When the work must be done: the earlier of an end that stands and one that may move.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadline {
    fixed: Option<Instant>,
    moving: Option<watch::Receiver<Instant>>,
}

impl Deadline {
    /// One that stands, if there is one.
    pub(crate) fn fixed(at: Option<Instant>) -> Self {
        Self { fixed: at, moving: None }
    }

    /// One that its host moves, until `last` at most.
    #[cfg(feature = "poll")]
    pub(crate) fn moving(held: watch::Receiver<Instant>, last: Instant) -> Self {
        Self { fixed: Some(last), moving: Some(held) }
    }

    /// When it is, as far as is known now.
    pub(crate) fn at(&self) -> Option<Instant> {
        let moving = self.moving.as_ref().map(|moving| *moving.borrow());
        [self.fixed, moving].into_iter().flatten().min()
    }

    /// When it is at the latest, however its host moves it.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.fixed.or_else(|| self.at())
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.at().is_some_and(|at| at <= Instant::now())
    }

    /// Half of the time: for the batch as a whole, the rest is for its events one by one.
    pub(crate) fn half_way(&self) -> Self {
        let now = Instant::now();
        let fixed = self.fixed.map(|last| now + last.saturating_duration_since(now) / 2);
        Self { fixed, moving: self.moving.clone() }
    }

    /// Does the work, or drops it where it stands when the end comes first.
    pub(crate) async fn before<T, E: From<Passed>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.passed() => Err(Passed.into()),
        }
    }

    async fn passed(&self) {
        while let Some(at) = self.at() {
            tokio::time::sleep_until(at).await;
            // It may have been moved meanwhile, to a later time.
            if self.has_passed() {
                return;
            }
        }
        pending::<()>().await;
    }
}

#[cfg(all(test, feature = "poll"))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn an_end_that_is_moved_is_waited_for_and_never_beyond_the_last() {
        let began = Instant::now();
        let after = |milliseconds| began + Duration::from_millis(milliseconds);
        let (hold, held) = watch::channel(after(20));
        let deadline = Deadline::moving(held, after(200));
        assert_eq!(deadline.at(), Some(after(20)));
        hold.send_replace(after(100));
        deadline.passed().await;
        assert!(Instant::now() >= after(100));
        hold.send_replace(after(60_000));
        assert_eq!(deadline.at(), Some(after(200)));
        let work = pending::<Result<(), Passed>>();
        assert_eq!(deadline.before(work).await, Err(Passed));
        assert!(deadline.has_passed());
    }

    #[tokio::test]
    async fn without_an_end_there_is_always_time() {
        let deadline = Deadline::fixed(None);
        assert_eq!(deadline.half_way().at(), None);
        assert!(!deadline.has_passed());
        assert_eq!(deadline.before(async { Ok::<_, Passed>(1) }).await, Ok(1));
    }
}
