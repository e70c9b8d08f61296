//! What may be sent now: order per key, limits per batch, one budget of bytes.
//!
//! Knows: the entries that wait, by destination and key, and which keys have an
//! entry in flight. Must not know: sockets, AWS, Postgres, any clock but the
//! `now` that it is handed.
//!
//! A key never has two entries in flight to one destination. A batch therefore
//! carries at most one entry of a key, and an entry that failed holds back its
//! own key and no other.

use super::{DestinationId, Outgoing};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// What one batch to a destination may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BatchLimits {
    /// Entries in one request; 10 for SNS and SQS.
    pub entries: usize,
    /// Bytes in one request and in one entry, bodies and attributes together.
    pub bytes: usize,
    /// What is done with an entry that is too large; without it, it cannot be sent.
    pub claim_check: Option<super::Claim>,
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
    /// Send these in one request, in this order.
    Send(Vec<InFlight>),
    /// This entry alone is over the destination's limit and can never be sent.
    TooLarge(InFlight),
}

#[derive(Debug)]
struct KeyQueue {
    name: Arc<str>,
    waiting: VecDeque<Outgoing>,
}

/// The entries of one destination.
#[derive(Debug)]
struct Lane {
    limits: BatchLimits,
    by_name: HashMap<Arc<str>, usize>,
    keys: Vec<KeyQueue>,
    free: Vec<usize>,
    /// Keys whose first entry may go now; each key at most once.
    ready: VecDeque<usize>,
    /// Keys whose first entry may go again later.
    later: BinaryHeap<Reverse<(Instant, usize)>>,
    requests: usize,
    /// Requests in a row that failed as a whole.
    failures: u32,
    /// After such a failure nothing is sent before this.
    paused_until: Option<Instant>,
}

impl Lane {
    fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            by_name: HashMap::new(),
            keys: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            later: BinaryHeap::new(),
            requests: 0,
            failures: 0,
            paused_until: None,
        }
    }

    fn push(&mut self, entry: Outgoing) {
        if let Some(&key) = self.by_name.get(&*entry.event.key) {
            // Someone of this key is ready, in flight or waiting to go again: behind him.
            self.keys[key].waiting.push_back(entry);
            return;
        }
        let name: Arc<str> = Arc::from(&*entry.event.key);
        let queue = KeyQueue { name: Arc::clone(&name), waiting: VecDeque::from([entry]) };
        let key = if let Some(key) = self.free.pop() {
            self.keys[key] = queue;
            key
        } else {
            self.keys.push(queue);
            self.keys.len() - 1
        };
        self.by_name.insert(name, key);
        self.ready.push_back(key);
    }

    fn next(&mut self, now: Instant, max_requests: usize) -> Option<Work> {
        // After a failure one request at a time probes whether the destination is back.
        let allowed = if self.failures > 0 { 1 } else { max_requests };
        if self.requests >= allowed || self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        while let Some(&Reverse((at, key))) = self.later.peek() {
            if at > now {
                break;
            }
            self.later.pop();
            self.ready.push_back(key);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < self.limits.entries {
            let Some(&key) = self.ready.front() else {
                break;
            };
            let Some(first) = self.keys[key].waiting.front() else {
                self.ready.pop_front();
                continue;
            };
            let (size, alone) = (self.limits.in_request(first), first.alone);
            if alone && !batch.is_empty() {
                break;
            }
            let alone_too_large = size > self.limits.bytes;
            if bytes + size > self.limits.bytes && !(alone_too_large && batch.is_empty()) {
                break;
            }
            self.ready.pop_front();
            let Some(entry) = self.keys[key].waiting.pop_front() else {
                continue;
            };
            let entry = InFlight { entry, key };
            if alone_too_large {
                return Some(Work::TooLarge(entry));
            }
            bytes += size;
            batch.push(entry);
            if alone {
                break;
            }
        }
        if batch.is_empty() {
            return None;
        }
        self.requests += 1;
        Some(Work::Send(batch))
    }

    /// Lets the next entry of a key go, or forgets the key when it has none.
    fn release(&mut self, key: usize) {
        let queue = &mut self.keys[key];
        if queue.waiting.is_empty() {
            self.by_name.remove(&queue.name);
            queue.name = Arc::from("");
            queue.waiting = VecDeque::new();
            self.free.push(key);
        } else {
            self.ready.push_back(key);
        }
    }

    fn wake_at(&self, max_requests: usize) -> Option<Instant> {
        let allowed = if self.failures > 0 { 1 } else { max_requests };
        if self.requests >= allowed {
            return None;
        }
        let first = if self.ready.is_empty() {
            self.later.peek().map(|Reverse((at, _))| *at)?
        } else {
            // Only a pause holds back a ready key; `next` was asked before.
            return self.paused_until;
        };
        Some(self.paused_until.map_or(first, |paused| paused.max(first)))
    }
}

/// All entries that are on their way, from push to done.
#[derive(Debug)]
pub struct Schedule {
    lanes: Vec<Lane>,
    /// Where the next look for work starts, so that no destination is favoured.
    turn: usize,
    max_requests: usize,
    budget: usize,
    bytes: usize,
    entries: usize,
}

impl Schedule {
    /// A schedule for destinations with these limits, in the order of their ids.
    ///
    /// `budget` is in bytes of events on their way; `max_requests` is how many
    /// requests one destination may have in flight.
    #[must_use]
    pub fn new(limits: Vec<BatchLimits>, budget: usize, max_requests: usize) -> Self {
        let lanes = limits.into_iter().map(Lane::new).collect();
        Self { lanes, turn: 0, max_requests, budget, bytes: 0, entries: 0 }
    }

    /// Puts an entry behind the others of its key.
    pub fn push(&mut self, entry: Outgoing) {
        self.bytes += entry.bytes();
        self.entries += 1;
        self.lanes[entry.destination.0].push(entry);
    }

    /// Whether more may be read: the budget is not spent.
    ///
    /// The last entry may overshoot it, so that one larger than the whole budget still goes.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes < self.budget
    }

    /// What to do next, if anything may be done now.
    pub fn next(&mut self, now: Instant) -> Option<Work> {
        for step in 0..self.lanes.len() {
            let at = (self.turn + step) % self.lanes.len();
            if let Some(work) = self.lanes[at].next(now, self.max_requests) {
                self.turn = at + 1;
                return Some(work);
            }
        }
        None
    }

    /// When `next` may have work that it has not now, time passing alone.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| lane.wake_at(self.max_requests)).min()
    }

    /// Takes note that a request was answered, or failed as a whole.
    ///
    /// `pause_until` says for how long the destination is left alone after a failure.
    pub fn answered(&mut self, destination: DestinationId, pause_until: Option<Instant>) {
        let lane = &mut self.lanes[destination.0];
        lane.requests = lane.requests.saturating_sub(1);
        lane.failures = if pause_until.is_some() { lane.failures.saturating_add(1) } else { 0 };
        lane.paused_until = pause_until;
    }

    /// How many requests in a row have failed as a whole.
    #[must_use]
    pub fn failures(&self, destination: DestinationId) -> u32 {
        self.lanes[destination.0].failures
    }

    /// Takes note that an entry was accepted or set aside: its key may go on.
    #[expect(clippy::needless_pass_by_value, reason = "an entry that is done is gone")]
    pub fn done(&mut self, entry: InFlight) {
        self.bytes = self.bytes.saturating_sub(entry.entry.bytes());
        self.entries -= 1;
        self.lanes[entry.entry.destination.0].release(entry.key);
    }

    /// Puts an entry back to the front of its key, to go again at `at`.
    pub fn retry(&mut self, entry: InFlight, at: Instant) {
        let InFlight { mut entry, key } = entry;
        entry.attempts = entry.attempts.saturating_add(1);
        let lane = &mut self.lanes[entry.destination.0];
        lane.keys[key].waiting.push_front(entry);
        lane.later.push(Reverse((at, key)));
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

    /// How many bytes of events are on their way.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Sealed;
    use envelope::Position;
    use proptest::prelude::*;
    use std::time::Duration;
    use uuid::Uuid;

    const LIMITS: BatchLimits = BatchLimits { entries: 10, bytes: 1000, claim_check: None };

    fn entry(destination: usize, key: &str, ordinal: u32, bytes: usize) -> Outgoing {
        Outgoing {
            transaction: crate::ledger::TransactionId::default(),
            destination: DestinationId(destination),
            position: Position { commit_lsn: 1, ordinal },
            attempts: 0,
            alone: false,
            event: Sealed {
                event_id: Uuid::nil(),
                event_type: "t".to_owned(),
                key: key.into(),
                body: "x".repeat(bytes),
                attributes: Vec::new(),
            },
        }
    }

    fn sent(work: Option<Work>) -> Vec<InFlight> {
        match work {
            Some(Work::Send(batch)) => batch,
            other => panic!("expected a batch, found {other:?}"),
        }
    }

    #[test]
    fn a_key_has_one_entry_in_flight_and_others_go_on() {
        let now = Instant::now();
        let mut schedule = Schedule::new(vec![LIMITS], 10_000, 8);
        for (key, ordinal) in [("a", 0), ("a", 1), ("b", 2)] {
            schedule.push(entry(0, key, ordinal, 1));
        }
        let mut batch = sent(schedule.next(now));
        assert_eq!(batch.iter().map(|e| e.entry.position.ordinal).collect::<Vec<_>>(), [0, 2]);
        assert!(schedule.next(now).is_none());
        schedule.done(batch.remove(0));
        assert_eq!(sent(schedule.next(now))[0].entry.position.ordinal, 1);
    }

    #[test]
    fn an_entry_over_the_limit_is_told_apart_and_blocks_no_one() {
        let now = Instant::now();
        let mut schedule = Schedule::new(vec![LIMITS], 10_000, 8);
        schedule.push(entry(0, "big", 0, 2000));
        schedule.push(entry(0, "small", 1, 1));
        let Some(Work::TooLarge(large)) = schedule.next(now) else { panic!("expected TooLarge") };
        assert_eq!(sent(schedule.next(now)).len(), 1);
        schedule.done(large);
        assert_eq!(schedule.len(), 1);
    }

    #[test]
    fn after_a_failed_request_one_probe_goes_at_a_time() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut schedule = Schedule::new(vec![BatchLimits { entries: 1, ..LIMITS }], 10_000, 8);
        for key in ["a", "b", "c"] {
            schedule.push(entry(0, key, 0, 1));
        }
        let first = sent(schedule.next(now)).remove(0);
        schedule.answered(DestinationId(0), Some(later));
        schedule.retry(first, later);
        assert!(schedule.next(now).is_none());
        assert_eq!(schedule.wake_at(), Some(later));
        let probe = sent(schedule.next(later)).remove(0);
        assert!(schedule.next(later).is_none(), "one probe at a time");
        schedule.answered(DestinationId(0), None);
        schedule.done(probe);
        assert!(schedule.next(later).is_some() && schedule.next(later).is_some());
    }

    proptest! {
        /// Random arrivals and outcomes, until all is done: nothing is lost, the
        /// order of a key holds, batches are legal, the budget's count is exact.
        #[test]
        fn order_per_key_holds_and_nothing_is_lost(
            arrivals in proptest::collection::vec((0_usize..2, 0_u8..5, 1_usize..400), 1..120),
            outcomes in proptest::collection::vec(0_u8..4, 64),
        ) {
            let mut now = Instant::now();
            let mut schedule = Schedule::new(vec![LIMITS, LIMITS], 3000, 2);
            let mut outcomes = outcomes.into_iter().cycle();
            let mut arrivals = (0_u32..).zip(arrivals).peekable();
            let mut expected: HashMap<(usize, u8), Vec<u32>> = HashMap::new();
            let mut done: HashMap<(usize, u8), Vec<u32>> = HashMap::new();
            let mut flying: VecDeque<Vec<InFlight>> = VecDeque::new();
            for _ in 0..20_000 {
                while schedule.has_room() {
                    let Some((n, (destination, key, bytes))) = arrivals.next() else { break };
                    expected.entry((destination, key)).or_default().push(n);
                    schedule.push(entry(destination, &key.to_string(), n, bytes));
                }
                while let Some(work) = schedule.next(now) {
                    let batch = sent(Some(work));
                    prop_assert!(batch.len() <= LIMITS.entries);
                    prop_assert!(batch.iter().map(|e| e.entry.bytes()).sum::<usize>() <= LIMITS.bytes);
                    for a in flying.iter().flatten() {
                        for b in &batch {
                            prop_assert!(
                                a.entry.destination != b.entry.destination || a.entry.event.key != b.entry.event.key,
                                "two entries of a key in flight"
                            );
                        }
                    }
                    flying.push_back(batch);
                }
                let Some(batch) = flying.pop_front() else {
                    if schedule.is_empty() && arrivals.peek().is_none() { break; }
                    now = schedule.wake_at().expect("something is to come").max(now);
                    continue;
                };
                let whole = outcomes.next().unwrap() == 0;
                let pause = whole.then(|| now + Duration::from_millis(5));
                schedule.answered(batch[0].entry.destination, pause);
                for held in batch {
                    if whole || outcomes.next().unwrap() == 0 {
                        schedule.retry(held, now + Duration::from_millis(3));
                    } else {
                        let key = held.entry.event.key.parse().unwrap();
                        done.entry((held.entry.destination.0, key)).or_default().push(held.entry.position.ordinal);
                        schedule.done(held);
                    }
                }
            }
            prop_assert!(schedule.is_empty());
            prop_assert_eq!(schedule.bytes(), 0);
            prop_assert_eq!(done, expected);
        }
    }
}
