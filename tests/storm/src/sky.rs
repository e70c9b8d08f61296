//! What each request meets: a light rain of faults, and moods that last a while.

use crate::plan::{MOODS, Mood};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tests::broker::{Broker, Fault};

/// The code of an entry that is refused for the sender's fault.
pub(crate) const REFUSED: &str = "InvalidParameter";

/// While a mood lasts, of ten requests so many meet it.
const IN_A_MOOD: u8 = 8;

/// The moods of a broker.
#[derive(Clone, Debug)]
pub(crate) struct Sky(Arc<Mutex<Moods>>);

#[derive(Debug)]
struct Moods {
    rng: fastrand::Rng,
    /// Of a hundred requests so many meet a fault in no mood at all.
    background: u8,
    lasting: Vec<Lasting>,
    /// Nothing is accepted.
    refuses_all: bool,
    /// How many requests were to be accepted and their answers cut.
    cuts: usize,
}

#[derive(Debug)]
struct Lasting {
    mood: Mood,
    until: Instant,
    /// The topic's ARN or the queue's name, or all of them.
    only: Option<String>,
}

impl Sky {
    /// Over this broker, from now on.
    pub(crate) fn over(broker: &Broker, seed: u64, background: u8) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let lasting = Vec::new();
        let moods = Moods { rng, background, lasting, refuses_all: false, cuts: 0 };
        let sky = Self(Arc::new(Mutex::new(moods)));
        let moods = Arc::clone(&sky.0);
        broker.draw(move |target| {
            moods.lock().unwrap_or_else(PoisonError::into_inner).next(target, Instant::now())
        });
        sky
    }

    /// How many requests at most were accepted without an answer.
    pub(crate) fn cuts(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).cuts
    }

    /// From now on nothing is accepted, or what the moods let through.
    pub(crate) fn refuse_all(&self, refuses: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refuses_all = refuses;
    }

    /// Adds a mood.
    pub(crate) fn add(&self, mood: Mood, lasting: Duration, only: Option<String>) {
        let mut moods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moods.lasting.push(Lasting { mood, until: Instant::now() + lasting, only });
    }
}

impl Moods {
    fn next(&mut self, target: &str, now: Instant) -> Option<Fault> {
        if self.refuses_all {
            return Some(Fault::ServerError);
        }
        self.lasting.retain(|lasting| lasting.until > now);
        let applies = |l: &&Lasting| l.only.as_ref().is_none_or(|only| only == target);
        let mood = match self.lasting.iter().find(applies) {
            Some(lasting) => (self.rng.u8(0..10) < IN_A_MOOD).then_some(lasting.mood),
            None => (self.rng.u8(0..100) < self.background)
                .then(|| MOODS[self.rng.usize(..MOODS.len())]),
        }?;
        self.cuts += usize::from(mood == Mood::AcceptThenCut);
        Some(fault(&mut self.rng, mood))
    }
}

fn fault(rng: &mut fastrand::Rng, mood: Mood) -> Fault {
    match mood {
        Mood::Throttled => Fault::Throttle,
        Mood::ServerErrors => Fault::ServerError,
        Mood::Hanging => Fault::Hang(Duration::from_millis(rng.u64(100..2000))),
        Mood::CutBefore => Fault::CutBefore,
        Mood::AcceptThenCut => Fault::CutAfter,
        Mood::Slow => Fault::Slow(Duration::from_millis(rng.u64(10..500))),
        Mood::EntriesFail => {
            Fault::FailEntries { places: some(rng), code: "InternalError", sender_fault: false }
        }
        Mood::EntriesRefused => {
            Fault::FailEntries { places: some(rng), code: REFUSED, sender_fault: true }
        }
        Mood::Shuffled => Fault::Shuffle(some(rng)),
        Mood::CredentialsExpired => {
            Fault::Forbid(if rng.bool() { "ExpiredToken" } else { "InvalidClientTokenId" })
        }
    }
}

/// About a third of the places of a request.
fn some(rng: &mut fastrand::Rng) -> Vec<usize> {
    (0..10).filter(|_| rng.u8(0..3) == 0).collect()
}
