//! The task that asks for all who wait.
//!
//! Knows: when a wait is due, and when it is over. Must not know: SQL.
//!
//! ```text
//! ask ─▶ announce ─▶ ask ─▶ (notified, or a pause is over) ─▶ ask … ─▶ reached, or its time is over
//! ```
//!
//! It asks again right after announcing: what was committed in between notified
//! no one. A transaction that had looked for announcements before and commits
//! after that is found by the pauses, which is why they start small.

use super::ask::Asking;
use super::{Pauses, Target, Unavailable, Waited};
use crate::error::{Error, chain};
use dsn::Dsn;
use std::collections::HashSet;
use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// The pause between two tries to ask a read model that does not answer.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// One that waits.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) target: Target,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<Waited, Unavailable>>,
}

#[derive(Debug)]
struct Waiting {
    wait: Wait,
    /// When to ask next.
    due: Instant,
    pause: Duration,
    /// The key that it is announced under, once it is.
    key: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Watch {
    dsn: Dsn,
    pauses: Pauses,
    /// A pooler hands out a server connection for each transaction.
    pooled: bool,
    asking: Option<Asking>,
    waiting: Vec<Waiting>,
    /// Keys whose waits are over.
    over: HashSet<i64>,
}

impl Watch {
    pub(super) async fn open(dsn: Dsn, pauses: Pauses, pooled: bool) -> Result<Self, Error> {
        let asking = Some(Asking::open(&dsn, pooled).await?);
        Ok(Self { dsn, pauses, pooled, asking, waiting: Vec::new(), over: HashSet::new() })
    }

    /// Runs until no one can ask any more.
    pub(super) async fn run(mut self, mut requests: UnboundedReceiver<Wait>) {
        loop {
            let next = self.next();
            tokio::select! {
                request = requests.recv() => {
                    let Some(request) = request else { break };
                    self.take(request);
                    while let Ok(request) = requests.try_recv() {
                        self.take(request);
                    }
                }
                heard = hear(&mut self.asking) => self.heard(heard),
                () = at(next) => {}
            }
            self.look().await;
        }
        // Those who waited are gone.
        self.end_abandoned();
        self.forget().await;
    }

    fn take(&mut self, wait: Wait) {
        let (due, pause) = (Instant::now(), self.pauses.first);
        self.waiting.push(Waiting { wait, due, pause, key: None });
    }

    fn heard(&mut self, key: Option<i64>) {
        let now = Instant::now();
        if key.is_none() {
            self.disconnected();
        }
        for waiting in &mut self.waiting {
            if key.is_none() || waiting.key == key {
                waiting.due = now;
            }
        }
    }

    /// When the next wait is due, or over.
    fn next(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.due.min(waiting.wait.deadline)).min()
    }

    /// Asks for all that are due.
    async fn look(&mut self) {
        self.end_abandoned();
        let now = Instant::now();
        let due = |waiting: &Waiting| waiting.due.min(waiting.wait.deadline) <= now;
        // Where each stands moves when others end, so they are taken out while they are asked for.
        let (mut asked, rest) = mem::take(&mut self.waiting).into_iter().partition(due);
        self.waiting = rest;
        let result = self.ask(&mut asked, now).await;
        if let Err(error) = result {
            self.failed(&mut asked, error);
        }
        self.waiting.append(&mut asked);
        self.forget().await;
    }

    /// Ends those that are reached or over, and announces those that are neither.
    async fn ask(&mut self, asked: &mut Vec<Waiting>, now: Instant) -> Result<(), Error> {
        if asked.is_empty() {
            return Ok(());
        }
        let asking = match self.asking.take().filter(|asking| !asking.is_gone()) {
            Some(asking) => asking,
            None => Asking::open(&self.dsn, self.pooled).await?,
        };
        let asking = self.asking.insert(asking);
        let reached: HashSet<usize> =
            asking.reached(&targets(asked, now)).await?.into_iter().collect();
        let mut still = Vec::with_capacity(asked.len());
        for (place, mut waiting) in asked.drain(..).enumerate() {
            let is_reached = reached.contains(&place);
            if is_reached || waiting.wait.deadline <= now {
                let waited = if is_reached { Waited::Reached } else { Waited::TimedOut };
                self.over.extend(waiting.end(Ok(waited)));
                continue;
            }
            waiting.due = Instant::now() + waiting.pause;
            waiting.pause = (waiting.pause * 2).min(self.pauses.longest);
            still.push(waiting);
        }
        *asked = still;
        announce(asking, asked, now).await
    }

    /// The connection is of no more use: what was announced over it is announced anew.
    fn disconnected(&mut self) {
        self.asking = None;
        self.over.clear();
        for waiting in &mut self.waiting {
            waiting.key = None;
        }
    }

    fn failed(&mut self, asked: &mut Vec<Waiting>, error: Error) {
        self.disconnected();
        let may_pass = error.may_pass();
        let now = Instant::now();
        tracing::warn!(error = chain(&error), "the read model cannot be asked how far it is");
        let error = Arc::new(error);
        for mut waiting in mem::take(asked) {
            if !may_pass || waiting.wait.deadline <= now {
                let _ = waiting.end(Err(Unavailable::Failed(Arc::clone(&error))));
            } else {
                waiting.key = None;
                waiting.due = now + BETWEEN_TRIES;
                asked.push(waiting);
            }
        }
    }

    /// Ends the waits whose callers have gone away.
    fn end_abandoned(&mut self) {
        let (gone, rest) = mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting: &Waiting| waiting.wait.answer.is_closed());
        self.waiting = rest;
        let gone: Vec<Waiting> = gone;
        self.over.extend(gone.into_iter().filter_map(|waiting| waiting.key));
    }

    /// Takes back what no one waits for any more, so that no one is notified of it.
    async fn forget(&mut self) {
        for waiting in &self.waiting {
            if let Some(key) = waiting.key {
                self.over.remove(&key);
            }
        }
        let keys: Vec<i64> = self.over.drain().collect();
        if keys.is_empty() {
            return;
        }
        if let Some(asking) = &self.asking
            && let Err(error) = asking.forget(&keys).await
        {
            // They expire.
            tracing::debug!(error = chain(&error), "what is no longer waited for stays announced");
        }
    }
}

impl Waiting {
    /// Tells the one who waits; the key that it waited under. One that went away needs no answer.
    fn end(self, answer: Result<Waited, Unavailable>) -> Option<i64> {
        let _ = self.wait.answer.send(answer);
        self.key
    }
}

/// Announces those that are not announced yet, and has them asked for again at once.
async fn announce(asking: &mut Asking, asked: &mut [Waiting], now: Instant) -> Result<(), Error> {
    let new = |waiting: &&mut Waiting| waiting.key.is_none();
    let mut fresh: Vec<&mut Waiting> = asked.iter_mut().filter(new).collect();
    if fresh.is_empty() || !asking.announces {
        return Ok(());
    }
    let wanted: Vec<_> =
        fresh.iter().map(|w| (&w.wait.target, w.wait.deadline.duration_since(now))).collect();
    let keys = asking.announce(&wanted).await?;
    for (place, key) in keys {
        if let Some(waiting) = fresh.get_mut(place) {
            waiting.key = Some(key);
            waiting.due = now;
        }
    }
    Ok(())
}

fn targets(asked: &[Waiting], now: Instant) -> Vec<(&Target, Duration)> {
    asked.iter().map(|w| (&w.wait.target, w.wait.deadline.duration_since(now))).collect()
}

async fn hear(asking: &mut Option<Asking>) -> Option<i64> {
    match asking {
        Some(asking) => asking.hear().await,
        None => pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
