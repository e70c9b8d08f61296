//! What came back from the broker, and what follows from it for each entry.

use super::{Done, LetterOf, OnPoison, Pipeline};
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
            Done::LetterWritten(of, weight) => {
                self.dead_letters_in_flight -= 1;
                self.dead_letters_weight = self.dead_letters_weight.saturating_sub(weight);
                self.schedule.release(weight);
                self.progress.letter_written(Instant::now());
                self.report.dead_letters += 1;
                self.meters.dead_letter();
                match of {
                    LetterOf::Entry(held) => {
                        self.intake.ledger().settle(held.entry.transaction);
                        self.schedule.done(held);
                    }
                    LetterOf::Transaction(transaction) => {
                        self.intake.ledger().settle(transaction);
                    }
                }
            }
            Done::Answer(types) => {
                for (oid, kind) in types {
                    self.intake.types().insert(oid, kind);
                }
                self.asking = None;
            }
            Done::Secrets(secrets) => {
                self.intake.set_secrets(secrets);
                self.asking = None;
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
        if outcomes.contains(&Outcome::Accepted) {
            self.progress.settled_at = now;
        }
        let shared = batch.len() > 1;
        let verdict = verdict(&outcomes);
        self.judge(destination, ticket, &outcomes, verdict, shared, now);
        let all_failed = matches!(verdict, Verdict::Failed { .. });
        for (mut held, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Accepted => {
                    self.bucket_may_be_well(&held);
                    self.refusals.passed(destination, held.entry.event.event_id);
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
                    self.refusals.passed(destination, held.entry.event.event_id);
                    let reason = format!("the destination refused it: {message}");
                    self.refused(held, reason, Some(code));
                }
                Outcome::Failed { whole_request, ref code, .. }
                    if whole_request || (all_failed && !is_of_bucket(code)) =>
                {
                    let at = self.schedule.again_at(destination, now, fastrand::f64());
                    self.schedule.retry(held, at);
                }
                Outcome::Failed { class, code, message, .. } => {
                    self.bucket_may_be_broken(&held, class, &code, &message);
                    let entry = &held.entry;
                    let (name, id) =
                        (self.destinations[destination.0].publisher.name(), entry.event.event_id);
                    if let Some(more) = self.refusals.worth_a_line(destination, now) {
                        tracing::warn!(
                            event_id = %id, destination = name, code, message, not_logged = more,
                            "an event was not accepted; it is tried again and holds back its own key only"
                        );
                    }
                    if entry.attempts.saturating_add(1) >= FAILURES_TO_OPEN && !is_of_bucket(&code)
                    {
                        self.refusals.stuck(destination, id, &code, &message);
                    }
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
    pub(super) fn refused(&mut self, mut held: InFlight, reason: String, code: Option<String>) {
        let destination = held.entry.destination;
        let name = self.name(destination);
        match self.destinations[destination.0].on_poison {
            OnPoison::DeadLetter => {
                let name = name.to_owned();
                let event = self.schedule.take_event(&mut held);
                let letter = DeadLetter::of(&held.entry, event, &name, reason, code);
                self.write_letter(letter, LetterOf::Entry(held));
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
        verdict: Verdict,
        shared: bool,
        now: Instant,
    ) {
        let accepted = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Accepted));
        self.meters.answered(destination.0, verdict, accepted.count());
        let turn = self.schedule.answered(destination, ticket, verdict, now, fastrand::f64());
        let name = self.destinations[destination.0].publisher.name();
        // Where every entry failed one speaks for all, the destination's failure first.
        let fault = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Failed { class, code, message, whole_request } => {
                let counts = *whole_request || matches!(verdict, Verdict::Failed { .. });
                (counts && !is_of_bucket(code)).then_some((*class, code.as_str(), message.as_str()))
            }
            Outcome::Accepted => None,
        });
        let failed = fault.max_by_key(|(class, ..)| match class {
            Class::Destination => 2,
            Class::Retry => 1,
            Class::Event => 0,
        });
        let held = self.schedule.len();
        match (turn, failed) {
            (Some(Turn::Closed), _) => {
                tracing::info!(destination = name, held, "the destination takes events again");
                self.health.set(destination.0, None);
                self.openings.forget(destination);
                if !self.learners[destination.0].is_fresh(now) {
                    self.learners[destination.0].ask_again();
                }
            }
            (Some(Turn::Opened { pause, failures, again: true }), failed) => {
                let (class, code, message) = failed.unwrap_or((Class::Retry, "throttled", ""));
                tracing::debug!(
                    destination = name,
                    code,
                    message,
                    failures,
                    held,
                    ?pause,
                    "still not"
                );
                let trouble = Trouble::open(class == Class::Destination, code, message);
                self.health.set(destination.0, Some(trouble));
            }
            (Some(Turn::Opened { pause, failures, again: false }), failed) => {
                let (class, code, message) = failed.unwrap_or((Class::Retry, "throttled", ""));
                let wrong = class == Class::Destination;
                let what = if wrong {
                    "the destination is wrong: check that it exists and that the relay may publish to it; no event is lost, all are tried again"
                } else {
                    "the destination does not take events; it is left alone for a while, and all are tried again"
                };
                // It opens again with each try that fails: said when it opens, then once a minute.
                if self.openings.worth_a_line(destination, now).is_some() {
                    tracing::error!(
                        destination = name,
                        code,
                        message,
                        failures,
                        held,
                        ?pause,
                        "{what}"
                    );
                }
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

/// What the outcomes of one request say of its destination.
///
/// An answer in which no entry was accepted, and some failed for another's sake than the entry's
/// own, is a failure of the request: the destination takes nothing, whatever the status code.
fn verdict(outcomes: &[Outcome]) -> Verdict {
    let (mut wrong, mut passes, mut throttled, mut asked) = (false, false, false, false);
    let mut accepted = false;
    for outcome in outcomes {
        match outcome {
            Outcome::Accepted => (accepted, asked) = (true, true),
            // What could not be put into the bucket was not sent.
            Outcome::Failed { code, .. } if is_of_bucket(code) => {}
            Outcome::Failed { class, code, .. } => {
                asked = true;
                throttled |= is_throttling(code);
                wrong |= *class == Class::Destination;
                passes |= *class == Class::Retry;
            }
        }
    }
    match (accepted, throttled, wrong || passes) {
        _ if !asked => Verdict::NotAsked,
        (false, false, true) => Verdict::Failed { wrong },
        (_, true, _) if !wrong || accepted => Verdict::Throttled,
        (false, true, _) => Verdict::Failed { wrong: true },
        _ => Verdict::Answered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(class: Class, code: &str) -> Outcome {
        let (code, message) = (code.to_owned(), String::new());
        Outcome::Failed { class, code, message, whole_request: false }
    }

    #[test]
    fn an_answer_that_refuses_every_entry_for_the_destinations_sake_is_a_failure() {
        let denied = || outcome(Class::Destination, "KMSAccessDenied");
        let again = || outcome(Class::Retry, "InternalError");
        let event = || outcome(Class::Event, "InvalidParameter");
        let slow = || outcome(Class::Retry, "Throttled");
        let bucket = || outcome(Class::Destination, "S3.NoSuchBucket");
        for (outcomes, expected) in [
            (vec![denied(), denied()], Verdict::Failed { wrong: true }),
            (vec![denied(), again()], Verdict::Failed { wrong: true }),
            (vec![event(), denied()], Verdict::Failed { wrong: true }),
            (vec![bucket(), denied()], Verdict::Failed { wrong: true }),
            (vec![again(), again()], Verdict::Failed { wrong: false }),
            (vec![event(), event()], Verdict::Answered),
            (vec![denied(), Outcome::Accepted], Verdict::Answered),
            (vec![slow(), Outcome::Accepted], Verdict::Throttled),
            (vec![slow(), slow()], Verdict::Throttled),
            (vec![slow(), denied()], Verdict::Failed { wrong: true }),
            (vec![bucket()], Verdict::NotAsked),
        ] {
            assert_eq!(verdict(&outcomes), expected, "{outcomes:?}");
        }
    }
}
