//! The stages put together: from the slot to the broker, and back the three
//! values that flow backwards (an entry's outcome, the flush position, and
//! backpressure, which stops the reading but never the status).

use crate::dead_letter::{DeadLetter, DeadLetters};
use crate::intake::{Intake, IntakeError, Taken};
use crate::ledger::TransactionId;
use crate::publish::schedule::{InFlight, Schedule, Work};
use crate::publish::{Class, DestinationId, Outcome, Outgoing, Publisher, backoff};
use crate::route::Routes;
use crate::source::{Connected, Slot, Source, SourceError, SourceEvent};
use crate::wire::{Identity, WireError};
use dsn::Dsn;
use pgoutput::Lsn;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How many dead letters may wait to be written before the reading stops.
const DEAD_LETTERS_IN_FLIGHT: usize = 64;

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
    /// Which event goes where.
    pub routes: Routes,
    /// The destinations, in the order of their ids.
    pub publishers: Vec<P>,
    /// How many bytes of events may be on their way.
    pub bytes_in_flight: usize,
    /// How many requests one destination may have in flight.
    pub requests_in_flight: usize,
    /// How long a shutdown waits for events on their way.
    pub shutdown_grace: Duration,
    /// Set to the commit time of the newest confirmed transaction, in
    /// microseconds since 2000-01-01; 0 before the first.
    pub confirmed_time: Arc<AtomicI64>,
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

/// What came back from a task.
enum Done {
    Answered(DestinationId, Vec<InFlight>, Vec<Outcome>),
    /// An entry was written as a dead letter.
    SetAside(InFlight),
    /// An event that never became an entry was.
    Recorded(TransactionId),
}

struct Pipeline<P> {
    slot: Slot,
    publishers: Vec<P>,
    intake: Intake,
    schedule: Schedule,
    tasks: JoinSet<Done>,
    dead_letters: DeadLetters,
    dead_letters_in_flight: usize,
    source: Source,
    identity: Option<Identity>,
    status_interval: Duration,
    reported: Lsn,
    reported_at: Instant,
    connect_attempts: u32,
    report: Report,
    confirmed_time: Arc<AtomicI64>,
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
    tokio::pin!(until);
    let mut deadline: Option<tokio::time::Instant> = None;
    loop {
        if deadline.is_none() {
            pipeline.read_buffered()?;
        }
        pipeline.dispatch();
        if deadline.is_some() && pipeline.is_idle() {
            break;
        }
        let reading = deadline.is_none() && pipeline.has_room();
        let wake_at = pipeline.wake_at();
        tokio::select! {
            biased;
            () = &mut until, if deadline.is_none() => {
                tracing::info!(on_their_way = pipeline.schedule.len(), "stopping: finishing what is on its way");
                deadline = Some(tokio::time::Instant::now() + grace);
            }
            () = sleep_until(deadline), if deadline.is_some() => break,
            () = tokio::time::sleep_until(wake_at.into()) => {}
            Some(done) = pipeline.tasks.join_next() => {
                if let Ok(done) = done { pipeline.settle(done); }
            }
            event = pipeline.source.next(), if reading || !matches!(pipeline.source, Source::Streaming(_)) => {
                pipeline.source_event(event)?;
            }
        }
        pipeline.send_status(false).await;
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
        let limits = setup.publishers.iter().map(Publisher::limits).collect();
        let slot = Slot { dsn: setup.dsn, name: setup.slot, publication: setup.publication };
        Self {
            publishers: setup.publishers,
            intake: Intake::new(setup.routes, setup.source),
            schedule: Schedule::new(limits, setup.bytes_in_flight, setup.requests_in_flight),
            tasks: JoinSet::new(),
            dead_letters: DeadLetters::new(slot.dsn.clone()),
            dead_letters_in_flight: 0,
            source: Source::connect(slot.clone()),
            slot,
            identity: None,
            status_interval: Duration::from_secs(1),
            reported: Lsn::default(),
            reported_at: Instant::now(),
            connect_attempts: 0,
            report: Report {
                published: 0,
                dead_letters: 0,
                unfinished: 0,
                confirmed: Lsn::default(),
            },
            confirmed_time: setup.confirmed_time,
        }
    }

    fn has_room(&self) -> bool {
        self.schedule.has_room() && self.dead_letters_in_flight < DEAD_LETTERS_IN_FLIGHT
    }

    fn is_idle(&self) -> bool {
        self.schedule.is_empty() && self.tasks.is_empty()
    }

    /// When something is to be done though nothing happens.
    fn wake_at(&self) -> Instant {
        let status = self.reported_at + self.status_interval;
        self.schedule.wake_at().map_or(status, |at| at.min(status))
    }

    /// Takes the frames that were read, while there is room for what they hold.
    fn read_buffered(&mut self) -> Result<(), PipelineError> {
        while self.has_room() {
            let Source::Streaming(session) = &mut self.source else {
                break;
            };
            let frame = match session.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return self.lost(error),
            };
            if let pgoutput::Frame::Keepalive { reply_requested: true, .. } = frame {
                // Long ago: the next round reports.
                self.reported_at =
                    Instant::now().checked_sub(self.status_interval).unwrap_or(self.reported_at);
            }
            match self.intake.take(frame)? {
                None => {}
                Some(Taken::Send(entry)) => self.schedule.push(entry),
                Some(Taken::SetAside(id, letter)) => {
                    self.set_aside(*letter, move || Done::Recorded(id));
                }
            }
        }
        Ok(())
    }

    /// Sends whatever may be sent now.
    fn dispatch(&mut self) {
        let now = Instant::now();
        while let Some(work) = self.schedule.next(now) {
            match work {
                Work::Send(batch) => self.send(batch),
                Work::TooLarge(entry) => {
                    let publisher = &self.publishers[entry.entry.destination.0];
                    let reason = format!(
                        "expected at most {} bytes, the destination's limit, found {}; make the payload smaller or raise MaximumMessageSize",
                        publisher.limits().bytes,
                        entry.entry.bytes()
                    );
                    let letter = DeadLetter::of(&entry.entry, publisher.name(), reason, None);
                    self.set_aside(letter, move || Done::SetAside(entry));
                }
            }
        }
    }

    fn send(&mut self, batch: Vec<InFlight>) {
        let Some(destination) = batch.first().map(|held| held.entry.destination) else {
            return;
        };
        let publisher = self.publishers[destination.0].clone();
        self.tasks.spawn(async move {
            let entries: Vec<&Outgoing> = batch.iter().map(|held| &held.entry).collect();
            let outcomes = publisher.publish(&entries).await;
            drop(entries);
            Done::Answered(destination, batch, outcomes)
        });
    }

    fn set_aside(&mut self, letter: DeadLetter, done: impl FnOnce() -> Done + Send + 'static) {
        self.dead_letters_in_flight += 1;
        let dead_letters = self.dead_letters.clone();
        self.tasks.spawn(async move {
            dead_letters.keep(&letter).await;
            done()
        });
    }

    fn settle(&mut self, done: Done) {
        match done {
            Done::Answered(destination, batch, outcomes) => {
                self.answered(destination, batch, outcomes);
            }
            Done::SetAside(entry) => {
                self.dead_letters_in_flight -= 1;
                self.report.dead_letters += 1;
                self.intake.ledger().settle(entry.entry.transaction);
                self.schedule.done(entry);
            }
            Done::Recorded(transaction) => {
                self.dead_letters_in_flight -= 1;
                self.report.dead_letters += 1;
                self.intake.ledger().settle(transaction);
            }
        }
    }

    fn answered(
        &mut self,
        destination: DestinationId,
        batch: Vec<InFlight>,
        outcomes: Vec<Outcome>,
    ) {
        let now = Instant::now();
        let shared = batch.len() > 1;
        let pause = self.pause_after(destination, &outcomes, shared, now);
        self.schedule.answered(destination, pause);
        let name = self.publishers[destination.0].name().to_owned();
        for (mut held, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Accepted => {
                    self.report.published += 1;
                    self.intake.ledger().settle(held.entry.transaction);
                    self.schedule.done(held);
                }
                Outcome::Failed { class: Class::Event, whole_request: true, .. } if shared => {
                    held.entry.alone = true;
                    self.schedule.retry(held, now);
                }
                Outcome::Failed { class: Class::Event, code, message, .. } => {
                    let reason = format!("the destination refused it: {message}");
                    held.entry.attempts += 1;
                    let letter = DeadLetter::of(&held.entry, &name, reason, Some(code));
                    self.set_aside(letter, move || Done::SetAside(held));
                }
                Outcome::Failed { code, message, whole_request, .. } => {
                    if !whole_request {
                        tracing::warn!(
                            event_id = %held.entry.event.event_id, destination = name, code, message,
                            "an event was not accepted; it is tried again and holds back its own key only"
                        );
                    }
                    let wait = backoff(held.entry.attempts, fastrand::f64());
                    self.schedule.retry(held, pause.unwrap_or(now).max(now + wait));
                }
            }
        }
    }

    /// For how long to leave a destination alone whose request failed as a whole.
    fn pause_after(
        &self,
        destination: DestinationId,
        outcomes: &[Outcome],
        shared: bool,
        now: Instant,
    ) -> Option<Instant> {
        let Some(Outcome::Failed { class, code, message, whole_request: true }) = outcomes.first()
        else {
            return None;
        };
        if *class == Class::Event {
            if shared {
                tracing::debug!(
                    code,
                    "a request was refused for the sake of one entry; each goes alone"
                );
            }
            return None;
        }
        let failures = self.schedule.failures(destination);
        let wait = backoff(failures, 0.5 + fastrand::f64() / 2.0);
        let name = self.publishers[destination.0].name();
        let held = self.schedule.len();
        if *class == Class::Destination {
            tracing::error!(
                destination = name,
                code,
                message,
                failures = failures + 1,
                held,
                ?wait,
                "the destination is wrong: check that it exists and that the relay may publish to it; no event is lost, all are tried again"
            );
        } else {
            tracing::warn!(
                destination = name,
                code,
                message,
                failures = failures + 1,
                held,
                ?wait,
                "a request failed; its events are tried again"
            );
        }
        Some(now + wait)
    }

    fn source_event(&mut self, event: SourceEvent) -> Result<(), PipelineError> {
        match event {
            SourceEvent::Connected(Ok(connected)) => self.connected(connected),
            SourceEvent::Connected(Err(error)) => self.not_connected(error),
            SourceEvent::TryAgain => {
                self.source = Source::connect(self.slot.clone());
                Ok(())
            }
            SourceEvent::Filled(Ok(())) => Ok(()),
            SourceEvent::Filled(Err(error)) => self.lost(error),
        }
    }

    fn connected(&mut self, connected: Connected) -> Result<(), PipelineError> {
        let confirmed = self.intake.ledger().flush_lsn();
        let found = &connected.identity;
        if let Some(known) = &self.identity
            && (known.system_id != found.system_id || found.log_end < confirmed)
        {
            return Err(PipelineError::AnotherHistory {
                expected: known.system_id.clone(),
                confirmed,
                found: format!("{} with log up to {}", found.system_id, found.log_end),
            });
        }
        tracing::info!(
            slot = self.slot.name, publication = self.slot.publication, server = %self.slot.dsn,
            timeline = found.timeline, confirmed = %confirmed, "streaming"
        );
        self.identity = Some(connected.identity);
        self.status_interval = connected.status_interval;
        self.connect_attempts = 0;
        self.intake.reconnected();
        self.source = Source::Streaming(connected.session);
        Ok(())
    }

    fn not_connected(&mut self, error: SourceError) -> Result<(), PipelineError> {
        // A password that was right once is being changed: wait for the new one.
        let was_right =
            self.identity.is_some() && matches!(&error, SourceError::Ask(dsn::Error::Login { .. }));
        if !error.is_transient() && !was_right {
            return Err(PipelineError::Source(error));
        }
        let in_use = matches!(&error, SourceError::Wire(WireError::SlotInUse { .. }));
        if in_use {
            if self.connect_attempts == 0 {
                tracing::warn!(%error, "standing by: another relay reads from the slot; taking over when it is free");
            }
        } else {
            let cause = causes(&error);
            tracing::warn!(%error, cause, attempt = self.connect_attempts + 1, "no connection to Postgres; trying again");
        }
        // A standby takes over within a second or so; a server that is down gets time.
        let attempt = if in_use { 3 } else { self.connect_attempts.min(7) };
        self.source = Source::wait(backoff(attempt, 0.5 + fastrand::f64() / 2.0));
        self.connect_attempts += 1;
        Ok(())
    }

    fn lost(&mut self, error: WireError) -> Result<(), PipelineError> {
        if let WireError::Protocol(_) | WireError::Unexpected { .. } = error {
            return Err(PipelineError::Source(error.into()));
        }
        let cause = causes(&error);
        tracing::warn!(%error, cause, "the connection to Postgres is lost; connecting again");
        self.source = Source::wait(backoff(1, fastrand::f64()));
        Ok(())
    }

    /// Reports the flush position when it is time to.
    async fn send_status(&mut self, now: bool) {
        if !now && self.reported_at.elapsed() < self.status_interval {
            return;
        }
        self.reported_at = Instant::now();
        let ledger = self.intake.ledger();
        let (received, flushed) = (ledger.received_lsn(), ledger.flush_lsn());
        if let Some(time) = ledger.flushed_commit_time() {
            self.confirmed_time.store(time, Ordering::Relaxed);
        }
        let Source::Streaming(session) = &mut self.source else {
            return;
        };
        if let Err(error) = session.send_status(received, flushed).await {
            let _ = self.lost(error);
            return;
        }
        if flushed > self.reported {
            let (published, on_their_way) = (self.report.published, self.schedule.len());
            tracing::debug!(confirmed = %flushed, published, on_their_way, "confirmed");
            self.reported = flushed;
        }
    }

    /// Confirms the last position and says goodbye, so that nothing settled is sent again.
    async fn finish(mut self) -> Report {
        const LIMIT: Duration = Duration::from_secs(5);
        self.send_status(true).await;
        self.report.confirmed = self.intake.ledger().flush_lsn();
        self.report.unfinished = self.schedule.len() + self.dead_letters_in_flight;
        if let Source::Streaming(session) = self.source {
            match tokio::time::timeout(LIMIT, session.finish()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the last position may not be confirmed; some events may be sent again");
                }
                Err(_) => tracing::warn!(
                    "the server did not end the stream in time; some events may be sent again"
                ),
            }
        }
        self.report
    }
}

/// The chain of an error's causes, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.join(": ")
}
