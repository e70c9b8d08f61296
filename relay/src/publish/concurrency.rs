//! How many requests a destination has in flight: as many as are of use.
//!
//! Knows: how long requests took, and which were refused for going too fast. Must not know:
//! sockets, AWS, any clock but the `now` that it is handed.
//!
//! Two requests that are answered while most of what is allowed is in use let one more go: much
//! as in TCP's slow start the number grows by up to half with each round (doubled, it would be
//! far past the mark when that shows), until latency or the destination says that it is enough;
//! from then on it grows by one a round. (Not only the last that was allowed counts: answers come
//! in bursts, and of a burst one request alone is the last.) A request that is throttled or fails
//! takes three tenths away, once for all requests that were under way at that moment. Latency
//! that has grown without need ends the growth: more requests would only wait for each other, in
//! the destination or for the processor. How many wait is told as TCP Vegas tells it, from the
//! least latency and that of late.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// What is left of the number after a request that was throttled or failed.
const AFTER_OVERLOAD: f64 = 0.7;

/// How many there are to begin with, where the bounds allow it.
const TO_BEGIN_WITH: f64 = 8.0;

/// For how long the least latency is remembered. Then it is measured anew, with half as many
/// requests for a moment: or those that wait for each other would be taken for the way there.
const MEMORY: Duration = Duration::from_secs(20);

/// Latency that is of no account whatever the least is: a busy processor causes as much.
const SLACK: Duration = Duration::from_millis(2);

/// How many requests may wait for others before the number grows no more; with twice as many it
/// falls. Each holds some 100 KiB, so a destination far away would fill memory to no purpose.
const WAITING: f64 = 64.0;

/// What is remembered of a request, from its sending to its answer.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    sent: Instant,
    /// How often the number had been taken down before.
    round: u32,
    /// Whether more than half of those that were allowed were in flight with it.
    in_use: bool,
}

/// The number of requests that one destination may have in flight.
#[derive(Debug)]
pub struct Concurrency {
    bounds: RangeInclusive<u32>,
    allowed: f64,
    /// Whether the number still grows by up to half with each round.
    climbing: bool,
    /// How often it was taken down.
    round: u32,
    /// The latency of late, smoothed.
    latency: Option<Duration>,
    /// The least latency since then.
    least: Option<(Duration, Instant)>,
}

impl Concurrency {
    /// Between these bounds, of which the lower one is at least 1.
    #[must_use]
    pub fn new(bounds: RangeInclusive<u32>) -> Self {
        let mut concurrency =
            Self { bounds, allowed: 1.0, climbing: true, round: 0, latency: None, least: None };
        concurrency.set(TO_BEGIN_WITH);
        concurrency
    }

    /// Whether there are as few as may be.
    #[must_use]
    pub fn is_least(&self) -> bool {
        self.allowed <= f64::from(*self.bounds.start())
    }

    /// How many requests may be in flight.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 4096")]
    pub fn allowed(&self) -> usize {
        self.allowed as usize
    }

    /// Takes note of a request; `in_flight` are there with it.
    #[must_use]
    pub fn sent(&self, now: Instant, in_flight: usize) -> Ticket {
        Ticket { sent: now, round: self.round, in_use: in_flight * 2 > self.allowed() }
    }

    /// Takes note of an answer that says nothing against more of them.
    pub fn answered(&mut self, ticket: Ticket, now: Instant) {
        let latency = now.saturating_duration_since(ticket.sent);
        self.note(latency, now);
        let least = self.least.map_or(latency, |(least, _)| least);
        let smoothed = self.latency.unwrap_or(latency);
        let waiting = self.waiting(least, smoothed);
        if smoothed > least * 4 + SLACK * 4 || waiting > 2.0 * WAITING {
            self.climbing = false;
            self.set(self.allowed - 1.0 / self.allowed);
        } else if smoothed > least * 2 + SLACK || waiting > WAITING {
            self.climbing = false;
        } else if ticket.in_use && ticket.round == self.round {
            self.set(self.allowed + if self.climbing { 0.5 } else { 1.0 / self.allowed });
        }
    }

    /// Takes note of a request that was throttled, or failed as a whole.
    pub fn overloaded(&mut self, ticket: Ticket) {
        if ticket.round == self.round {
            self.round = self.round.wrapping_add(1);
            self.climbing = false;
            self.set(self.allowed * AFTER_OVERLOAD);
        }
    }

    /// How many of those that are allowed wait for others, where all are in use: what they would
    /// be more than the least latency needs for as many answers a second.
    fn waiting(&self, least: Duration, smoothed: Duration) -> f64 {
        if smoothed <= least + SLACK {
            return 0.0;
        }
        self.allowed * (1.0 - least.as_secs_f64() / smoothed.as_secs_f64())
    }

    fn set(&mut self, allowed: f64) {
        let (least, most) = (f64::from(*self.bounds.start()), f64::from(*self.bounds.end()));
        self.allowed = allowed.min(most).max(least).max(1.0);
    }

    fn note(&mut self, latency: Duration, now: Instant) {
        self.latency = Some(self.latency.map_or(latency, |before| (before * 7 + latency) / 8));
        match &mut self.least {
            Some((_, since)) if now.saturating_duration_since(*since) >= MEMORY => {
                self.least = None;
                self.latency = None;
                self.set(self.allowed / 2.0);
                self.climbing = true;
                // What was sent before still waited for the others.
                self.round = self.round.wrapping_add(1);
            }
            Some((least, _)) => *least = latency.min(*least),
            none @ None => *none = Some((latency, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// A destination that takes `capacity` requests at once, each for `latency`; what comes
    /// besides waits. How many are allowed after so many answers, all that is allowed in use.
    fn settled(latency: Duration, capacity: usize, answers: usize) -> usize {
        let mut concurrency = Concurrency::new(1..=512);
        let mut now = Instant::now();
        // When each place is free again, and the tickets in the order of their answers.
        let mut free = VecDeque::from(vec![now; capacity]);
        let mut flying: VecDeque<(Instant, Ticket)> = VecDeque::new();
        for _ in 0..answers {
            while flying.len() < concurrency.allowed() {
                let done = free.pop_front().unwrap().max(now) + latency;
                free.push_back(done);
                flying.push_back((done, concurrency.sent(now, flying.len() + 1)));
            }
            let (done, ticket) = flying.pop_front().unwrap();
            now = done;
            concurrency.answered(ticket, now);
        }
        concurrency.allowed()
    }

    #[test]
    fn it_reaches_what_the_destination_takes_whatever_its_latency() {
        for (latency, capacity) in [(1, 64), (15, 100), (100, 400)] {
            let found = settled(Duration::from_millis(latency), capacity, 40_000);
            assert!(found >= capacity, "{capacity} at {latency} ms, found {found}");
        }
        // As many as the bound where the destination takes them all.
        assert_eq!(settled(Duration::from_millis(100), 10_000, 5_000), 512);
    }

    #[test]
    fn it_does_not_pile_up_requests_that_only_wait_for_each_other() {
        let found = settled(Duration::from_millis(10), 8, 40_000);
        assert!((8..=48).contains(&found), "{found}");
        // Far away, twice the least latency would be 200 that wait; 64 may, and a round more comes
        // before that shows.
        let found = settled(Duration::from_millis(100), 200, 30_000);
        assert!((200..=340).contains(&found), "{found}");
    }

    /// Rounds of requests that are all answered at once, after `latency`.
    fn rounds(concurrency: &mut Concurrency, latency: Duration, rounds: usize, now: &mut Instant) {
        for _ in 0..rounds {
            let allowed = concurrency.allowed();
            let tickets: Vec<_> = (1..=allowed).map(|n| concurrency.sent(*now, n)).collect();
            *now += latency;
            tickets.into_iter().for_each(|ticket| concurrency.answered(ticket, *now));
        }
    }

    #[test]
    fn it_grows_as_fast_when_answers_come_in_bursts() {
        let mut now = Instant::now();
        let mut concurrency = Concurrency::new(1..=512);
        rounds(&mut concurrency, Duration::from_millis(15), 15, &mut now);
        assert!(concurrency.allowed() > 150, "{}", concurrency.allowed());
    }

    #[test]
    fn what_was_throttled_counts_once_a_round() {
        let now = Instant::now();
        let mut concurrency = Concurrency::new(100..=512);
        concurrency.set(200.0);
        let tickets: Vec<Ticket> = (0..200).map(|n| concurrency.sent(now, n)).collect();
        for ticket in tickets {
            concurrency.overloaded(ticket);
        }
        assert_eq!(concurrency.allowed(), 140);
        for _ in 0..20 {
            concurrency.overloaded(concurrency.sent(now, 1));
        }
        assert_eq!(concurrency.allowed(), 100, "not below the lower bound");
    }

    #[test]
    fn it_does_not_grow_while_not_all_is_in_use() {
        let now = Instant::now();
        let mut concurrency = Concurrency::new(4..=512);
        for _ in 0..1000 {
            concurrency.answered(concurrency.sent(now, 3), now);
        }
        assert_eq!(concurrency.allowed(), 8);
    }

    proptest! {
        #[test]
        fn the_bounds_hold_whatever_happens(
            least in 1_u32..50, more in 0_u32..500,
            happened in proptest::collection::vec((0_u64..5000, any::<bool>(), 0_usize..600), 0..500),
        ) {
            let mut concurrency = Concurrency::new(least..=least + more);
            let mut now = Instant::now();
            for (millis, well, in_flight) in happened {
                let ticket = concurrency.sent(now, in_flight);
                now += Duration::from_millis(millis);
                if well { concurrency.answered(ticket, now) } else { concurrency.overloaded(ticket) }
                let allowed = u32::try_from(concurrency.allowed()).unwrap();
                prop_assert!((least..=least + more).contains(&allowed), "{allowed}");
            }
        }
    }
}
