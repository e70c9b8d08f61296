//! What may be sent now: order per key, limits per batch, one budget of bytes.
//!
//! Knows: the entries that wait, by destination and key, and which keys have an
//! entry in flight. Must not know: sockets, AWS, Postgres, any clock but the
//! `now` that it is handed.
//!
//! A key never has two requests in flight to one destination. A batch therefore
//! carries at most one entry of a key (unless the operator lets a key's entries share one),
//! and an entry that failed holds back its own key and no other. Ready keys take turns, so
//! that a hot one starves no other; each step costs the same however many keys there are.

mod lane;
#[cfg(test)]
mod promises;

pub use lane::{LaneState, Verdict};

use super::breaker::Turn;
use super::concurrency::Ticket;
use super::{DEFAULT_LIMIT, DestinationId, LARGEST_MESSAGE, Outgoing, Sealed};
use std::ops::RangeInclusive;
use std::time::Instant;

/// What one batch to a destination may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BatchLimits {
    /// Entries in one request; 10 for SNS and SQS.
    pub entries: usize,
    /// Bytes in one request, bodies and attributes together.
    pub bytes: usize,
    /// The most bytes of an entry that is sent at all. More than `bytes` while the destination's
    /// limit is not known: then an entry above `bytes` goes alone, and the broker judges it.
    pub largest: usize,
    /// What is done with an entry that is too large; without it, it cannot be sent.
    pub claim_check: Option<super::Claim>,
}

impl BatchLimits {
    /// Those of a topic or queue of SNS or SQS; without `known`, until its limit is known.
    #[must_use]
    pub fn of_aws(known: Option<usize>) -> Self {
        let bytes = known.unwrap_or(DEFAULT_LIMIT);
        Self { entries: 10, bytes, largest: known.unwrap_or(LARGEST_MESSAGE), claim_check: None }
    }
}

/// Which entries of one destination wait for each other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ordering {
    /// Those of one key: one at a time.
    #[default]
    PerKey,
    /// Those of one key, and as many of them as fit go in one request, in their order. Faster
    /// for few keys. When the destination refuses one of them and takes those behind it, they
    /// are out of order.
    PerKeyTogether,
    /// None: for consumers that do not mind the order.
    None,
}

/// How a destination is served.
#[derive(Clone, Debug)]
pub struct Lane {
    /// What one request may hold.
    pub limits: BatchLimits,
    /// Which entries wait for each other.
    pub ordering: Ordering,
    /// How many requests may be in flight, at least and at most.
    pub requests: RangeInclusive<u32>,
}

/// An entry that was handed out; its key waits until it comes back.
#[derive(Debug)]
pub struct InFlight {
    /// The entry.
    pub entry: Outgoing,
    key: usize,
}

/// What to do next.
#[derive(Debug)]
pub enum Work {
    /// Send these in one request, in this order; the ticket is for [`Schedule::answered`].
    Send(Vec<InFlight>, Ticket),
    /// This entry alone is over the destination's limit and can never be sent.
    TooLarge(InFlight),
}

/// All entries that are on their way, from push to done.
#[derive(Debug)]
pub struct Schedule {
    lanes: Vec<lane::Lane>,
    /// Where the next look for work starts, so that no destination is favoured.
    turn: usize,
    budget: usize,
    weight: usize,
    entries: usize,
}

impl Schedule {
    /// A schedule for these destinations, in the order of their ids.
    ///
    /// `budget` is in bytes of memory of the events on their way.
    #[must_use]
    pub fn new(lanes: impl IntoIterator<Item = Lane>, budget: usize) -> Self {
        let lanes = lanes.into_iter().map(lane::Lane::new).collect();
        Self { lanes, turn: 0, budget, weight: 0, entries: 0 }
    }

    /// Puts an entry behind the others of its key.
    pub fn push(&mut self, entry: Outgoing) {
        self.weight += entry.weight();
        self.entries += 1;
        self.lanes[entry.destination.0].push(entry);
    }

    /// Whether more may be read: the budget is not spent.
    ///
    /// The last entry may overshoot it, so that one larger than the whole budget still goes.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.weight < self.budget
    }

    /// Whether reading more is of use now: fewer entries are ready than soon go.
    ///
    /// What waits here takes memory, and is cold by the time it goes; Postgres keeps it as well.
    /// A destination that is not served now counts as one with room, for what is behind its
    /// events may be for others; and where keys wait for their own, others may be ready.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.has_room() && self.lanes.iter().any(lane::Lane::wants_more)
    }

    /// What to do next, if anything may be done now.
    pub fn next(&mut self, now: Instant) -> Option<Work> {
        for step in 0..self.lanes.len() {
            let at = (self.turn + step) % self.lanes.len();
            if let Some(work) = self.lanes[at].next(now) {
                self.turn = at + 1;
                return Some(work);
            }
        }
        None
    }

    /// When `next` may have work that it has not now, time passing alone.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| lane.wake_at(now)).min()
    }

    /// Takes note of what became of a request as a whole; `random` is in `0.0..1.0`.
    pub fn answered(
        &mut self,
        destination: DestinationId,
        ticket: Ticket,
        verdict: Verdict,
        now: Instant,
        random: f64,
    ) -> Option<Turn> {
        self.lanes[destination.0].answered(ticket, verdict, now, random)
    }

    /// When the entries of a request that failed as a whole may go again.
    #[must_use]
    pub fn again_at(&self, destination: DestinationId, now: Instant, random: f64) -> Instant {
        self.lanes[destination.0].again_at(now, random)
    }

    /// Takes note that an entry was accepted or set aside: its key may go on.
    #[expect(clippy::needless_pass_by_value, reason = "an entry that is done is gone")]
    pub fn done(&mut self, entry: InFlight) {
        self.weight = self.weight.saturating_sub(entry.entry.weight());
        self.entries -= 1;
        self.lanes[entry.entry.destination.0].done(&entry);
    }

    /// Moves an entry's content out of the budget, into a dead letter; the entry stays in flight,
    /// so that its key waits until the letter is written.
    pub fn take_event(&mut self, entry: &mut InFlight) -> Sealed {
        let before = entry.entry.weight();
        let event_id = entry.entry.event.event_id;
        let event = std::mem::replace(&mut entry.entry.event, Sealed::empty(event_id));
        let freed = before.saturating_sub(entry.entry.weight());
        self.weight = self.weight.saturating_sub(freed);
        self.lanes[entry.entry.destination.0].freed(freed);
        event
    }

    /// Counts so many bytes in the budget that are held beside the entries: dead letters.
    pub fn hold(&mut self, bytes: usize) {
        self.weight += bytes;
    }

    /// They are held no more.
    pub fn release(&mut self, bytes: usize) {
        self.weight = self.weight.saturating_sub(bytes);
    }

    /// Puts an entry back to the front of its key, to go again at `at`.
    pub fn retry(&mut self, mut entry: InFlight, at: Instant) {
        entry.entry.attempts = entry.entry.attempts.saturating_add(1);
        self.lanes[entry.entry.destination.0].retry(entry, at);
    }

    /// Takes note of what a destination's requests may hold from now on, and whether its address
    /// is known: until it is nothing is sent to it.
    pub fn set_limits(&mut self, destination: DestinationId, limits: BatchLimits, known: bool) {
        self.lanes[destination.0].set_limits(limits, known);
    }

    /// Puts an entry that was not sent back to the front of its key, to be looked at again at `at`.
    pub fn put_back(&mut self, entry: InFlight, at: Instant) {
        self.lanes[entry.entry.destination.0].retry(entry, at);
    }

    /// Sends nothing more to a destination, for as long as this process lives.
    pub fn halt(&mut self, destination: DestinationId) {
        self.lanes[destination.0].halt();
    }

    /// How many requests in a row have failed as a whole.
    #[must_use]
    pub fn failures(&self, destination: DestinationId) -> u32 {
        self.lanes[destination.0].failures()
    }

    /// How each destination stands, in the order of their ids.
    pub fn states(&self) -> impl Iterator<Item = LaneState> {
        self.lanes.iter().map(lane::Lane::state)
    }

    /// How many entries are on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// How many bytes of memory they may take.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// How many bytes of memory the events on their way take, and their dead letters.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }
}
