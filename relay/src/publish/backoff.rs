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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_wait_grows_to_a_bound(attempt: u32, random in 0.0..1.0_f64) {
            let wait = backoff(attempt, random);
            prop_assert!(wait <= LONGEST);
            prop_assert!(wait <= backoff(attempt.saturating_add(1), random));
        }
    }
}
