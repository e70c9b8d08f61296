//! Whether a destination is asked at all.
//!
//! Knows: how many requests in a row failed as a whole. Must not know: sockets, AWS, any clock
//! but the `now` that it is handed.
//!
//! Some failures in a row open it, or one that says that the destination itself is wrong; then
//! nothing is sent until a pause is over, and one request goes to try. It closes with the first
//! request that is answered.

use super::backoff;
use std::time::{Duration, Instant};

/// So many requests in a row fail before the destination is left alone.
pub const FAILURES_TO_OPEN: u32 = 5;

/// Whether a request may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gate {
    /// As many as there may be.
    Closed,
    /// One, to try.
    Probe,
    /// None before this.
    Open(Instant),
    /// None until the one that tries is answered.
    Waiting,
}

/// A change that an operator wants to know of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// Nothing is sent for so long, after so many failures in a row.
    Opened {
        /// How long.
        pause: Duration,
        /// How many.
        failures: u32,
        /// Whether it was open already: the request that tried failed too, which is no news.
        again: bool,
    },
    /// Events flow again.
    Closed,
}

/// The state of one destination.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Requests in a row that failed as a whole.
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

impl Breaker {
    /// Whether a request may go now.
    #[must_use]
    pub fn gate(&self, now: Instant) -> Gate {
        match self.open_until {
            None => Gate::Closed,
            Some(_) if self.probing => Gate::Waiting,
            Some(until) if until > now => Gate::Open(until),
            Some(_) => Gate::Probe,
        }
    }

    /// How many requests in a row failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Takes note that a request goes.
    pub fn sent(&mut self) {
        self.probing = self.open_until.is_some();
    }

    /// Takes note that a request was answered.
    pub fn answered(&mut self) -> Option<Turn> {
        let was_open = self.is_open();
        *self = Self::default();
        was_open.then_some(Turn::Closed)
    }

    /// Takes note that a request never reached the destination: another goes to try.
    pub fn not_asked(&mut self) {
        self.probing = false;
    }

    /// Takes note that a request failed as a whole; `wrong` says that the destination is not
    /// what it should be, so that trying more often cannot help. `random` is in `0.0..1.0`.
    pub fn failed(&mut self, wrong: bool, now: Instant, random: f64) -> Option<Turn> {
        self.failures = self.failures.saturating_add(1);
        // What was under way when it opened says nothing new.
        let is_late = self.open_until.is_some() && !self.probing;
        if is_late || !(wrong || self.is_open() || self.failures >= FAILURES_TO_OPEN) {
            return None;
        }
        let failures = self.failures;
        // Between half and all of it: a probe at once would not be a pause.
        let pause = backoff(failures, 0.5 + random / 2.0);
        let again = self.open_until.replace(now + pause).is_some();
        self.probing = false;
        Some(Turn::Opened { pause, failures, again })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_the_first_answer() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_TO_OPEN {
            assert_eq!(breaker.failed(false, now, 0.5), None);
        }
        assert_eq!(breaker.gate(now), Gate::Closed);
        let Some(Turn::Opened { pause, failures, again: false }) = breaker.failed(false, now, 0.5)
        else {
            panic!("expected it to open")
        };
        assert_eq!(failures, FAILURES_TO_OPEN);
        assert_eq!(breaker.gate(now), Gate::Open(now + pause));
        assert_eq!(breaker.failed(false, now, 0.5), None, "one that was under way");
        let later = now + pause;
        assert_eq!(breaker.gate(later), Gate::Probe);
        breaker.sent();
        assert_eq!(breaker.gate(later), Gate::Waiting);
        assert!(matches!(
            breaker.failed(false, later, 0.5),
            Some(Turn::Opened { again: true, .. })
        ));
        breaker.sent();
        assert_eq!(breaker.answered(), Some(Turn::Closed));
        assert_eq!((breaker.gate(later), breaker.failures()), (Gate::Closed, 0));
        assert_eq!(breaker.answered(), None);
    }

    #[test]
    fn a_destination_that_is_wrong_opens_it_at_once() {
        let mut breaker = Breaker::default();
        assert!(breaker.failed(true, Instant::now(), 0.0).is_some());
    }

    proptest! {
        /// Whatever happens, there comes a time when a request may go, or one is on its way.
        #[test]
        fn it_never_stays_shut(happened in proptest::collection::vec((0_u8..5, 0_u64..30_000), 0..100)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            for (what, millis) in happened {
                now += Duration::from_millis(millis);
                match what {
                    0 => drop(breaker.answered()),
                    1 => drop(breaker.failed(false, now, 0.9)),
                    2 => drop(breaker.failed(true, now, 0.1)),
                    3 => breaker.not_asked(),
                    _ => if matches!(breaker.gate(now), Gate::Closed | Gate::Probe) { breaker.sent() },
                }
                match breaker.gate(now) {
                    Gate::Closed | Gate::Probe | Gate::Waiting => {}
                    Gate::Open(until) => {
                        prop_assert!(until <= now + Duration::from_secs(20));
                        prop_assert_eq!(breaker.gate(until), Gate::Probe);
                    }
                }
            }
        }
    }
}
