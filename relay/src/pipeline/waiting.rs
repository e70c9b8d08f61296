//! Why the reading waits, as conditions: dead letters, the catalogue, the budget.

use super::{Asked, DEAD_LETTERS_IN_FLIGHT, Pipeline};
use crate::condition::Condition;
use crate::publish::Publisher;
use crate::source::Source;
use std::time::{Duration, Instant};

/// The condition that dead letters cannot be written.
const LETTERS: &str = "dead-letters";
/// The condition that the database does not tell the types of columns, or the keys of messages.
const CATALOGUE: &str = "catalogue";
/// The condition that the budget is spent and nothing moves, for no known destination's sake.
const BUDGET: &str = "budget";

/// What has not moved for so long is told: longer than a restart of the server or a failed
/// request takes, and well within the 30 s in which an operator is to know.
const STILL: Duration = Duration::from_secs(10);

/// When something was last achieved.
#[derive(Debug)]
pub(super) struct Progress {
    /// A destination accepted an event, or a dead letter was written.
    pub(super) settled_at: Instant,
    /// A dead letter was written, or the first of those that wait began to.
    pub(super) letter_written_at: Instant,
    /// The reading waits for the budget since then.
    full_since: Option<Instant>,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self { settled_at: now, letter_written_at: now, full_since: None }
    }

    pub(super) fn letter_written(&mut self, now: Instant) {
        (self.settled_at, self.letter_written_at) = (now, now);
    }
}

/// The failure in its own words, or that nothing was heard for long.
fn why(failure: Option<String>, since: Instant, now: Instant) -> Option<String> {
    let late = now.saturating_duration_since(since) >= STILL;
    failure.or_else(|| late.then(|| format!("no answer for more than {STILL:?}")))
}

impl<P: Publisher> Pipeline<P> {
    /// Sets and clears the conditions of this file; called about once a second.
    pub(super) fn watch_waiting(&mut self, now: Instant) {
        self.watch_letters(now);
        self.watch_catalogue(now);
        self.watch_stillness(now);
    }

    fn watch_letters(&self, now: Instant) {
        let some = self.dead_letters_in_flight > 0;
        let failure = self.dead_letters.failures().oldest();
        let why = some.then(|| why(failure, self.progress.letter_written_at, now)).flatten();
        let Some(why) = why else {
            return self.conditions.clear(LETTERS, "");
        };
        let found = format!(
            "expected to write dead letters to relay.dead_letter, found: {why}; their events stay in flight"
        );
        let cure = "grant the relay's role USAGE on the schema relay and SELECT and INSERT on relay.dead_letter, or see who locks the table (pg_blocking_pids); the relay tries again by itself";
        let fill = self.dead_letters_weight > self.schedule.budget() / 2;
        let all_wait = self.dead_letters_in_flight >= DEAD_LETTERS_IN_FLIGHT
            || (fill && !self.schedule.has_room());
        let condition = if all_wait {
            let found = format!("{found}, and nothing more is read until they are written");
            Condition::blocked(found, cure)
        } else {
            Condition::partial(found, cure)
        };
        self.conditions.set(LETTERS, "", condition);
    }

    fn watch_catalogue(&self, now: Instant) {
        let asked = self.asking.and_then(|asking| {
            why(self.asking_failures.oldest(), asking.since, now).map(|why| (asking.what, why))
        });
        let Some((what, why)) = asked else {
            return self.conditions.clear(CATALOGUE, "");
        };
        let (told, cure) = match what {
            Asked::Types => (
                "the catalogue to tell the types of a captured table's columns",
                "let the relay's role connect and read pg_catalog, or see what holds its session back (application_name relay types in pg_stat_activity); the relay tries again by itself",
            ),
            Asked::Secrets => (
                "relay.secret to tell the key that relay.rotate_secret made",
                "grant the relay's role SELECT on relay.secret, or see what holds its session back (application_name relay secrets in pg_stat_activity); the relay tries again by itself",
            ),
        };
        let found = format!("expected {told}, found: {why}; nothing is read until it does");
        self.conditions.set(CATALOGUE, "", Condition::blocked(found, cure));
    }

    /// Says that nothing moves where no destination is known to be the cause.
    fn watch_stillness(&mut self, now: Instant) {
        let full = !self.schedule.wants_more() && matches!(self.source, Source::Streaming(_));
        let since = full.then(|| *self.progress.full_since.get_or_insert(now));
        self.progress.full_since = since;
        let still = since.is_some_and(|since| {
            now.saturating_duration_since(since.max(self.progress.settled_at)) >= STILL
        });
        let letters = self.conditions.get(LETTERS, "").is_some();
        if !still || self.holder.is_some() || letters {
            return self.conditions.clear(BUDGET, "");
        }
        let most = self.schedule.states().enumerate().max_by_key(|(_, state)| state.weight);
        let most = most.map_or("none", |(at, _)| self.destinations[at].publisher.name());
        let found = format!(
            "the events on their way fill publish.bytes_in_flight or wait in front of a destination, and none was accepted for more than {STILL:?}; most of them are for {most}; nothing more is read until some are"
        );
        let cure = "see the log for why they are not accepted, and run `relay check`; the relay goes on by itself";
        self.conditions.set(BUDGET, "", Condition::blocked(found, cure));
    }
}
