//! What is odd about the versions of an aggregate, said once for each.
//!
//! Knows: which aggregates were spoken of. Must not know: the database, what becomes of an event.

use crate::version::{Key, key};
use envelope::Event;
use std::collections::HashSet;

/// Of so many oddities it is remembered that they were said; past that all are forgotten, and said
/// again where they come again.
const REMEMBERED: usize = 1024;

/// What is odd about an event's version.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Oddity {
    /// The aggregate stands at `applied` or beyond, and this is another event than the one that was
    /// applied under its version: the versions began again, or two writers count them.
    Restarted { applied: i64 },
    /// Versions from `expected` on are missing before it.
    Gap { expected: i64 },
    /// Other events of the aggregate have a version and this one has none, or the other way round.
    Mixed,
}

/// What was said, by aggregate.
#[derive(Debug, Default)]
pub(crate) struct Told(HashSet<(Key, Oddity)>);

impl Told {
    /// Logs what is odd about the event, unless that was said of its aggregate.
    pub(crate) fn tell(&mut self, projection: &str, event: &Event, receives: u32, oddity: Oddity) {
        if !self.is_new(event, oddity) {
            return;
        }
        let (expected, what) = match oddity {
            Oddity::Restarted { applied } => (
                Some(applied.saturating_add(1)),
                "version restarted: another event was applied under this version or a later one; the event has no effect, and is in relay.parked where park_after is set",
            ),
            Oddity::Gap { expected } => (
                Some(expected),
                "gap: earlier versions of the aggregate are missing; the event goes back to the queue, or is parked where park_after is set",
            ),
            Oddity::Mixed => (
                None,
                "the aggregate has events with a version and events without: nothing orders them against each other; give all of them a version, or none",
            ),
        };
        tracing::warn!(
            projection,
            event_id = %event.event_id,
            event_type = event.event_type,
            tenant_id = event.tenant_id,
            aggregate_type = event.aggregate_type,
            aggregate_id = event.aggregate_id,
            found = event.aggregate_version,
            expected,
            receive_count = receives,
            "{what}"
        );
    }

    fn is_new(&mut self, event: &Event, oddity: Oddity) -> bool {
        // A restart is one, however far the aggregate has come meanwhile; each gap is its own.
        let kind = match oddity {
            Oddity::Restarted { .. } => Oddity::Restarted { applied: 0 },
            oddity => oddity,
        };
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert((key(event), kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(aggregate: usize) -> Event {
        Event::from_json(&format!(
            r#"{{"event_id":"01930000-0000-7000-8000-000000000001","event_type":"t",
               "timestamp":"2026-01-15T10:30:00Z","aggregate_type":"a",
               "aggregate_id":"{aggregate}","aggregate_version":1,"data":1}}"#
        ))
        .unwrap()
    }

    #[test]
    fn each_oddity_is_said_once_for_each_aggregate() {
        let mut told = Told::default();
        let restarted = |applied| Oddity::Restarted { applied };
        assert!(told.is_new(&event(1), restarted(3)) && !told.is_new(&event(1), restarted(4)));
        assert!(told.is_new(&event(2), restarted(3)));
        let gap = |expected| Oddity::Gap { expected };
        assert!(told.is_new(&event(1), gap(5)) && !told.is_new(&event(1), gap(5)));
        assert!(told.is_new(&event(1), gap(9)) && told.is_new(&event(1), Oddity::Mixed));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut told = Told::default();
        for aggregate in 0..3 * REMEMBERED {
            told.is_new(&event(aggregate), Oddity::Mixed);
            assert!(told.0.len() <= REMEMBERED);
        }
    }
}
