//! What each request meets: a light rain of faults, and moods that last a while.

use crate::plan::{MOODS, Mood};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tests::broker::{Broker, Fault};

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
        let sky = Self(Arc::new(Mutex::new(Moods { rng, background, lasting: Vec::new() })));
        let moods = Arc::clone(&sky.0);
        broker.draw(move |target| {
            moods.lock().unwrap_or_else(PoisonError::into_inner).next(target, Instant::now())
        });
        sky
    }

    /// Adds a mood.
    pub(crate) fn add(&self, mood: Mood, lasting: Duration, only: Option<String>) {
        let mut moods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moods.lasting.push(Lasting { mood, until: Instant::now() + lasting, only });
    }
}

impl Moods {
    fn next(&mut self, target: &str, now: Instant) -> Option<Fault> {
        self.lasting.retain(|lasting| lasting.until > now);
        let applies = |l: &&Lasting| l.only.as_ref().is_none_or(|only| only == target);
        let mood = self.lasting.iter().find(applies).map(|lasting| lasting.mood);
        match mood {
            Some(mood) if self.rng.u8(0..10) < IN_A_MOOD => Some(fault(&mut self.rng, mood)),
            Some(_) => None,
            None if self.rng.u8(0..100) < self.background => {
                let mood = MOODS[self.rng.usize(..MOODS.len())];
                Some(fault(&mut self.rng, mood))
            }
            None => None,
        }
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
        Mood::EntriesFail => entries(rng, "InternalError", false),
        Mood::EntriesRefused => entries(rng, "InvalidParameter", true),
        Mood::Shuffled => Fault::Shuffle,
        Mood::CredentialsExpired => {
            Fault::Forbid(if rng.bool() { "ExpiredToken" } else { "InvalidClientTokenId" })
        }
    }
}

/// About a third of the entries fail.
fn entries(rng: &mut fastrand::Rng, code: &'static str, sender_fault: bool) -> Fault {
    let places = (0..10).filter(|_| rng.u8(0..3) == 0).collect();
    Fault::FailEntries { places, code, sender_fault }
}
