//! The entries of one destination: queues by key, and what may go now.

use super::{BatchLimits, InFlight, Lane as Rules, Ordering, Work};
use crate::publish::breaker::{Breaker, Gate, Turn};
use crate::publish::concurrency::{Concurrency, Ticket};
use crate::publish::{Outgoing, backoff};
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Instant;

/// Entries of one key, a chain through the slab of entries.
#[derive(Debug, Default)]
struct KeyQueue {
    /// The key's hash, where entries of one key wait for each other. Two keys of one hash wait
    /// for each other too, which is stricter than need be and never wrong.
    hash: Option<u64>,
    first: Option<usize>,
    last: Option<usize>,
    /// How many of its entries are in flight: at most one request's.
    in_flight: usize,
    /// Those of them that came back to go again, in their order.
    back: Vec<Outgoing>,
    /// When they may.
    again_at: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    entry: Outgoing,
    behind: Option<usize>,
}

/// What became of a request as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It was answered, whatever became of its entries.
    Answered,
    /// Nothing of it was sent: its claim checks could not be put.
    NotAsked,
    /// It was answered, and the destination wants fewer of them.
    Throttled,
    /// It failed as a whole.
    Failed {
        /// Whether because the destination is not what it should be.
        wrong: bool,
    },
}

#[derive(Debug)]
pub(super) struct Lane {
    limits: BatchLimits,
    ordering: Ordering,
    hasher: RandomState,
    by_hash: HashMap<u64, usize>,
    keys: Slab<KeyQueue>,
    entries: Slab<Waiting>,
    /// Keys whose first entry may go now; each key at most once.
    ready: VecDeque<usize>,
    /// Keys whose first entry may go again later.
    later: BinaryHeap<Reverse<(Instant, usize)>>,
    requests: usize,
    concurrency: Concurrency,
    breaker: Breaker,
    /// Nothing is sent any more: an entry was refused and the operator wants to see it first.
    halted: bool,
    /// Nothing is sent yet: the destination's address is not known.
    nowhere: bool,
    /// Entries from push to done, and their weight.
    held: usize,
    weight: usize,
}

impl Lane {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            limits: rules.limits,
            ordering: rules.ordering,
            hasher: RandomState::new(),
            by_hash: HashMap::new(),
            keys: Slab::new(),
            entries: Slab::new(),
            ready: VecDeque::new(),
            later: BinaryHeap::new(),
            requests: 0,
            concurrency: Concurrency::new(rules.requests),
            breaker: Breaker::default(),
            halted: false,
            nowhere: false,
            held: 0,
            weight: 0,
        }
    }

    pub(super) fn push(&mut self, entry: Outgoing) {
        self.held += 1;
        self.weight += entry.weight();
        let hash =
            (self.ordering != Ordering::None).then(|| self.hasher.hash_one(&entry.event.key));
        if let Some(&key) = hash.and_then(|hash| self.by_hash.get(&hash)) {
            // Someone of this key is ready, in flight or waiting to go again: behind him.
            self.append(key, entry);
            return;
        }
        let key = self.keys.insert(KeyQueue { hash, ..KeyQueue::default() });
        self.append(key, entry);
        if let Some(hash) = hash {
            self.by_hash.insert(hash, key);
        }
        self.ready.push_back(key);
    }

    fn append(&mut self, key: usize, entry: Outgoing) {
        let at = self.entries.insert(Waiting { entry, behind: None });
        let queue = &mut self.keys[key];
        match queue.last.replace(at) {
            Some(last) => self.entries[last].behind = Some(at),
            None => queue.first = Some(at),
        }
    }

    fn prepend(&mut self, key: usize, entry: Outgoing) {
        let queue = &mut self.keys[key];
        let at = self.entries.insert(Waiting { entry, behind: queue.first });
        queue.first = Some(at);
        queue.last.get_or_insert(at);
    }

    /// The first waiting entry of a key: its size, and whether it must go alone.
    fn first(&self, key: usize) -> Option<(usize, bool)> {
        let first = &self.entries[self.keys[key].first?].entry;
        // What goes to S3 first is no reason for others to wait.
        let size = self.limits.in_request(first);
        let alone = first.alone || self.limits.is_claimed(first) || size > self.limits.bytes;
        Some((size, alone))
    }

    fn take_first(&mut self, key: usize) -> Option<InFlight> {
        let queue = &mut self.keys[key];
        let Waiting { entry, behind } = self.entries.remove(queue.first?);
        queue.first = behind;
        if behind.is_none() {
            queue.last = None;
        }
        queue.in_flight += 1;
        Some(InFlight { entry, key })
    }

    /// How many requests may be in flight now.
    fn allowed(&self, now: Instant) -> usize {
        match self.breaker.gate(now) {
            _ if self.halted || self.nowhere => 0,
            Gate::Closed => self.concurrency.allowed(),
            // Those that were under way when it opened do not hold back the one that tries.
            Gate::Probe => usize::MAX,
            Gate::Open(_) | Gate::Waiting => 0,
        }
    }

    /// Whether fewer keys are ready than all requests that may be in flight have room for, and a
    /// few more for as long as reading takes.
    pub(super) fn wants_more(&self) -> bool {
        const A_FEW: usize = 1000;
        let soon = self.concurrency.allowed() * self.limits.entries + A_FEW;
        self.ready.len() < soon || self.halted || self.nowhere || self.breaker.is_open()
    }

    pub(super) fn next(&mut self, now: Instant) -> Option<Work> {
        if self.requests >= self.allowed(now) {
            return None;
        }
        while let Some(&Reverse((at, key))) = self.later.peek() {
            if at > now {
                break;
            }
            self.later.pop();
            self.ready.push_back(key);
        }
        let (batch, too_large) = self.one_of_each_key();
        if let Some(too_large) = too_large {
            return Some(Work::TooLarge(too_large));
        }
        let batch = self.more_of_the_same(batch);
        if batch.is_empty() {
            return None;
        }
        self.requests += 1;
        self.breaker.sent();
        let ticket = self.concurrency.sent(now, self.requests);
        Some(Work::Send(batch, ticket))
    }

    /// The first entry of as many ready keys as fit; or one that is over the limit by itself.
    fn one_of_each_key(&mut self) -> (Vec<InFlight>, Option<InFlight>) {
        let mut batch: Vec<InFlight> = Vec::new();
        let mut bytes = 0;
        while batch.len() < self.limits.entries
            && let Some(&key) = self.ready.front()
        {
            let Some((size, alone)) = self.first(key) else {
                self.ready.pop_front();
                continue;
            };
            let too_large = size > self.limits.largest;
            if !batch.is_empty() && (alone || too_large || bytes + size > self.limits.bytes) {
                break;
            }
            self.ready.pop_front();
            let Some(taken) = self.take_first(key) else { continue };
            if too_large {
                return (batch, Some(taken));
            }
            bytes += size;
            batch.push(taken);
            if alone {
                break;
            }
        }
        (batch, None)
    }

    /// Where entries of one key may share a request: what is left of it is filled with those
    /// that follow.
    fn more_of_the_same(&mut self, mut batch: Vec<InFlight>) -> Vec<InFlight> {
        let alone = |held: &InFlight| {
            held.entry.alone
                || self.limits.is_claimed(&held.entry)
                || self.limits.in_request(&held.entry) > self.limits.bytes
        };
        let alone = batch.first().is_none_or(alone);
        if self.ordering != Ordering::PerKeyTogether || alone {
            return batch;
        }
        let mut bytes: usize = batch.iter().map(|held| self.limits.in_request(&held.entry)).sum();
        let mut keys: VecDeque<usize> = batch.iter().map(|held| held.key).collect();
        while batch.len() < self.limits.entries
            && let Some(key) = keys.pop_front()
        {
            let Some((size, false)) = self.first(key) else { continue };
            if bytes + size > self.limits.bytes {
                continue;
            }
            bytes += size;
            batch.extend(self.take_first(key));
            keys.push_back(key);
        }
        batch
    }

    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        if let Gate::Open(until) = self.breaker.gate(now) {
            let waits = !self.ready.is_empty() || !self.later.is_empty();
            return (waits && !self.halted && !self.nowhere).then_some(until);
        }
        if self.requests >= self.allowed(now) {
            return None;
        }
        // Whatever was ready was handed out when `next` was asked; what is ready now can go now.
        let now = (!self.ready.is_empty()).then_some(now);
        now.or_else(|| self.later.peek().map(|Reverse((at, _))| *at))
    }

    pub(super) fn answered(
        &mut self,
        ticket: Ticket,
        verdict: Verdict,
        now: Instant,
        random: f64,
    ) -> Option<Turn> {
        self.requests = self.requests.saturating_sub(1);
        match verdict {
            Verdict::Answered => self.concurrency.answered(ticket, now),
            Verdict::NotAsked => {}
            Verdict::Throttled | Verdict::Failed { .. } => self.concurrency.overloaded(ticket),
        }
        match verdict {
            Verdict::Failed { wrong } => self.breaker.failed(wrong, now, random),
            // Too fast even with as few as may be: only a pause can help.
            Verdict::Throttled if self.concurrency.is_least() => {
                self.breaker.failed(false, now, random)
            }
            Verdict::NotAsked => {
                self.breaker.not_asked();
                None
            }
            Verdict::Answered | Verdict::Throttled => self.breaker.answered(),
        }
    }

    /// When the entries of a request that failed as a whole may go again.
    pub(super) fn again_at(&self, now: Instant, random: f64) -> Instant {
        match self.breaker.gate(now) {
            Gate::Open(until) => until,
            Gate::Closed | Gate::Probe | Gate::Waiting => {
                now + backoff(self.breaker.failures().saturating_sub(1), random)
            }
        }
    }

    pub(super) fn done(&mut self, held: &InFlight) {
        self.held -= 1;
        self.weight = self.weight.saturating_sub(held.entry.weight());
        self.came_back(held.key);
    }

    /// So many bytes of an entry that is in flight are held elsewhere now.
    pub(super) fn freed(&mut self, bytes: usize) {
        self.weight = self.weight.saturating_sub(bytes);
    }

    pub(super) fn retry(&mut self, held: InFlight, at: Instant) {
        let InFlight { entry, key } = held;
        let queue = &mut self.keys[key];
        queue.back.push(entry);
        queue.again_at = queue.again_at.max(Some(at));
        self.came_back(key);
    }

    /// Once no entry of a key is in flight, those that came back go before the others again.
    fn came_back(&mut self, key: usize) {
        let queue = &mut self.keys[key];
        queue.in_flight = queue.in_flight.saturating_sub(1);
        if queue.in_flight > 0 {
            return;
        }
        let again_at = queue.again_at.take();
        for entry in std::mem::take(&mut queue.back).into_iter().rev() {
            self.prepend(key, entry);
        }
        match again_at {
            Some(at) => self.later.push(Reverse((at, key))),
            None if self.keys[key].first.is_some() => self.ready.push_back(key),
            None => {
                let gone = self.keys.remove(key);
                gone.hash.map(|hash| self.by_hash.remove(&hash));
            }
        }
    }

    pub(super) fn failures(&self) -> u32 {
        self.breaker.failures()
    }

    pub(super) fn set_limits(&mut self, limits: BatchLimits, known: bool) {
        (self.limits, self.nowhere) = (limits, !known);
    }

    pub(super) fn halt(&mut self) {
        self.halted = true;
    }

    pub(super) fn state(&self) -> LaneState {
        LaneState {
            held: self.held,
            weight: self.weight,
            requests: self.requests,
            allowed: self.concurrency.allowed(),
            open: self.breaker.is_open(),
            halted: self.halted || self.nowhere,
        }
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }
}

/// How a destination stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LaneState {
    /// Its events that are on their way.
    pub held: usize,
    /// The memory that they take, in bytes.
    pub weight: usize,
    /// Requests in flight.
    pub requests: usize,
    /// How many there may be.
    pub allowed: usize,
    /// Whether its breaker is open: it does not take events now.
    pub open: bool,
    /// Whether it was stopped for an event that it refused, or its address is not known yet.
    pub halted: bool,
}
