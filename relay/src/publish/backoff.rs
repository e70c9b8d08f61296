//! How long to wait before the next try.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(20);

/// The wait before try number `attempt` (from 0), with full jitter.
///
/// `random` is a number in `0.0..1.0`, handed in so that the function is pure.
/// Full jitter spreads the tries of many keys over the whole interval, which
/// AWS found to finish soonest under contention
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
#[must_use]
pub fn backoff(attempt: u32, random: f64) -> Duration {
    let ceiling = FIRST.saturating_mul(1_u32.checked_shl(attempt.min(20)).unwrap_or(u32::MAX));
    ceiling.min(LONGEST).mul_f64(random.clamp(0.0, 1.0))
}

/// The waits of one thing that is tried again and again, until something is achieved.
///
/// Each wait is between half and all of the ceiling of [`backoff`], so it is never next to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retry {
    attempt: u32,
}

impl Retry {
    /// The wait before the next try. `random` is a number in `0.0..1.0`.
    pub fn next(&mut self, random: f64) -> Duration {
        let wait = backoff(self.attempt, 0.5 + random.clamp(0.0, 1.0) / 2.0);
        self.attempt = self.attempt.saturating_add(1);
        wait
    }

    /// Something was achieved: the waits begin anew. To be connected is not enough.
    pub fn achieved(&mut self) {
        self.attempt = 0;
    }

    /// How many tries have failed since something was achieved.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_grow_until_something_is_achieved() {
        let mut retry = Retry::default();
        let total: Duration = (0..20).map(|_| retry.next(0.0)).sum();
        assert!(total > Duration::from_secs(60), "{total:?}");
        assert!(retry.next(0.0) >= LONGEST / 2 && retry.failures() == 21);
        retry.achieved();
        assert!(retry.next(1.0) <= FIRST);
    }

    proptest! {
        #[test]
        fn the_wait_grows_to_a_bound(attempt: u32, random in 0.0..1.0_f64) {
            let wait = backoff(attempt, random);
            prop_assert!(wait <= LONGEST);
            prop_assert!(wait <= backoff(attempt.saturating_add(1), random));
        }
    }
}
