//! Each destination is asked for its limits until it has told them, and from time to time.

use super::Pipeline;
use crate::condition::{Condition, Conditions};
use crate::publish::schedule::InFlight;
use crate::publish::{DestinationError, DestinationId, Publisher, Retry};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The kind of the condition that a destination does not tell its limits.
const KIND: &str = "limits";

/// A limit that is changed is taken up after so long at most.
const EVERY: Duration = Duration::from_secs(300);
/// A destination that may not be asked, or is away for long, is asked so often.
const SELDOM: Duration = Duration::from_secs(60);
/// So many attempts follow the usual back-off before that.
const OFTEN: u32 = 12;
/// An attempt takes no longer. Nothing is sent before the first has ended.
const LIMIT: Duration = Duration::from_secs(5);
/// An answer of this age is good enough to call an event too large.
const FRESH: Duration = Duration::from_secs(5);

/// Asks one destination; dropped, it stops.
#[derive(Debug)]
pub(super) struct Learner {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// When an attempt last ended.
    asked_at: Mutex<Option<Instant>>,
    again: Notify,
}

impl Shared {
    fn asked_at(&self) -> Option<Instant> {
        *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Learner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Learner {
    /// Begins to ask; tells `changed` after each attempt.
    pub(super) fn start<P: Publisher>(
        publisher: P,
        conditions: Conditions,
        changed: Arc<Notify>,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(learn(publisher, conditions, Arc::clone(&shared), changed));
        Self { shared, task }
    }

    /// Whether it was asked at all by now.
    pub(super) fn has_asked(&self) -> bool {
        self.shared.asked_at().is_some()
    }

    /// Whether what is known is fresh; else it is asked again.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let asked_at = self.shared.asked_at();
        let fresh = asked_at.is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        if !fresh {
            self.ask_again();
        }
        fresh
    }

    /// Asks again now.
    pub(super) fn ask_again(&self) {
        self.shared.again.notify_one();
    }
}

async fn learn<P: Publisher>(
    publisher: P,
    conditions: Conditions,
    shared: Arc<Shared>,
    changed: Arc<Notify>,
) {
    let name = publisher.name().to_owned();
    let (mut retry, mut told, mut wanted) = (Retry::default(), false, false);
    loop {
        let tried = tokio::time::timeout(LIMIT, publisher.learn_limits()).await;
        let late = || DestinationError::Asked {
            code: "unreachable".to_owned(),
            message: format!("no answer for {LIMIT:?}"),
        };
        let wait = match tried.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {
                retry.achieved();
                told = true;
                conditions.clear(KIND, &name);
                EVERY
            }
            Err(error) => {
                // What was told once holds until it is told anew, but not for an event that is over it
                // and waits for the answer: the destination judges that one.
                if wanted {
                    publisher.forget_limits();
                    told = false;
                }
                if !told {
                    conditions.set(KIND, &name, not_told(&name, publisher.is_known(), &error));
                }
                let wait = retry.next(fastrand::f64());
                let often = retry.failures() < OFTEN || !publisher.is_known();
                if often { wait } else { SELDOM }
            }
        };
        *shared.asked_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        changed.notify_one();
        wanted = tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = shared.again.notified() => true,
        };
    }
}

fn not_told(name: &str, is_known: bool, error: &DestinationError) -> Condition {
    if is_known {
        let found = format!(
            "expected {name} to tell its MaximumMessageSize, found: {error}; events above 256 KiB go to it alone, and it judges them itself"
        );
        let cure = "give the relay's role sns:GetTopicAttributes (sqs:GetQueueAttributes on a queue); it is asked again by itself";
        return Condition::notice(found, cure);
    }
    let found = format!(
        "expected {name} to tell its URL, found: {error}; events to it wait, those to others flow"
    );
    let cure = "check that the queue exists, give the relay's role sqs:GetQueueUrl and sqs:GetQueueAttributes on it, or set its URL in place of its ARN; it is asked again by itself";
    Condition::partial(found, cure)
}

impl<P: Publisher> Pipeline<P> {
    /// Takes up what the destinations have told.
    pub(super) fn take_limits(&mut self) {
        for (at, (to, learner)) in self.destinations.iter().zip(&self.learners).enumerate() {
            let known = to.publisher.is_known() && learner.has_asked();
            self.schedule.set_limits(DestinationId(at), to.publisher.limits(), known);
        }
    }

    /// An entry over its destination's limit: a dead letter, once that limit is known afresh.
    pub(super) fn too_large(&mut self, entry: InFlight, now: Instant) {
        const SOON: Duration = Duration::from_millis(500);
        let at = entry.entry.destination.0;
        if !self.learners[at].is_fresh(now) {
            self.schedule.put_back(entry, now + SOON);
            return;
        }
        let reason = format!(
            "expected at most {} bytes, the destination's limit, found {}; make the payload smaller or raise MaximumMessageSize",
            self.destinations[at].publisher.limits().largest,
            entry.entry.bytes()
        );
        self.refused(entry, reason, None);
    }
}
