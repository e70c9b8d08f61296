//! The ways in which the given events are delivered, and one delivery in one of them.

use super::{Failure, Scratch};
use crate::batch::Outcome;
use crate::consumer::Consumer;
use crate::error::chain;
use crate::handler::{Handler, HandlerError, Mode, Tx};
use crate::record::Record;
use crate::version::{Key, key};
use envelope::Event;
use fastrand::Rng;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio_postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

/// Ends whatever works on this database but the one who asks.
const KILL: &str = "select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()";

/// What an author does about rows that go backwards.
pub(super) const LATE: &str = "\nA parked event that is replayed, and an event without a version, come behind later ones, and the row must not go back. Keep the version in the row (0 for an event without one), and let an event change what no later one has set: set status = case when $2 > version then $3 else status end, version = greatest(version, $2). Where a projection is never replayed and has versions only, Given::without_late_events leaves this out.";

/// How many of the last deliveries a message shows.
const SHOWN: usize = 30;

/// A way of delivery.
pub(super) struct Manner {
    name: &'static str,
    twice: bool,
    reordered: bool,
    batches: Batches,
    fails: bool,
    parks: Parks,
}

/// Which events the test parks at their first delivery, to replay them when all others are done.
#[derive(Clone, Copy, PartialEq)]
enum Parks {
    None,
    /// The last but one of each aggregate.
    LastButOne,
    /// Any but the last of each aggregate.
    Any,
}

#[derive(Clone, Copy)]
enum Batches {
    One,
    All,
    Any,
}

/// Each way, with a number that makes its random choices others.
pub(super) fn all(rounds: u64) -> Vec<(Manner, u64)> {
    use Batches::{All, Any, One};
    let manner = |name, twice, reordered, batches, fails| {
        move |round| (Manner { name, twice, reordered, batches, fails, parks: Parks::None }, round)
    };
    let once = [
        manner("clean delivery", false, false, One, false),
        manner("every event twice", true, false, Any, false),
        manner("one batch", false, false, All, false),
    ];
    let random = [
        manner("batches of any size", false, false, Any, false),
        manner("reordered", false, true, Any, false),
        manner("with failures", false, false, Any, true),
        manner("twice, reordered, with failures", true, true, Any, true),
    ];
    let once = once.iter().map(|of| of(0));
    once.chain((0..rounds).flat_map(|round| random.iter().map(move |of| of(round)))).collect()
}

/// Each way in which parked events are replayed behind later ones.
pub(super) fn replays(rounds: u64) -> impl Iterator<Item = (Manner, u64)> {
    let manner = |parks| Manner {
        name: "a parked event replayed behind later ones",
        twice: false,
        reordered: false,
        batches: Batches::Any,
        fails: false,
        parks,
    };
    let any = (0..rounds).map(move |round| (manner(Parks::Any), round));
    std::iter::once((manner(Parks::LastButOne), 0)).chain(any)
}

/// One event after the other.
pub(super) fn clean() -> Manner {
    let all = all(0);
    all.into_iter().map(|(manner, _)| manner).next().unwrap_or_else(|| unreachable!())
}

/// What the deliveries have in common.
pub(super) struct Run<'a, F> {
    pub(super) records: Vec<Record>,
    pub(super) fifo: bool,
    pub(super) seed: u64,
    pub(super) query: &'a str,
    pub(super) handler: F,
}

impl<H: Handler, F: Fn() -> H> Run<'_, F> {
    /// Delivers in one way, and compares. Clean delivery comes first, so what is expected of the
    /// others is what it led to.
    pub(super) async fn try_one(
        &self,
        manner: &Manner,
        database: &Scratch,
        expected: &[Vec<String>],
    ) -> Result<(), Failure> {
        let (client, _driver) = database.dsn().connect("relay test").await?;
        let mut log = Vec::new();
        let settled = self.deliver(manner, database, &client, &mut log).await;
        let advice = if manner.parks == Parks::None { "" } else { LATE };
        let found = rows(&client, self.query).await?;
        let difference = match settled {
            Err(never) => never,
            Ok(()) if found == expected => return Ok(()),
            Ok(()) => difference(expected, &found),
        };
        let parked = "select 'parked: ' || event_type || ' of ' || aggregate_id || ': ' || reason
            from relay.parked order by id";
        let parked = rows(&client, parked).await?;
        let mut text = format!("{}: {difference}\nthe rows of: {}", manner.name, self.query);
        for line in parked.iter().flatten() {
            let _ = write!(text, "\n{line}");
        }
        text.push_str(advice);
        let _ = write!(text, "\nthe last of {} deliveries:", log.len());
        for line in log.iter().skip(log.len().saturating_sub(SHOWN)) {
            let _ = write!(text, "\n  {line}");
        }
        Err(self.failure(text))
    }

    /// Delivers one event after the other: the rows, and how many events were parked.
    pub(super) async fn rows_after(
        &self,
        database: &Scratch,
    ) -> Result<(Vec<Vec<String>>, usize), Failure> {
        let (client, _driver) = database.dsn().connect("relay test").await?;
        let settled = self.deliver(&clean(), database, &client, &mut Vec::new()).await;
        settled.map_err(|found| self.failure(found))?;
        let parked = rows(&client, "select id from relay.parked").await?;
        Ok((rows(&client, self.query).await?, parked.len()))
    }

    /// What is wrong with the projection.
    pub(super) fn failure(&self, found: String) -> Failure {
        let projection = (self.handler)().name().to_owned();
        Failure::Delivery { projection, found, seed: self.seed }
    }

    /// Until the queue is empty; otherwise says what is never done.
    async fn deliver(
        &self,
        manner: &Manner,
        database: &Scratch,
        client: &Client,
        log: &mut Vec<String>,
    ) -> Result<(), String> {
        let mut random = Rng::with_seed(self.seed);
        let most = if manner.fails { self.records.len().clamp(4, 40) } else { 0 };
        let parks = self.parked(manner.parks, &mut random);
        let replays = !parks.is_empty();
        let faults = Arc::new(Faults {
            left: Mutex::new((most, random.fork())),
            died: Notify::new(),
            parks: Mutex::new(parks),
        });
        let new = || {
            let handler = Failing { handler: (self.handler)(), faults: Arc::clone(&faults) };
            Consumer::new(handler, &database.dsn())
        };
        let (mut queue, mut consumer) = (self.queue(manner, &mut random), new());
        // Deliveries in which nothing was done: more than faults and a full turn of the queue
        // explain are too many.
        let mut in_vain = 0;
        while !queue.is_empty() {
            if in_vain > 2 * (queue.len() + most) {
                let left: Vec<_> = queue.iter().map(shown).collect();
                return Err(format!("never done: {}", left.join(", ")));
            }
            if faults.kills_between() {
                client.batch_execute(KILL).await.map_err(|error| chain(&error))?;
                log.push("its connection is killed".to_owned());
            }
            let size = match manner.batches {
                Batches::One => 1,
                Batches::All => queue.len(),
                Batches::Any => random.usize(1..=10).min(queue.len()),
            };
            let batch: Vec<Record> = queue.drain(..size).collect();
            let report = tokio::select! {
                report = consumer.deliver(batch.clone()) => report,
                () = faults.died.notified() => {
                    consumer = new();
                    log.push("the host dies before the commit of:".to_owned());
                    Ok(crate::Report::failed(size))
                }
            };
            let outcomes: Vec<_> = match report {
                Ok(report) => report.outcomes.into_iter().map(|(_, outcome)| outcome).collect(),
                Err(error) => {
                    log.push(chain(&error));
                    vec![Outcome::Failed; size]
                }
            };
            let line: Vec<_> =
                batch.iter().zip(&outcomes).map(|(r, o)| format!("{} {o:?}", shown(r))).collect();
            log.push(line.join(", "));
            in_vain = if outcomes.iter().any(|o| o.is_done()) { 0 } else { in_vain + 1 };
            let forgotten = faults.forgets();
            if forgotten {
                log.push("the queue does not hear of it".to_owned());
            }
            let again = batch.into_iter().zip(outcomes).filter(|(_, o)| forgotten || !o.is_done());
            let mut again: Vec<Record> = again.map(|(record, _)| record).collect();
            again.iter_mut().for_each(|record| record.receive_count += 1);
            if self.fifo {
                again.into_iter().rev().for_each(|record| queue.push_front(record));
            } else {
                queue.extend(again);
            }
        }
        if replays {
            faults.parks.lock().unwrap_or_else(PoisonError::into_inner).clear();
            replay(&mut consumer, client, log).await?;
        }
        Ok(())
    }

    /// The events that are parked at first.
    fn parked(&self, parks: Parks, random: &mut Rng) -> HashSet<Uuid> {
        let mut aggregates: BTreeMap<Key, Vec<Uuid>> = BTreeMap::new();
        for event in self.records.iter().filter_map(Record::event) {
            aggregates.entry(key(event)).or_default().push(event.event_id);
        }
        let before_the_last = aggregates.values().filter_map(|ids| ids.split_last());
        let before_the_last = before_the_last.map(|(_, before)| before);
        match parks {
            Parks::None => HashSet::new(),
            Parks::LastButOne => before_the_last.filter_map(|ids| ids.last()).copied().collect(),
            Parks::Any => before_the_last.flatten().filter(|_| random.bool()).copied().collect(),
        }
    }

    /// What the queue holds, in the order in which it will give it.
    fn queue(&self, manner: &Manner, random: &mut Rng) -> VecDeque<Record> {
        let all = self.records.iter();
        let mut queue: Vec<&Record> = if manner.twice {
            all.clone().flat_map(|record| [record, record]).chain(all).collect()
        } else {
            all.collect()
        };
        if manner.reordered && self.fifo {
            let mut groups: BTreeMap<_, VecDeque<&Record>> = BTreeMap::new();
            for record in &queue {
                groups.entry(&record.group).or_default().push_back(record);
            }
            let mut turns: Vec<_> = queue.iter().map(|record| &record.group).collect();
            random.shuffle(&mut turns);
            let next = |group| groups.get_mut(group).and_then(VecDeque::pop_front);
            queue = turns.into_iter().filter_map(next).collect();
        } else if manner.reordered {
            random.shuffle(&mut queue);
        }
        queue.into_iter().cloned().collect()
    }
}

/// Has all that is parked replayed, until nothing more comes of it: what was refused because an
/// earlier event was parked has its effect behind that.
async fn replay<H: Handler>(
    consumer: &mut Consumer<H>,
    client: &Client,
    log: &mut Vec<String>,
) -> Result<(), String> {
    const ASK: &str = "update relay.parked set replay_requested_at = pg_catalog.now()";
    loop {
        client.batch_execute(ASK).await.map_err(|error| chain(&error))?;
        let replayed = consumer.replay_parked(None).await.map_err(|error| chain(&error))?;
        let crate::Replayed { applied, stale, refused } = replayed;
        log.push(format!(
            "parked events replayed: {applied} applied, {stale} stale, {refused} refused"
        ));
        if applied + stale == 0 {
            return Ok(());
        }
    }
}

/// What still goes wrong: how often, and the choice of what.
struct Faults {
    left: Mutex<(usize, Rng)>,
    /// A host has died.
    died: Notify,
    /// Events that are refused while they are in here.
    parks: Mutex<HashSet<Uuid>>,
}

impl Faults {
    /// One time in `of`, while there are any left.
    fn next(&self, of: u8) -> Option<u8> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, random) = &mut *left;
        if *left == 0 || random.u8(..of) != 0 {
            return None;
        }
        *left -= 1;
        Some(random.u8(..4))
    }

    fn refuses(&self, event: &Event) -> bool {
        let parks = self.parks.lock().unwrap_or_else(PoisonError::into_inner);
        parks.contains(&event.event_id)
    }

    fn kills_between(&self) -> bool {
        self.next(6).is_some()
    }

    fn forgets(&self) -> bool {
        self.next(6).is_some()
    }
}

/// A handler after which something goes wrong, before the commit.
struct Failing<H> {
    handler: H,
    faults: Arc<Faults>,
}

impl<H: Handler> Handler for Failing<H> {
    fn name(&self) -> &str {
        self.handler.name()
    }

    fn mode(&self) -> Mode {
        self.handler.mode()
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        if self.faults.refuses(event) {
            return Err(HandlerError::Reject("parked by the test, to be replayed".to_owned()));
        }
        self.handler.handle(event, tx).await?;
        let sql = match self.faults.next(3) {
            None => return Ok(()),
            Some(0) => return Err(HandlerError::Retry("a failure made by the test".to_owned())),
            Some(1) => "select relay.a_failure_made_by_the_test()",
            Some(2) => "select pg_terminate_backend(pg_backend_pid())",
            Some(_) => {
                self.faults.died.notify_one();
                return std::future::pending().await;
            }
        };
        tx.query(sql, &[]).await?;
        Ok(())
    }
}

fn shown(record: &Record) -> String {
    let Some(event) = record.event() else { return "nothing".to_owned() };
    let version = event.aggregate_version.map_or_else(|| "-".to_owned(), |v| v.to_string());
    format!("{} {}/{version}", event.event_type, event.aggregate_id)
}

/// Rows as Postgres writes them.
async fn rows(client: &Client, query: &str) -> Result<Vec<Vec<String>>, Failure> {
    let refused = |source| Failure::Sql { whose: "the test's", source };
    client.batch_execute("set timezone = 'UTC'").await.map_err(refused)?;
    let messages = client.simple_query(query).await.map_err(refused)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let value = |value: Option<&str>| value.unwrap_or("null").to_owned();
    Ok(rows.map(|row| (0..row.len()).map(|at| value(row.get(at))).collect()).collect())
}

/// The rows on one side only.
pub(super) fn difference(expected: &[Vec<String>], found: &[Vec<String>]) -> String {
    let only = |these: &[Vec<String>], those: &[Vec<String>]| -> String {
        let only = these.iter().filter(|row| !those.contains(row));
        only.map(|row| format!("\n  {row:?}")).collect()
    };
    let (missing, surplus) = (only(expected, found), only(found, expected));
    if missing.is_empty() && surplus.is_empty() {
        return format!("expected the rows {expected:?}\nfound {found:?}");
    }
    format!("expected, not found:{missing}\nfound, not expected:{surplus}")
}
