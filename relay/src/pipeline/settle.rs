//! What came back from the broker, and what follows from it for each entry.

use super::{Done, Pipeline};
use crate::dead_letter::DeadLetter;
use crate::publish::schedule::InFlight;
use crate::publish::{Class, DestinationId, Outcome, Publisher, backoff};
use std::time::Instant;

impl<P: Publisher> Pipeline<P> {
    pub(super) fn settle(&mut self, done: Done) {
        match done {
            Done::Answered(destination, batch, outcomes) => {
                self.answered(destination, batch, outcomes);
            }
            Done::SetAside(entry) => {
                self.dead_letters_in_flight -= 1;
                self.report.dead_letters += 1;
                self.intake.ledger().settle(entry.entry.transaction);
                self.schedule.done(entry);
            }
            Done::Recorded(transaction) => {
                self.dead_letters_in_flight -= 1;
                self.report.dead_letters += 1;
                self.intake.ledger().settle(transaction);
            }
            Done::Answer(types) => {
                for (oid, kind) in types {
                    self.intake.types().insert(oid, kind);
                }
                self.asking = false;
            }
        }
    }

    fn answered(
        &mut self,
        destination: DestinationId,
        batch: Vec<InFlight>,
        outcomes: Vec<Outcome>,
    ) {
        let now = Instant::now();
        let shared = batch.len() > 1;
        let pause = self.pause_after(destination, &outcomes, shared, now);
        self.schedule.answered(destination, pause);
        let name = self.publishers[destination.0].name().to_owned();
        for (mut held, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Accepted => {
                    self.report.published += 1;
                    self.intake.ledger().settle(held.entry.transaction);
                    self.schedule.done(held);
                }
                Outcome::Failed { class: Class::Event, whole_request: true, .. } if shared => {
                    held.entry.alone = true;
                    self.schedule.retry(held, now);
                }
                Outcome::Failed { class: Class::Event, code, message, .. } => {
                    let reason = format!("the destination refused it: {message}");
                    held.entry.attempts += 1;
                    let letter = DeadLetter::of(&held.entry, &name, reason, Some(code));
                    self.set_aside(letter, move || Done::SetAside(held));
                }
                Outcome::Failed { code, message, whole_request, .. } => {
                    if !whole_request {
                        tracing::warn!(
                            event_id = %held.entry.event.event_id, destination = name, code, message,
                            "an event was not accepted; it is tried again and holds back its own key only"
                        );
                    }
                    let wait = backoff(held.entry.attempts, fastrand::f64());
                    self.schedule.retry(held, pause.unwrap_or(now).max(now + wait));
                }
            }
        }
    }

    /// For how long to leave a destination alone whose request failed as a whole.
    fn pause_after(
        &self,
        destination: DestinationId,
        outcomes: &[Outcome],
        shared: bool,
        now: Instant,
    ) -> Option<Instant> {
        let Some(Outcome::Failed { class, code, message, whole_request: true }) = outcomes.first()
        else {
            return None;
        };
        if *class == Class::Event {
            if shared {
                tracing::debug!(
                    code,
                    "a request was refused for the sake of one entry; each goes alone"
                );
            }
            return None;
        }
        let failures = self.schedule.failures(destination);
        let wait = backoff(failures, 0.5 + fastrand::f64() / 2.0);
        let name = self.publishers[destination.0].name();
        let held = self.schedule.len();
        if *class == Class::Destination {
            tracing::error!(
                destination = name,
                code,
                message,
                failures = failures + 1,
                held,
                ?wait,
                "the destination is wrong: check that it exists and that the relay may publish to it; no event is lost, all are tried again"
            );
        } else {
            tracing::warn!(
                destination = name,
                code,
                message,
                failures = failures + 1,
                held,
                ?wait,
                "a request failed; its events are tried again"
            );
        }
        Some(now + wait)
    }
}
