//! What is repeated in a log is repeated seldom.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long one kind of line is held back after it was logged.
const BETWEEN: Duration = Duration::from_mins(1);

/// When each kind of line was logged last. The kinds are names in our code, so they are few.
#[derive(Debug, Default)]
pub(crate) struct Seldom(HashMap<&'static str, Instant>);

impl Seldom {
    /// Whether a line of this kind may be logged now; it is taken for logged then.
    pub(crate) fn may_tell(&mut self, kind: &'static str) -> bool {
        self.may_tell_at(kind, Instant::now())
    }

    fn may_tell_at(&mut self, kind: &'static str, now: Instant) -> bool {
        let told = self.0.get(kind).is_some_and(|at| now.duration_since(*at) < BETWEEN);
        if !told {
            self.0.insert(kind, now);
        }
        !told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_a_minute() {
        let (mut seldom, now) = (Seldom::default(), Instant::now());
        let mut may = |kind, now| seldom.may_tell_at(kind, now);
        assert!(may("a", now) && may("b", now));
        assert!(!may("a", now + BETWEEN / 2));
        assert!(may("a", now + BETWEEN));
    }
}
