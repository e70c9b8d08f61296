//! The promises of the schedule, over random arrivals, outcomes, delays and restarts.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

/// The three manners of order, each at a destination of its own.
const MANNERS: [Ordering; 3] = [Ordering::PerKey, Ordering::PerKeyTogether, Ordering::None];
const BUDGET: usize = 6000;

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Accepted,
    /// Its entries are accepted, but those at odd places are not.
    InPart,
    /// Its first entry is refused for good.
    Refused,
    Throttled,
    /// It fails as a whole; nothing of it was accepted.
    Failed,
    /// It fails as a whole; all of it was accepted.
    Unheard,
    /// The destination is wrong.
    Wrong,
    /// The relay is killed before it is answered.
    Killed,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => Just(Happens::Accepted),
        2 => Just(Happens::InPart),
        1 => Just(Happens::Refused),
        1 => Just(Happens::Throttled),
        2 => Just(Happens::Failed),
        1 => Just(Happens::Unheard),
        1 => Just(Happens::Wrong),
        1 => Just(Happens::Killed),
    ]
}

/// A source, a schedule and a broker.
struct World {
    arrivals: Vec<(usize, u8, usize)>,
    schedule: Schedule,
    /// How many arrivals were pushed since the last start.
    pushed: usize,
    /// Those that are accepted or set aside, as far as the relay has heard.
    settled: BTreeSet<usize>,
    /// What the broker has accepted, in order, and what was set aside.
    accepted: Vec<usize>,
    set_aside: BTreeSet<usize>,
    /// How often each was sent, and how often there was a cause to send it again.
    sent: HashMap<usize, u32>,
    causes: HashMap<usize, u32>,
    in_flight: Vec<(Vec<InFlight>, Ticket)>,
    now: Instant,
}

impl World {
    fn new(arrivals: Vec<(usize, u8, usize)>) -> Self {
        Self {
            arrivals,
            schedule: Self::schedule(),
            pushed: 0,
            settled: BTreeSet::new(),
            accepted: Vec::new(),
            set_aside: BTreeSet::new(),
            sent: HashMap::new(),
            causes: HashMap::new(),
            in_flight: Vec::new(),
            now: Instant::now(),
        }
    }

    fn schedule() -> Schedule {
        let lane = |ordering| Lane { limits: LIMITS, ordering, requests: 1..=3 };
        Schedule::new(MANNERS.map(lane), BUDGET)
    }

    /// Reads what there is room for: from the start, what was not settled in this process.
    fn read(&mut self) -> Result<(), TestCaseError> {
        while self.schedule.has_room() && self.pushed < self.arrivals.len() {
            let n = self.pushed;
            self.pushed += 1;
            if !self.settled.contains(&n) {
                let (destination, key, bytes) = self.arrivals[n];
                let key = key.to_string();
                self.schedule.push(entry(destination, &key, u64::try_from(n).unwrap(), bytes));
            }
        }
        let largest = entry(0, "255", 0, 400).weight();
        prop_assert!(self.schedule.weight() < BUDGET + largest, "the budget holds");
        Ok(())
    }

    fn send(&mut self) -> Result<(), TestCaseError> {
        while let Some(work) = self.schedule.next(self.now) {
            let (batch, ticket) = sent(Some(work));
            prop_assert!(!batch.is_empty() && batch.len() <= LIMITS.entries);
            let bytes: usize = batch.iter().map(|held| held.entry.bytes()).sum();
            prop_assert!(bytes <= LIMITS.bytes);
            let destination = batch[0].entry.destination;
            for (i, held) in batch.iter().enumerate() {
                prop_assert_eq!(held.entry.destination, destination);
                let n = ordinal(held);
                *self.sent.entry(n).or_default() += 1;
                let (sent, causes) = (self.sent[&n], self.causes.get(&n).copied().unwrap_or(0));
                prop_assert!(sent <= causes + 1, "{n} was sent {sent} times for {causes} causes");
                let of_its_key = |other: &InFlight| other.entry.event.key == held.entry.event.key;
                let manner = MANNERS[destination.0];
                if manner != Ordering::None {
                    let elsewhere = self.in_flight.iter().flat_map(|(batch, _)| batch);
                    let mut elsewhere = elsewhere.filter(|o| o.entry.destination == destination);
                    prop_assert!(!elsewhere.any(of_its_key), "two requests of one key");
                }
                if manner == Ordering::PerKey {
                    prop_assert!(!batch[..i].iter().any(of_its_key), "two entries of one key");
                }
            }
            self.in_flight.push((batch, ticket));
        }
        Ok(())
    }

    fn accept(&mut self, held: InFlight) {
        let n = ordinal(&held);
        self.accepted.push(n);
        self.settled.insert(n);
        self.schedule.done(held);
    }

    fn again(&mut self, held: InFlight, at: Instant) {
        *self.causes.entry(ordinal(&held)).or_default() += 1;
        self.schedule.retry(held, at);
    }

    /// A process that knows nothing but what the source still has.
    fn restart(&mut self) {
        for (batch, _) in self.in_flight.drain(..) {
            for held in batch {
                *self.causes.entry(ordinal(&held)).or_default() += 1;
            }
        }
        self.schedule = Self::schedule();
        self.pushed = 0;
        // The source forgets up to the first that is not settled; the rest comes again.
        let confirmed = (0..).find(|n| !self.settled.contains(n)).unwrap();
        for n in self.settled.split_off(&confirmed) {
            *self.causes.entry(n).or_default() += 1;
        }
    }

    fn answer(&mut self, which: usize, what: Happens) {
        let (batch, ticket) = self.in_flight.remove(which);
        let destination = batch[0].entry.destination;
        let what = match what {
            // One that fails alone may put those behind it before it: the operator's choice.
            Happens::InPart if MANNERS[destination.0] == Ordering::PerKeyTogether => {
                Happens::Failed
            }
            what => what,
        };
        let verdict = match what {
            Happens::Failed | Happens::Unheard => Verdict::Failed { wrong: false },
            Happens::Wrong => Verdict::Failed { wrong: true },
            Happens::Throttled => Verdict::Throttled,
            _ => Verdict::Answered,
        };
        if !matches!(what, Happens::Killed) {
            self.schedule.answered(destination, ticket, verdict, self.now, 0.7);
        }
        let at = self.schedule.again_at(destination, self.now, 0.3);
        for (place, held) in batch.into_iter().enumerate() {
            let n = ordinal(&held);
            match what {
                Happens::Accepted => self.accept(held),
                Happens::InPart if place % 2 == 0 => self.accept(held),
                Happens::Refused if place > 0 => self.accept(held),
                Happens::Refused => {
                    self.set_aside.insert(n);
                    self.settled.insert(n);
                    self.schedule.done(held);
                }
                Happens::Unheard | Happens::Killed => {
                    self.accepted.push(n);
                    self.again(held, at);
                }
                Happens::InPart | Happens::Throttled | Happens::Failed | Happens::Wrong => {
                    self.again(held, at);
                }
            }
        }
        if matches!(what, Happens::Killed) {
            self.restart();
        }
    }

    fn judge(&self) -> Result<(), TestCaseError> {
        let mut first: HashMap<(usize, u8), Vec<usize>> = HashMap::new();
        let mut known = BTreeSet::new();
        for &n in &self.accepted {
            let (destination, key, _) = self.arrivals[n];
            if known.insert(n) {
                first.entry((destination, key)).or_default().push(n);
            }
        }
        for n in 0..self.arrivals.len() {
            prop_assert!(known.contains(&n) || self.set_aside.contains(&n), "{n} is lost");
        }
        for ((destination, key), order) in first {
            // An event that was set aside once and accepted after a restart is out of it.
            let order: Vec<usize> =
                order.into_iter().filter(|n| !self.set_aside.contains(n)).collect();
            let in_order = order.is_sorted() || MANNERS[destination] == Ordering::None;
            prop_assert!(in_order, "{key} at {destination}: {order:?}");
        }
        Ok(())
    }
}

fn ordinal(held: &InFlight) -> usize {
    usize::try_from(held.entry.position.ordinal).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Nothing is lost, the order of each key holds, nothing is sent again without a cause,
    /// the budget holds, and whenever a key is free there is progress.
    #[test]
    fn the_promises_hold_whatever_happens(
        arrivals in proptest::collection::vec((0_usize..3, 0_u8..6, 1_usize..400), 1..150),
        happened in proptest::collection::vec((happens(), any::<prop::sample::Index>()), 0..150),
    ) {
        let mut world = World::new(arrivals);
        let mut happened = happened.into_iter();
        loop {
            world.read()?;
            world.send()?;
            world.now += Duration::from_millis(1);
            if world.in_flight.is_empty() {
                if world.schedule.is_empty() && world.pushed == world.arrivals.len() {
                    break;
                }
                // Nothing is on its way and not all is done: there is something to wait for.
                let wake = world.schedule.wake_at(world.now);
                prop_assert!(wake.is_some(), "no progress");
                world.now = wake.unwrap().max(world.now);
                continue;
            }
            let (what, which) = happened.next().map_or((Happens::Accepted, 0), |(what, which)| {
                (what, which.index(world.in_flight.len()))
            });
            world.answer(which, what);
        }
        world.judge()?;
        prop_assert_eq!(world.schedule.weight(), 0);
    }
}
