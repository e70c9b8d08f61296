//! What came back from the broker, and what follows from it for each entry.

use super::{Done, OnPoison, Pipeline};
use crate::dead_letter::DeadLetter;
use crate::health::Trouble;
use crate::publish::breaker::{FAILURES_TO_OPEN, Turn};
use crate::publish::concurrency::Ticket;
use crate::publish::schedule::{InFlight, Verdict};
use crate::publish::{
    Class, DestinationId, Outcome, Publisher, backoff, is_of_bucket, is_throttling,
};
use std::time::Instant;

impl<P: Publisher> Pipeline<P> {
    pub(super) fn settle(&mut self, done: Done) {
        match done {
            Done::Answered(destination, ticket, batch, outcomes) => {
                self.answered(destination, ticket, batch, outcomes);
            }
            Done::SetAside(entry) => {
                self.dead_letters_in_flight -= 1;
                self.report.dead_letters += 1;
                self.meters.dead_letter();
                self.intake.ledger().settle(entry.entry.transaction);
                self.schedule.done(entry);
            }
            Done::Recorded(transaction) => {
                self.dead_letters_in_flight -= 1;
                self.report.dead_letters += 1;
                self.meters.dead_letter();
                self.intake.ledger().settle(transaction);
            }
            Done::Answer(types) => {
                for (oid, kind) in types {
                    self.intake.types().insert(oid, kind);
                }
                self.asking = false;
            }
            Done::Secrets(secrets) => {
                self.intake.set_secrets(secrets);
                self.asking = false;
            }
        }
    }

    fn answered(
        &mut self,
        destination: DestinationId,
        ticket: Ticket,
        batch: Vec<InFlight>,
        outcomes: Vec<Outcome>,
    ) {
        let now = Instant::now();
        let shared = batch.len() > 1;
        self.judge(destination, ticket, &outcomes, shared, now);
        for (mut held, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Accepted => {
                    self.bucket_may_be_well(&held);
                    self.report.published += 1;
                    self.intake.ledger().settle(held.entry.transaction);
                    self.schedule.done(held);
                }
                Outcome::Failed { class: Class::Event, whole_request: true, .. } if shared => {
                    held.entry.alone = true;
                    self.schedule.retry(held, now);
                }
                Outcome::Failed { class: Class::Event, code, message, .. } => {
                    held.entry.attempts += 1;
                    let reason = format!("the destination refused it: {message}");
                    self.refused(held, reason, Some(code));
                }
                Outcome::Failed { whole_request: true, .. } => {
                    let at = self.schedule.again_at(destination, now, fastrand::f64());
                    self.schedule.retry(held, at);
                }
                Outcome::Failed { class, code, message, .. } => {
                    self.bucket_may_be_broken(&held, class, &code, &message);
                    tracing::warn!(
                        event_id = %held.entry.event.event_id, destination = self.name(destination), code, message,
                        "an event was not accepted; it is tried again and holds back its own key only"
                    );
                    let wait = backoff(held.entry.attempts, fastrand::f64());
                    self.schedule.retry(held, now + wait);
                }
            }
        }
    }

    /// A claim check that was not put says that the bucket is missing or closed, or fails for long.
    fn bucket_may_be_broken(&mut self, held: &InFlight, class: Class, code: &str, message: &str) {
        let failures = held.entry.attempts.saturating_add(1);
        let for_long = failures >= FAILURES_TO_OPEN;
        if is_of_bucket(code) && (class == Class::Destination || for_long) {
            let trouble = Trouble::bucket(code, message);
            self.health.bucket_fails(held.entry.destination.0, trouble);
        }
    }

    /// A claim check that was put says that the bucket takes them again.
    fn bucket_may_be_well(&mut self, held: &InFlight) {
        let destination = held.entry.destination.0;
        if self.health.bucket_is_broken(destination)
            && self.destinations[destination].publisher.limits().is_claimed(&held.entry)
        {
            self.health.set(destination, None);
        }
    }

    /// An event that its destination will never take: set aside, or the end of that destination.
    pub(super) fn refused(&mut self, held: InFlight, reason: String, code: Option<String>) {
        let destination = held.entry.destination;
        let name = self.name(destination);
        match self.destinations[destination.0].on_poison {
            OnPoison::DeadLetter => {
                let letter = DeadLetter::of(&held.entry, name, reason, code);
                self.set_aside(letter, move || Done::SetAside(held));
            }
            OnPoison::Halt => {
                tracing::error!(
                    event_id = %held.entry.event.event_id, event_type = held.entry.event.event_type,
                    key = held.entry.event.key, destination = name, position = %held.entry.position, code, reason,
                    "an event cannot be sent, and on_poison is halt: nothing more goes to this destination; mend the cause and restart the relay, or set on_poison to dead-letter"
                );
                let trouble = Trouble::halted(held.entry.event.event_id, code, &reason);
                self.health.set(destination.0, Some(trouble));
                self.schedule.retry(held, Instant::now());
                self.schedule.halt(destination);
            }
        }
    }

    /// What an answer says of the destination as a whole.
    fn judge(
        &mut self,
        destination: DestinationId,
        ticket: Ticket,
        outcomes: &[Outcome],
        shared: bool,
        now: Instant,
    ) {
        let verdict = verdict(outcomes);
        let accepted = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Accepted));
        self.meters.answered(destination.0, verdict, accepted.count());
        let turn = self.schedule.answered(destination, ticket, verdict, now, fastrand::f64());
        let name = self.name(destination);
        let failed = match outcomes.first() {
            Some(Outcome::Failed { class, code, message, whole_request: true }) => {
                Some((*class, code.as_str(), message.as_str()))
            }
            _ => None,
        };
        let held = self.schedule.len();
        match (turn, failed) {
            (Some(Turn::Closed), _) => {
                tracing::info!(destination = name, held, "the destination takes events again");
                self.health.set(destination.0, None);
            }
            (Some(Turn::Opened { pause, failures }), failed) => {
                let (class, code, message) = failed.unwrap_or((Class::Retry, "throttled", ""));
                let wrong = class == Class::Destination;
                let what = if wrong {
                    "the destination is wrong: check that it exists and that the relay may publish to it; no event is lost, all are tried again"
                } else {
                    "the destination does not take events; it is left alone for a while, and all are tried again"
                };
                tracing::error!(
                    destination = name,
                    code,
                    message,
                    failures,
                    held,
                    ?pause,
                    "{what}"
                );
                let trouble = Trouble::open(wrong, code, message);
                self.health.set(destination.0, Some(trouble));
            }
            (None, Some((Class::Event, code, _))) if shared => {
                tracing::debug!(
                    code,
                    "a request was refused for the sake of one entry; each goes alone"
                );
            }
            (None, Some((Class::Retry | Class::Destination, code, message))) => {
                if self.schedule.failures(destination) == 1 {
                    tracing::warn!(
                        destination = name,
                        code,
                        message,
                        held,
                        "a request failed; its events are tried again"
                    );
                }
            }
            (None, Some((Class::Event, ..)) | None) => {}
        }
    }

    fn name(&self, destination: DestinationId) -> &str {
        self.destinations[destination.0].publisher.name()
    }
}

fn verdict(outcomes: &[Outcome]) -> Verdict {
    match outcomes.first() {
        Some(Outcome::Failed { class, whole_request: true, code, .. }) => match class {
            Class::Event => Verdict::Answered,
            Class::Destination => Verdict::Failed { wrong: true },
            Class::Retry if is_throttling(code) => Verdict::Throttled,
            Class::Retry => Verdict::Failed { wrong: false },
        },
        _ => {
            let throttled = |outcome: &Outcome| matches!(outcome, Outcome::Failed { code, .. } if is_throttling(code));
            if outcomes.iter().any(throttled) { Verdict::Throttled } else { Verdict::Answered }
        }
    }
}
