//! Which destinations do not take events now, as conditions.

use crate::condition::{Condition, Conditions, Severity};
use uuid::Uuid;

/// The kind of the conditions that are about a destination.
pub const DESTINATION: &str = "destination";

/// Why a destination gets nothing now, or not all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    state: TroubleState,
    code: Option<String>,
    message: String,
    holds_all_back: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum TroubleState {
    Down,
    Wrong,
    Halted,
    /// It gets all but what is too large for it.
    Bucket,
}

impl Trouble {
    /// Its breaker is open; `wrong` says that the destination is missing or closed to us.
    #[must_use]
    pub fn open(wrong: bool, code: &str, message: &str) -> Self {
        let state = if wrong { TroubleState::Wrong } else { TroubleState::Down };
        Self {
            state,
            code: Some(code.to_owned()),
            message: message.to_owned(),
            holds_all_back: false,
        }
    }

    /// What is too large for it cannot be put into the bucket; all else it takes.
    #[must_use]
    pub fn bucket(code: &str, message: &str) -> Self {
        let code = Some(code.to_owned());
        Self {
            state: TroubleState::Bucket,
            code,
            message: message.to_owned(),
            holds_all_back: false,
        }
    }

    /// It refused an event, and is to get nothing more.
    #[must_use]
    pub fn halted(event: Uuid, code: Option<String>, reason: &str) -> Self {
        let message = format!("the event {event} cannot be sent: {reason}");
        Self { state: TroubleState::Halted, code, message, holds_all_back: false }
    }

    fn condition(&self, destination: &str) -> Condition {
        let cure = match self.state {
            TroubleState::Wrong => {
                "check that it exists and that the relay may publish to it (`relay check`)"
            }
            TroubleState::Bucket => {
                "check that the bucket exists and that the relay may put objects into it (`relay check`)"
            }
            TroubleState::Halted => {
                "mend the cause and restart the relay, or set on_poison to dead-letter"
            }
            TroubleState::Down => "the relay tries it again by itself",
        };
        let code = self.code.as_deref().unwrap_or_default();
        let said = [code, &self.message].into_iter().filter(|text| !text.is_empty());
        let said = said.collect::<Vec<_>>().join(": ");
        let (severity, what) = if self.holds_all_back {
            let what = format!(
                "{destination} does not take events, and those that wait for it fill publish.bytes_in_flight, so that none is read for others"
            );
            (Severity::Blocked, what)
        } else if self.state == TroubleState::Bucket {
            let what = format!(
                "events to {destination} that are too large for a message do not flow, nor those of the same key behind them; all others do"
            );
            (Severity::Partial, what)
        } else {
            (Severity::Partial, format!("events to {destination} do not flow, those to others do"))
        };
        let found = if said.is_empty() { what } else { format!("{what} ({said})") };
        Condition { severity, found, cure: cure.to_owned() }
    }
}

/// The destinations' troubles. Each stands in the conditions too.
#[derive(Debug)]
pub struct Health {
    conditions: Conditions,
    names: Vec<String>,
    troubles: Vec<Option<Trouble>>,
}

impl Health {
    /// Destinations by their names, all well.
    #[must_use]
    pub fn new(conditions: Conditions, names: Vec<String>) -> Self {
        let troubles = vec![None; names.len()];
        Self { conditions, names, troubles }
    }

    /// Takes note of a destination's trouble, or that it has none any more.
    pub fn set(&mut self, destination: usize, trouble: Option<Trouble>) {
        let Some(place) = self.troubles.get_mut(destination) else { return };
        let held = place.as_ref().is_some_and(|trouble| trouble.holds_all_back);
        *place = trouble.map(|trouble| Trouble { holds_all_back: held, ..trouble });
        self.publish(destination);
    }

    /// Takes note that what is too large for a destination cannot be put into its bucket, where
    /// nothing worse is known of it.
    pub fn bucket_fails(&mut self, destination: usize, trouble: Trouble) {
        let known = self.troubles.get(destination).is_none_or(Option::is_some);
        if !known || self.bucket_is_broken(destination) {
            self.set(destination, Some(trouble));
        }
    }

    /// Whether what is too large for a destination cannot be put into its bucket.
    #[must_use]
    pub fn bucket_is_broken(&self, destination: usize) -> bool {
        let trouble = self.troubles.get(destination).and_then(Option::as_ref);
        trouble.is_some_and(|trouble| trouble.state == TroubleState::Bucket)
    }

    /// Takes note whether a destination's events fill the budget.
    pub fn holds_all_back(&mut self, destination: usize, holds: bool) {
        if let Some(Some(trouble)) = self.troubles.get_mut(destination)
            && trouble.holds_all_back != holds
        {
            trouble.holds_all_back = holds;
            self.publish(destination);
        }
    }

    /// The caller logs the change, with more than a condition says.
    fn publish(&self, destination: usize) {
        let name = &self.names[destination];
        match &self.troubles[destination] {
            Some(trouble) => {
                self.conditions.set_silently(DESTINATION, name, trouble.condition(name));
            }
            None => {
                self.conditions.clear_silently(DESTINATION, name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> (Health, Conditions) {
        let conditions = Conditions::default();
        (Health::new(conditions.clone(), vec!["a".to_owned()]), conditions)
    }

    #[test]
    fn a_destination_that_holds_all_back_blocks() {
        let (mut health, conditions) = health();
        health.set(0, Some(Trouble::open(true, "NotFound", "no such topic")));
        let condition = conditions.get(DESTINATION, "a").unwrap();
        assert_eq!(condition.severity, Severity::Partial);
        assert!(condition.found.contains("NotFound: no such topic"), "{condition}");
        health.holds_all_back(0, true);
        assert!(conditions.blocked().unwrap().contains("relay check"));
        health.set(0, None);
        assert_eq!(conditions.get(DESTINATION, "a"), None);
    }

    #[test]
    fn a_broken_bucket_is_said_unless_the_destination_itself_is_in_trouble() {
        let (mut health, conditions) = health();
        health.set(0, Some(Trouble::open(true, "NotFound", "")));
        health.bucket_fails(0, Trouble::bucket("S3.NoSuchBucket", ""));
        assert!(!health.bucket_is_broken(0));
        health.set(0, None);
        health.bucket_fails(0, Trouble::bucket("S3.NoSuchBucket", ""));
        assert!(health.bucket_is_broken(0));
        health.bucket_fails(0, Trouble::bucket("S3.AccessDenied", ""));
        let said = conditions.get(DESTINATION, "a").unwrap().found;
        assert!(said.contains("S3.AccessDenied") && said.contains("too large"), "{said}");
    }
}
