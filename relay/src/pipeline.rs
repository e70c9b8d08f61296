//! The stages put together: from the slot to the broker, and back the three
//! values that flow backwards (an entry's outcome, the flush position, and
//! backpressure, which stops the reading but never the status).

use crate::catalog;
use crate::condition::{Conditions, Failures};
use crate::dead_letter::{DeadLetter, DeadLetters};
use crate::health::Health;
use crate::intake::{Intake, IntakeError, Taken};
use crate::ledger::TransactionId;
use crate::observe::Pulse;
use crate::observe::metric::Meters;
use crate::publish::concurrency::Ticket;
use crate::publish::schedule::{InFlight, Lane, Ordering, Schedule, Work};
use crate::publish::{DestinationId, Outcome, Outgoing, Publisher, Retry};
use crate::route::Routes;
use crate::secret::Secrets;
use crate::slot::watch::{self, Signals};
use crate::source::{Slot, Source, SourceError};
use crate::table::TableRule;
use crate::value::{Numbers, Type};
use crate::wire::Identity;
use dsn::Dsn;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use learning::Learner;
use pgoutput::Lsn;
use refusals::{Refusals, Thinned};
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use waiting::Progress;

mod learning;
mod refusals;
mod session;
mod settle;
mod standing;
mod waiting;

/// How many dead letters may wait to be written before the reading stops.
const DEAD_LETTERS_IN_FLIGHT: usize = 64;

/// What is done with an event that its destination refuses for good.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnPoison {
    /// It is set aside in `relay.dead_letter`, and those behind it go on.
    #[default]
    DeadLetter,
    /// Nothing more is sent to that destination until the relay is started again.
    Halt,
}

/// Where events go, and in which manner.
#[derive(Clone, Debug)]
pub struct To<P> {
    /// What takes them.
    pub publisher: P,
    /// Which of them wait for each other.
    pub ordering: Ordering,
    /// What is done with those that it refuses.
    pub on_poison: OnPoison,
}

impl<P> From<P> for To<P> {
    /// In the usual manner.
    fn from(publisher: P) -> Self {
        Self { publisher, ordering: Ordering::default(), on_poison: OnPoison::default() }
    }
}

/// What a pipeline is made of.
#[derive(Debug)]
pub struct Setup<P> {
    /// The source database.
    pub dsn: Dsn,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The `source` of the events.
    pub source: String,
    /// The tables whose changes are events too.
    pub tables: Vec<TableRule>,
    /// How their numbers are written.
    pub numbers: Numbers,
    /// Which event goes where.
    pub routes: Routes,
    /// The destinations, in the order of their ids.
    pub destinations: Vec<To<P>>,
    /// How many bytes of events may be on their way.
    pub bytes_in_flight: usize,
    /// How many requests one destination may have in flight, at least and at most; between
    /// them it is found out how many are of use.
    pub requests_in_flight: RangeInclusive<u32>,
    /// How long a shutdown waits for events on their way.
    pub shutdown_grace: Duration,
    /// Set to the commit time of the newest confirmed transaction, in
    /// microseconds since 2000-01-01; 0 before the first.
    pub confirmed_time: Arc<AtomicI64>,
    /// What keeps events from flowing, or will.
    pub conditions: Conditions,
    /// Its signs of life.
    pub pulse: Arc<Pulse>,
    /// Where it counts.
    pub meters: Meters,
}

/// Why a pipeline ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// Postgres does not give what is needed, and trying again cannot help.
    #[error("cannot read from Postgres")]
    Source(#[source] SourceError),
    /// The stream cannot be read on.
    #[error("cannot read the stream of changes")]
    Intake(#[from] IntakeError),
    /// Someone else confirmed positions of the slot, or made it anew.
    #[error(
        "expected the slot {slot} to be confirmed up to {confirmed} at most, found {found}: it was moved on or made anew while this relay was not connected, and the events between are not in it any more; rows of the outbox still stand in relay.outbox, but what relay.emit and captured tables wrote there is not sent. Restart the relay to go on from there"
    )]
    SlotMoved {
        /// The slot.
        slot: String,
        /// The position that this relay has confirmed.
        confirmed: Lsn,
        /// The position that the slot has.
        found: Lsn,
    },
    /// The server is another one, or went back in its history.
    #[error(
        "expected the server {expected} with log up to {confirmed}, found {found}; a slot of another server or an older copy would lose events: point DATABASE_URL to the right server, or restart the relay to accept this one"
    )]
    AnotherHistory {
        /// The system identifier that was read from before.
        expected: String,
        /// The position that was confirmed there.
        confirmed: Lsn,
        /// What answers now.
        found: String,
    },
}

/// What a pipeline did, when it was told to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// Events that the broker accepted.
    pub published: u64,
    /// Events set aside as dead letters.
    pub dead_letters: u64,
    /// Events still on their way when the grace was over; they are sent again.
    pub unfinished: usize,
    /// The confirmed position.
    pub confirmed: Lsn,
}

/// What came back from a request or a write.
enum Done {
    Answered(DestinationId, Ticket, Vec<InFlight>, Vec<Outcome>),
    /// A dead letter of so many bytes was written.
    LetterWritten(LetterOf, usize),
    /// What the catalogue says of the types that were asked for.
    Answer(Vec<(u32, Type)>),
    /// The keys of `relay.secret`, with the one that was asked for.
    Secrets(Secrets),
}

/// What the database was asked for, since when.
#[derive(Clone, Copy, Debug)]
struct Asking {
    what: Asked,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    /// The types of a table's columns.
    Types,
    /// The keys of `relay.secret`.
    Secrets,
}

/// What a dead letter is of.
enum LetterOf {
    /// An entry, whose key waits until it is written.
    Entry(InFlight),
    /// An event that never became an entry.
    Transaction(TransactionId),
}

struct Pipeline<P> {
    slot: Slot,
    destinations: Vec<To<P>>,
    intake: Intake,
    /// What came out of the last frame; empty between frames, kept for its room.
    taken: Vec<Taken>,
    /// What the reading waits for, of what the database knows and the stream does not tell.
    asking: Option<Asking>,
    asking_failures: Failures,
    schedule: Schedule,
    /// Requests and writes on their way. They run in this task, not in others: what is ready
    /// at once costs no hand-over, and all of it goes on before more is read.
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    dead_letters: DeadLetters,
    dead_letters_in_flight: usize,
    /// The memory that they take, in bytes; it counts in the schedule's budget.
    dead_letters_weight: usize,
    progress: Progress,
    health: Health,
    /// One for each destination.
    learners: Vec<Learner>,
    limits_changed: Arc<Notify>,
    refusals: Refusals,
    /// Lines that a destination's breaker is open.
    openings: Thinned,
    conditions: Conditions,
    /// Writes the conditions down; `None` before the first session, because a standby knows nothing.
    recorder: Option<JoinHandle<()>>,
    /// The destination whose events fill the budget.
    holder: Option<usize>,
    source: Source,
    identity: Option<Identity>,
    status_interval: Duration,
    reported: Lsn,
    reported_at: Instant,
    retry: Retry,
    connected_at: Instant,
    /// What was received when the waits last began anew.
    achieved: Lsn,
    /// Whether another relay reads from the slot.
    in_use: bool,
    /// Looks at what a session needs; `None` before the first session.
    watch: Option<JoinHandle<()>>,
    /// The words between the pipeline and the watch.
    server: Arc<Signals>,
    report: Report,
    confirmed_time: Arc<AtomicI64>,
    meters: Meters,
    pulse: Arc<Pulse>,
    /// How many forged messages were told.
    forged: u64,
}

/// Runs until `until` is ready, then finishes what is on its way and confirms it.
///
/// # Errors
/// When Postgres does not give what is needed and trying again cannot help.
pub async fn run<P: Publisher>(
    setup: Setup<P>,
    until: impl Future<Output = ()>,
) -> Result<Report, PipelineError> {
    let grace = setup.shutdown_grace;
    let mut pipeline = Pipeline::new(setup);
    let limits_changed = Arc::clone(&pipeline.limits_changed);
    tokio::pin!(until);
    let mut deadline: Option<tokio::time::Instant> = None;
    loop {
        // First what is here: or there would be room for a read while frames are left of the last.
        pipeline.dispatch();
        while deadline.is_none() && pipeline.read_buffered()? {
            pipeline.dispatch();
        }
        pipeline.dispatch();
        pipeline.watch_budget();
        if deadline.is_some() && pipeline.is_idle() {
            break;
        }
        let reading = deadline.is_none() && pipeline.has_room();
        let wake_at = pipeline.wake_at(Instant::now());
        tokio::select! {
            biased;
            () = &mut until, if deadline.is_none() => {
                tracing::info!(on_their_way = pipeline.schedule.len(), "stopping: finishing what is on its way");
                deadline = Some(tokio::time::Instant::now() + grace);
            }
            () = sleep_until(deadline), if deadline.is_some() => break,
            () = tokio::time::sleep_until(wake_at.into()) => {}
            () = limits_changed.notified() => pipeline.take_limits(),
            Some(done) = pipeline.under_way.next() => {
                pipeline.settle(done);
                while let Some(Some(done)) = pipeline.under_way.next().now_or_never() {
                    pipeline.settle(done);
                }
            }
            () = pipeline.server.stops.notified() => pipeline.give_back(),
            event = pipeline.source.next(), if reading || !matches!(pipeline.source, Source::Streaming(_)) => {
                pipeline.source_event(event)?;
            }
        }
        pipeline.send_status(false);
    }
    Ok(pipeline.finish().await)
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

impl<P: Publisher> Pipeline<P> {
    fn new(setup: Setup<P>) -> Self {
        let lanes = setup.destinations.iter().map(|to| Lane {
            limits: to.publisher.limits(),
            ordering: to.ordering,
            requests: setup.requests_in_flight.clone(),
        });
        let slot = Slot {
            dsn: setup.dsn,
            name: setup.slot,
            publication: setup.publication,
            tables: setup.tables.clone(),
        };
        let names: Vec<String> =
            setup.destinations.iter().map(|to| to.publisher.name().to_owned()).collect();
        let limits_changed = Arc::<Notify>::default();
        let learners = setup.destinations.iter().map(|to| {
            let (publisher, changed) = (to.publisher.clone(), Arc::clone(&limits_changed));
            Learner::start(publisher, setup.conditions.clone(), changed)
        });
        let learners = learners.collect();
        let mut pipeline = Self {
            learners,
            limits_changed,
            intake: Intake::new(setup.routes, setup.source, setup.tables.clone(), setup.numbers),
            taken: Vec::new(),
            asking: None,
            asking_failures: Failures::default(),
            schedule: Schedule::new(lanes, setup.bytes_in_flight),
            refusals: Refusals::new(setup.conditions.clone(), names.clone()),
            openings: Thinned::new(names.len(), Duration::from_secs(60)),
            health: Health::new(setup.conditions.clone(), names),
            conditions: setup.conditions,
            recorder: None,
            holder: None,
            meters: setup.meters,
            pulse: setup.pulse,
            forged: 0,
            destinations: setup.destinations,
            under_way: FuturesUnordered::new(),
            dead_letters: DeadLetters::new(slot.dsn.clone()),
            dead_letters_in_flight: 0,
            dead_letters_weight: 0,
            progress: Progress::new(Instant::now()),
            source: Source::connect(slot.clone()),
            slot,
            identity: None,
            status_interval: Duration::from_secs(1),
            reported: Lsn::default(),
            reported_at: Instant::now(),
            retry: Retry::default(),
            connected_at: Instant::now(),
            achieved: Lsn::default(),
            in_use: false,
            watch: None,
            server: Arc::default(),
            report: Report {
                published: 0,
                dead_letters: 0,
                unfinished: 0,
                confirmed: Lsn::default(),
            },
            confirmed_time: setup.confirmed_time,
        };
        // None has been asked yet.
        pipeline.take_limits();
        pipeline
    }

    fn has_room(&self) -> bool {
        self.schedule.wants_more()
            && self.dead_letters_in_flight < DEAD_LETTERS_IN_FLIGHT
            && self.asking.is_none()
    }

    fn is_idle(&self) -> bool {
        self.schedule.is_empty() && self.under_way.is_empty()
    }

    /// When something is to be done though nothing happens.
    fn wake_at(&self, now: Instant) -> Instant {
        let status = self.reported_at + self.status_interval;
        self.schedule.wake_at(now).map_or(status, |at| at.min(status))
    }

    /// Takes the frames that were read, while there is room for what they hold; says whether
    /// some may be left once there is room again.
    fn read_buffered(&mut self) -> Result<bool, PipelineError> {
        let mut some = false;
        while self.has_room() {
            let Source::Streaming(session) = &mut self.source else {
                return Ok(false);
            };
            let frame = match session.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(false),
                Err(error) => return self.lost(error).map(|()| false),
            };
            some = true;
            if let pgoutput::Frame::Keepalive { reply_requested: true, .. } = frame {
                // A server that stops asks again and again, until all is confirmed.
                self.server.look.notify_one();
                // Long ago: the next round reports.
                self.reported_at =
                    Instant::now().checked_sub(self.status_interval).unwrap_or(self.reported_at);
            }
            self.intake.take(frame, &mut self.taken)?;
            self.sort_taken();
        }
        Ok(some)
    }

    fn sort_taken(&mut self) {
        let mut taken = std::mem::take(&mut self.taken);
        for taken in taken.drain(..) {
            match taken {
                Taken::Send(entry) => self.schedule.push(entry),
                Taken::SetAside(id, letter) => {
                    self.write_letter(*letter, LetterOf::Transaction(id));
                }
                Taken::Ask(types) => self.ask(types),
                Taken::Renamed { expected, found } => {
                    self.conditions.set(watch::TABLE, &expected, watch::renamed(&expected, &found));
                }
                Taken::AskSecrets(newest) => self.ask_secrets(newest),
            }
        }
        self.taken = taken;
    }

    /// Asks the catalogue for types; nothing more is taken until it has answered.
    fn ask(&mut self, types: Vec<u32>) {
        self.asking = Some(Asking { what: Asked::Types, since: Instant::now() });
        let (dsn, failures) = (self.slot.dsn.clone(), self.asking_failures.clone());
        self.under_way
            .push(Box::pin(async move { Done::Answer(catalog::ask(&dsn, types, failures).await) }));
    }

    /// Asks for a new key; nothing more is taken until it is there.
    fn ask_secrets(&mut self, newest: u32) {
        self.asking = Some(Asking { what: Asked::Secrets, since: Instant::now() });
        let (dsn, failures) = (self.slot.dsn.clone(), self.asking_failures.clone());
        self.under_way.push(Box::pin(async move {
            Done::Secrets(catalog::ask_secrets(&dsn, newest, failures).await)
        }));
    }

    /// Sends whatever may be sent now.
    fn dispatch(&mut self) {
        let now = Instant::now();
        while let Some(work) = self.schedule.next(now) {
            match work {
                Work::Send(batch, ticket) => self.send(batch, ticket),
                Work::TooLarge(entry) => self.too_large(entry, now),
            }
        }
    }

    fn send(&mut self, batch: Vec<InFlight>, ticket: Ticket) {
        let Some(destination) = batch.first().map(|held| held.entry.destination) else {
            return;
        };
        let publisher = self.destinations[destination.0].publisher.clone();
        self.under_way.push(Box::pin(async move {
            let entries: Vec<&Outgoing> = batch.iter().map(|held| &held.entry).collect();
            let outcomes = publisher.publish(&entries).await;
            drop(entries);
            Done::Answered(destination, ticket, batch, outcomes)
        }));
    }

    fn write_letter(&mut self, letter: DeadLetter, of: LetterOf) {
        let weight = letter.weight();
        self.schedule.hold(weight);
        self.dead_letters_weight += weight;
        if self.dead_letters_in_flight == 0 {
            self.progress.letter_written_at = Instant::now();
        }
        self.dead_letters_in_flight += 1;
        let dead_letters = self.dead_letters.clone();
        self.under_way.push(Box::pin(async move {
            dead_letters.keep(&letter).await;
            Done::LetterWritten(of, weight)
        }));
    }
}
