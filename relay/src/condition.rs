//! What keeps events from flowing, or will: one list for the log, `/ready`, the metrics and
//! `relay status`.
//!
//! Any part of the relay sets a condition by its kind and subject, and clears it when it has
//! passed. The list logs a condition once when it begins and once when it ends, so that whoever
//! sets it may do so at every turn. `recorder` writes the list to `relay.condition`, where
//! `relay status` finds it from any host.

mod failures;
mod recorder;

pub use failures::{Failures, Task};
pub use recorder::record;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How much does not flow. Ordered from the worst.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Changes are committed that will never be sent: `/ready` answers 503.
    Losing,
    /// No event flows: `/ready` answers 503.
    Blocked,
    /// Events flow until the next session, which would be refused: `/ready` answers 503.
    AtRisk,
    /// Events of some keys, tables or destinations do not flow.
    Partial,
    /// All events flow; an operator should know of it.
    Notice,
}

impl Severity {
    /// Its text in `relay.condition` and in the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Losing => "losing",
            Self::Blocked => "blocked",
            Self::AtRisk => "at-risk",
            Self::Partial => "partial",
            Self::Notice => "notice",
        }
    }
}

/// One condition, in sentences for whoever is woken by it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// How much does not flow.
    pub severity: Severity,
    /// What was expected and found, with the cause in the server's own words. No payload.
    pub found: String,
    /// What to do.
    pub cure: String,
}

impl Condition {
    /// Changes are committed that will never be sent.
    pub fn losing(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { severity: Severity::Losing, found: found.into(), cure: cure.into() }
    }

    /// Events flow until the next session.
    pub fn at_risk(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { severity: Severity::AtRisk, found: found.into(), cure: cure.into() }
    }

    /// No event flows.
    pub fn blocked(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { severity: Severity::Blocked, found: found.into(), cure: cure.into() }
    }

    /// Some events do not flow.
    pub fn partial(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { severity: Severity::Partial, found: found.into(), cure: cure.into() }
    }

    /// All events flow.
    pub fn notice(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { severity: Severity::Notice, found: found.into(), cure: cure.into() }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found, self.cure)
    }
}

/// A stable name for alarms, and the destination, table or setting concerned.
type Key = (&'static str, String);

#[derive(Debug, Default)]
struct State {
    conditions: BTreeMap<Key, Condition>,
    /// Counts changes, so that the recorder knows whether it has written the newest.
    changes: u64,
}

/// The conditions of one pipeline. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Conditions {
    /// Sets a condition, in place of the one of this kind and subject. Logs it when it is new or
    /// its severity changes.
    pub fn set(&self, kind: &'static str, subject: &str, condition: Condition) {
        let (found, cure, severity) =
            (condition.found.clone(), condition.cure.clone(), condition.severity);
        if !self.set_silently(kind, subject, condition) {
            return;
        }
        match severity {
            Severity::Losing | Severity::Blocked | Severity::AtRisk => {
                tracing::error!(kind, subject, "{found}: {cure}");
            }
            Severity::Partial => tracing::warn!(kind, subject, "{found}: {cure}"),
            Severity::Notice => tracing::info!(kind, subject, "{found}: {cure}"),
        }
    }

    /// Sets a condition that its caller logs; says whether it is new or its severity changed.
    pub fn set_silently(&self, kind: &'static str, subject: &str, condition: Condition) -> bool {
        let mut state = self.lock();
        let severity = condition.severity;
        let key = (kind, subject.to_owned());
        let before = state.conditions.get(&key);
        let (same, known) =
            (before == Some(&condition), before.is_some_and(|b| b.severity == severity));
        if !same {
            state.conditions.insert(key, condition);
            state.changes += 1;
            self.changed.notify_one();
        }
        !known
    }

    /// Clears a condition, and logs that it has passed. Does nothing where there is none.
    pub fn clear(&self, kind: &'static str, subject: &str) {
        if self.clear_silently(kind, subject) {
            tracing::info!(kind, subject, "mended: this condition has passed");
        }
    }

    /// Clears a condition whose end its caller logs; says whether there was one.
    pub fn clear_silently(&self, kind: &'static str, subject: &str) -> bool {
        let mut state = self.lock();
        let gone = state.conditions.remove(&(kind, subject.to_owned())).is_some();
        if gone {
            state.changes += 1;
            self.changed.notify_one();
        }
        gone
    }

    /// The condition of this kind and subject.
    #[must_use]
    pub fn get(&self, kind: &'static str, subject: &str) -> Option<Condition> {
        self.lock().conditions.get(&(kind, subject.to_owned())).cloned()
    }

    /// Why events do not flow, are lost or soon will not flow, for `/ready`: the worst that was
    /// found, and the cure.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        let state = self.lock();
        let worst = state.conditions.values().min_by_key(|c| c.severity);
        worst.filter(|c| c.severity <= Severity::AtRisk).map(ToString::to_string)
    }

    /// How many conditions of each kind and severity there are, for the metrics.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(&'static str, Severity), u64> {
        let mut counts = BTreeMap::new();
        for ((kind, _), condition) in &self.lock().conditions {
            *counts.entry((*kind, condition.severity)).or_default() += 1;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the list half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_new_once_and_blocks_until_it_is_cleared() {
        let conditions = Conditions::default();
        let gone = || Condition::blocked("expected the publication p, found none", "make it");
        assert!(conditions.set_silently("publication", "p", gone()));
        assert!(!conditions.set_silently("publication", "p", gone()), "not new");
        assert_eq!(
            conditions.blocked().as_deref(),
            Some("expected the publication p, found none: make it")
        );
        assert_eq!(conditions.counts()[&("publication", Severity::Blocked)], 1);
        assert!(conditions.set_silently("publication", "p", Condition::notice("a", "b")));
        assert_eq!(conditions.blocked(), None);
        assert!(conditions.clear_silently("publication", "p"));
        assert!(!conditions.clear_silently("publication", "p"), "gone already");
    }
}
