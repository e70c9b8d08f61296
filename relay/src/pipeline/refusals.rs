//! Entries that their destination refuses again and again: thinned in the log, told as conditions.

use crate::condition::{Condition, Conditions};
use crate::publish::DestinationId;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The kind of the condition that single events are not accepted.
const KIND: &str = "refused-events";

/// Lines of one kind for each destination: the first at once, then one for each interval.
#[derive(Debug)]
pub(super) struct Thinned {
    every: Duration,
    /// By destination: when the last line was written, and how many were left out since.
    written: Vec<Option<(Instant, u64)>>,
}

impl Thinned {
    pub(super) fn new(destinations: usize, every: Duration) -> Self {
        Self { every, written: vec![None; destinations] }
    }

    /// Whether a line is to be written now; then how many were left out before it.
    pub(super) fn worth_a_line(&mut self, destination: DestinationId, now: Instant) -> Option<u64> {
        let written = self.written.get_mut(destination.0)?;
        match written {
            Some((at, left_out)) if now.saturating_duration_since(*at) < self.every => {
                *left_out += 1;
                None
            }
            _ => written.replace((now, 0)).map_or(Some(0), |(_, left_out)| Some(left_out)),
        }
    }

    /// The next line is written at once.
    pub(super) fn forget(&mut self, destination: DestinationId) {
        if let Some(written) = self.written.get_mut(destination.0) {
            *written = None;
        }
    }
}

/// The entries that were refused so often that it does not look like an accident.
#[derive(Debug)]
pub(super) struct Refusals {
    conditions: Conditions,
    names: Vec<String>,
    lines: Thinned,
    /// At most one for each key that waits.
    stuck: HashSet<(usize, Uuid)>,
}

impl Refusals {
    pub(super) fn new(conditions: Conditions, names: Vec<String>) -> Self {
        let lines = Thinned::new(names.len(), Duration::from_secs(10));
        Self { conditions, names, lines, stuck: HashSet::new() }
    }

    pub(super) fn worth_a_line(&mut self, destination: DestinationId, now: Instant) -> Option<u64> {
        self.lines.worth_a_line(destination, now)
    }

    /// An entry was refused once more.
    pub(super) fn stuck(&mut self, destination: DestinationId, id: Uuid, code: &str, said: &str) {
        let Some(name) = self.names.get(destination.0) else { return };
        self.stuck.insert((destination.0, id));
        let found = format!(
            "expected {name} to accept every event, found some that it refuses again and again, and those of their keys behind them wait (the last: {code}: {said})"
        );
        let cure = "see what the code says of the topic or queue (`relay check`); the relay tries again by itself";
        self.conditions.set(KIND, name, Condition::partial(found, cure));
    }

    /// An entry was accepted, or set aside.
    pub(super) fn passed(&mut self, destination: DestinationId, id: Uuid) {
        if self.stuck.is_empty() || !self.stuck.remove(&(destination.0, id)) {
            return;
        }
        if !self.stuck.iter().any(|(at, _)| *at == destination.0)
            && let Some(name) = self.names.get(destination.0)
        {
            self.conditions.clear(KIND, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_lines_that_repeat_one_is_written_for_each_interval() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut lines = Thinned::new(2, second * 10);
        let (a, b) = (DestinationId(0), DestinationId(1));
        assert_eq!(lines.worth_a_line(a, now), Some(0));
        assert_eq!(lines.worth_a_line(b, now), Some(0), "each destination has its own");
        assert_eq!(lines.worth_a_line(a, now + second), None);
        assert_eq!(lines.worth_a_line(a, now + second * 2), None);
        assert_eq!(lines.worth_a_line(a, now + second * 10), Some(2));
        lines.forget(a);
        assert_eq!(lines.worth_a_line(a, now + second * 11), Some(0));
    }

    #[test]
    fn the_condition_stands_until_the_last_of_the_stuck_entries_has_passed() {
        let conditions = Conditions::default();
        let mut refusals = Refusals::new(conditions.clone(), vec!["a".to_owned()]);
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        refusals.stuck(DestinationId(0), one, "InternalError", "");
        refusals.stuck(DestinationId(0), two, "InternalError", "");
        refusals.passed(DestinationId(0), one);
        assert!(conditions.get(KIND, "a").is_some());
        refusals.passed(DestinationId(0), two);
        assert_eq!(conditions.get(KIND, "a"), None);
    }
}
