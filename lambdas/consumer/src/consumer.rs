//! One delivery from records to outcomes.
//!
//! Knows: when a batch is taken one by one, how long the read model is waited for, when a connection
//! is made anew. Must not know: what becomes of a single event (`single` does), the queue's API, SQL.

mod single;

use crate::apply::{Applied, Item, Manner, apply};
use crate::batch::{Batch, Outcome, Report};
use crate::claim_check::{ClaimChecks, redeem};
use crate::database::{Database, Session};
use crate::deadline::{Deadline, Passed};
use crate::effect::Effects;
use crate::error::{Error, chain, is_lost};
use crate::handler::Handler;
use crate::keep;
use crate::metrics::Metrics;
use crate::oddity::Told;
use crate::record::{Content, Record};
use crate::seldom::Seldom;
use crate::traces::{self, Traces};
use crate::undone::Undone;
use crate::version::sort_within_aggregates;
use dsn::Dsn;
use std::io::Write;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;

/// How often a busy consumer looks whether parked events are to be replayed.
const BETWEEN_REPLAYS: Duration = Duration::from_secs(10);

/// The first pause between two tries to reach the read model, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a delivery ended before all was done.
enum End {
    Error(Error),
    OutOfTime,
}

impl From<Passed> for End {
    fn from(Passed: Passed) -> Self {
        Self::OutOfTime
    }
}

/// A handler with the read model that it writes to.
#[derive(Debug)]
pub struct Consumer<H> {
    handler: H,
    database: Database,
    claim_checks: Option<ClaimChecks>,
    pub(crate) effects: Option<Effects>,
    /// An event that was received so often is parked where it would go back to the queue.
    pub(crate) park_after: Option<u32>,
    /// When it was last asked whether parked events are to be replayed.
    replays_seen: Option<Instant>,
    metrics: Option<Metrics>,
    #[cfg_attr(
        not(any(feature = "lambda", feature = "poll")),
        expect(dead_code, reason = "only a host sends them")
    )]
    traces: Traces,
    /// What the read model is waited for, as far as it was logged.
    waits_told: Seldom,
    /// What was odd about versions, as far as it was logged.
    told: Told,
    /// It was said that deliveries are too short for effects.
    told_of_length: bool,
}

impl<H: Handler> Consumer<H> {
    /// Puts the two together; connects with the first delivery.
    #[must_use]
    pub fn new(handler: H, read_model: &Dsn) -> Self {
        Self {
            handler,
            database: Database::new(read_model.clone()),
            claim_checks: None,
            effects: None,
            park_after: None,
            replays_seen: None,
            metrics: None,
            traces: Traces::default(),
            waits_told: Seldom::default(),
            told: Told::default(),
            told_of_length: false,
        }
    }

    /// Parks an event that fails or waits for earlier versions when it was received so often,
    /// instead of sending it back: take one less than the queue's `maxReceiveCount`, and what would
    /// go to its dead-letter queue without a word stands in `relay.parked` with its reason. One that
    /// comes under a version which another event had is parked at once, instead of passed over. A database that
    /// is down never counts. A body that is no event still goes to the dead-letter queue.
    #[must_use]
    pub fn park_after(mut self, receives: u32) -> Self {
        self.park_after = Some(receives.max(1));
        self
    }

    /// Writes the figures of each delivery as a line of CloudWatch's Embedded Metric Format:
    /// applied, duplicate, gap, stale, parked, failed and held-back events, the lag of the oldest
    /// event that was applied or still waits, the duration, the first delivery as a cold start.
    /// `host::lambda` does so by itself, to the function's standard output.
    #[must_use]
    pub fn with_metrics(mut self, writer: impl Write + Send + 'static) -> Self {
        self.metrics = Some(Metrics::new(writer));
        self
    }

    /// The same, its host sending the spans that these traces keep: the Lambda host before it
    /// answers an invocation, the polling host after each delivery.
    #[must_use]
    pub fn with_traces(self, traces: &Traces) -> Self {
        Self { traces: traces.clone(), ..self }
    }

    /// Sends the spans that have ended meanwhile; gives them up after `limit`.
    #[cfg(any(feature = "lambda", feature = "poll"))]
    pub(crate) async fn flush_traces(&self, limit: Duration) {
        self.traces.flush(limit).await;
    }

    #[cfg(feature = "lambda")]
    pub(crate) fn has_metrics(&self) -> bool {
        self.metrics.is_some()
    }

    #[cfg(all(feature = "lambda", feature = "s3"))]
    pub(crate) fn has_claim_checks(&self) -> bool {
        self.claim_checks.is_some()
    }

    /// Takes it that a transaction-pooling proxy (pgbouncer, RDS Proxy) stands before the read
    /// model: statements are then prepared in each transaction anew.
    #[must_use]
    pub fn through_a_pool(mut self) -> Self {
        self.database.through_a_pool();
        self
    }

    /// The same, with a way to the bodies that were too large for a message.
    #[must_use]
    pub fn with_claim_checks(self, claim_checks: ClaimChecks) -> Self {
        Self { claim_checks: Some(claim_checks), ..self }
    }

    /// The same, performing the effects outside the database that the handler asks for
    /// ([`Tx::effect`](crate::Tx::effect)).
    #[must_use]
    pub fn with_effects(mut self, effects: Effects) -> Self {
        self.database.with_effects();
        Self { effects: Some(effects), ..self }
    }

    /// Connects now rather than with the first delivery.
    ///
    /// # Errors
    /// When the read model cannot be reached or lacks the consumer's tables.
    pub async fn connect(&mut self) -> Result<(), Error> {
        self.database.connect(self.handler.name()).await
    }

    /// Takes the records of one delivery, in the queue's order, and says what became of each.
    ///
    /// # Errors
    /// When nothing could be done for want of the database: every record goes back to the queue.
    pub async fn deliver(&mut self, records: Vec<Record>) -> Result<Report, Error> {
        self.deliver_until(records, None).await
    }

    /// The same with an end: what cannot be done by then goes back to the queue, not half done.
    ///
    /// While there is time the read model is waited for: what is not received again meanwhile
    /// does not move towards the dead-letter queue.
    ///
    /// # Errors
    /// When nothing could be done for want of the database: every record goes back to the queue.
    pub async fn deliver_until(
        &mut self,
        records: Vec<Record>,
        deadline: Option<Instant>,
    ) -> Result<Report, Error> {
        self.deliver_within(records, &Deadline::fixed(deadline)).await
    }

    /// The same with an end that may move.
    pub(crate) async fn deliver_within(
        &mut self,
        records: Vec<Record>,
        deadline: &Deadline,
    ) -> Result<Report, Error> {
        let (began, count) = (Instant::now(), records.len());
        let span = traces::of_batch(self.handler.name(), count);
        let result = self.work(records, deadline).instrument(span.clone()).await;
        match &result {
            Ok(report) => self.log_report(report, began.elapsed()),
            Err(error) => traces::batch_failed(&span, error),
        }
        if let Some(metrics) = self.metrics.as_mut().filter(|_| count > 0) {
            let name = self.handler.name();
            match &result {
                Ok(report) => metrics.write(name, report, began.elapsed()),
                Err(_) => metrics.write(name, &Report::failed(count), began.elapsed()),
            }
        }
        result
    }

    async fn work(
        &mut self,
        mut records: Vec<Record>,
        deadline: &Deadline,
    ) -> Result<Report, Error> {
        self.warn_of_short_deliveries(deadline);
        // Half of the time at most: the rest is for the events that are there.
        redeem(self.claim_checks.as_ref(), &mut records, &deadline.half_way()).await;
        let mut batch = Batch::new(records);
        self.log_malformed(&batch);
        // In a box: it is large, and whoever awaits a delivery would carry it along.
        let applied =
            Box::pin(async { self.apply_all(&mut batch, deadline).await.map_err(End::Error) });
        match deadline.before(applied).await {
            Ok(()) => {}
            Err(End::Error(error)) => return Err(error),
            Err(End::OutOfTime) => self.cut_short(&mut batch),
        }
        Ok(batch.finish())
    }

    /// All that a delivery does with its events and with the read model.
    async fn apply_all(&mut self, batch: &mut Batch, deadline: &Deadline) -> Result<(), Error> {
        let open = batch.open();
        if !open.is_empty() {
            // Proves that the database can be reached; from here on each record has an end of its own.
            self.reach(deadline).await?;
            let alone = open.len() == 1 || open.iter().any(|at| is_unkeepable(batch, *at));
            if alone || !self.together(batch, &open, &deadline.half_way()).await {
                self.one_by_one(batch, &open, deadline).await?;
            }
        }
        self.replay_when_asked(batch.records().is_empty(), deadline).await;
        self.perform_effects(batch, deadline).await;
        Ok(())
    }

    /// The time was over in the middle of something that has no end of its own.
    fn cut_short(&mut self, batch: &mut Batch) {
        // An answer may be on its way still.
        self.database.discard();
        tracing::warn!(
            projection = self.handler.name(),
            "the delivery's time is over: what is not done goes back to the queue"
        );
        if self.effects.is_some() {
            // Which of their effects are over is not known: the next delivery looks.
            for at in batch.done_events() {
                batch.settle(at, Outcome::Failed);
            }
        }
    }

    /// Says once that no effect will ever be performed in deliveries of this length.
    fn warn_of_short_deliveries(&mut self, deadline: &Deadline) {
        let (Some(effects), Some(end)) = (&self.effects, deadline.last()) else { return };
        let (limit, has) = (effects.time_needed(), end.saturating_duration_since(Instant::now()));
        if has < limit && !self.told_of_length {
            self.told_of_length = true;
            tracing::warn!(
                projection = self.handler.name(),
                needed_ms = limit.as_millis(),
                found_ms = has.as_millis(),
                "expected deliveries as long as one effect may take, found shorter ones: no effect is ever performed, and their messages go to the dead-letter queue; raise the function's timeout (a worker: the queue's visibility timeout), or lower Effects::limit"
            );
        }
    }

    fn log_report(&self, report: &Report, took: Duration) {
        tracing::info!(
            projection = self.handler.name(),
            milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            applied = report.count(Outcome::Applied),
            duplicates = report.count(Outcome::Duplicate),
            parked = report.count(Outcome::Parked),
            stale = report.count(Outcome::Stale),
            gaps = report.count(Outcome::Gap),
            failed = report.count(Outcome::Failed),
            held_back = report.count(Outcome::HeldBack),
            "batch"
        );
    }

    /// Connects, and tries again while there is time for it.
    async fn reach(&mut self, deadline: &Deadline) -> Result<(), Error> {
        // As it stands now: messages are not held any longer for a read model that is down.
        let deadline = Deadline::fixed(deadline.at());
        let mut pause = FIRST_PAUSE;
        loop {
            let session = self.database.session(self.handler.name());
            let Err(error) = deadline.before(async { session.await.map(drop) }).await else {
                return Ok(());
            };
            if !self.wait_for_read_model(&error, &mut pause, &deadline).await {
                return Err(error);
            }
        }
    }

    /// Waits before the read model is tried again; false where there is no time for that.
    async fn wait_for_read_model(
        &mut self,
        error: &Error,
        pause: &mut Duration,
        deadline: &Deadline,
    ) -> bool {
        if self.waits_told.may_tell(error.kind()) {
            let error = chain(error);
            tracing::warn!(
                projection = self.handler.name(),
                error,
                "the read model is waited for; the events are held while there is time"
            );
        }
        let again = Instant::now() + *pause;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        let waits = deadline.at().is_some_and(|end| again < end);
        if waits {
            tokio::time::sleep_until(again).await;
        }
        waits
    }

    /// The whole batch in one transaction; false if it was rolled back.
    async fn together(&mut self, batch: &mut Batch, open: &[usize], deadline: &Deadline) -> bool {
        let mode = self.handler.mode();
        let mut order = open.to_vec();
        let result = {
            let item = |at: &usize| item(batch, *at).map(|item| (*at, item));
            let mut items: Vec<_> = order.iter().filter_map(item).collect();
            sort_within_aggregates(&mut items, |(_, item)| item.candidate(), mode);
            order = items.iter().map(|(at, _)| *at).collect();
            let items: Vec<Item<'_>> = items.into_iter().map(|(_, item)| item).collect();
            let manner = Manner { park: None, receives: self.park_after };
            let result = deadline
                .before(async {
                    let session = self.database.session(self.handler.name()).await;
                    let session = session.map_err(Undone::NotBegun)?;
                    apply(session, &self.handler, &items, manner).await
                })
                .await;
            if let Ok(applied) = &result {
                tell(&mut self.told, self.handler.name(), &items, applied);
            }
            result
        };
        match result {
            Ok(applied) => {
                batch.count_restarted(applied.restarted());
                for (at, outcome) in order.into_iter().zip(applied.outcomes) {
                    batch.settle(at, outcome);
                }
                true
            }
            Err(undone) => {
                tracing::debug!(
                    ?undone,
                    "the batch was rolled back; its events are taken one by one"
                );
                self.clear_up(&undone);
                false
            }
        }
    }

    /// Sees whether parked events are to be replayed, from time to time or when told to.
    async fn replay_when_asked(&mut self, now: bool, deadline: &Deadline) {
        if !now && self.replays_seen.is_some_and(|at| at.elapsed() < BETWEEN_REPLAYS) {
            return;
        }
        if deadline.has_passed() {
            return;
        }
        self.replays_seen = Some(Instant::now());
        if let Err(error) = self.replay_within(deadline).await {
            tracing::warn!(
                error = chain(&error),
                "parked events could not be replayed; a later delivery tries again"
            );
        }
    }

    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    /// The handler and a connection for it.
    pub(crate) async fn at_work(&mut self) -> Result<(&H, &mut Session), Error> {
        let session = self.database.session(self.handler.name()).await?;
        Ok((&self.handler, session))
    }

    /// The next use makes a new connection.
    pub(crate) fn reconnect(&mut self) {
        self.database.discard();
    }

    /// Makes the connection usable again after a rollback, or gives it up.
    pub(crate) fn clear_up(&mut self, undone: &Undone) {
        // A new connection may hide it for a while: it is said before that.
        if let Undone::Unfit(error @ Error::Pooler(_)) | Undone::NotBegun(error @ Error::Pooler(_)) =
            undone
            && self.waits_told.may_tell(error.kind())
        {
            tracing::warn!(
                projection = self.handler.name(),
                error = chain(error),
                "a new connection is made"
            );
        }
        match undone {
            // What was cut off may still be at work on the server's side of the connection.
            Undone::NotBegun(_) | Undone::Unfit(_) | Undone::OutOfTime | Undone::Panicked => {
                self.database.discard();
            }
            Undone::Db(error) if is_lost(error) => self.database.discard(),
            Undone::Db(_) => self.database.forget_statements(),
            Undone::Retry(..) | Undone::Reject(_) | Undone::Overtaken => {}
        }
    }

    fn log(&self, item: Item<'_>, what: &str) {
        tracing::warn!(
            projection = self.handler.name(),
            message_id = item.record.message_id,
            event_id = %item.event.event_id,
            event_type = item.event.event_type,
            aggregate_type = item.event.aggregate_type,
            aggregate_id = item.event.aggregate_id,
            correlation_id = item.event.correlation_id,
            receive_count = item.record.receive_count,
            "{what}"
        );
    }

    fn log_malformed(&self, batch: &Batch) {
        for record in batch.records() {
            if let Content::Malformed(reason) = &record.content {
                tracing::error!(
                    projection = self.handler.name(),
                    message_id = record.message_id,
                    receive_count = record.receive_count,
                    "{reason}; the message goes back to the queue, and from there to its dead-letter queue"
                );
            }
        }
    }
}

/// Logs what is odd about the items, each oddity once for each aggregate.
fn tell(told: &mut Told, projection: &str, items: &[Item<'_>], applied: &Applied) {
    for (at, oddity) in &applied.odd {
        if let Some(Item { event, record }) = items.get(*at) {
            told.tell(projection, event, record.receive_count, *oddity);
        }
    }
}

fn is_unkeepable(batch: &Batch, at: usize) -> bool {
    batch.record(at).event().is_some_and(|event| keep::too_long(event).is_some())
}

fn item(batch: &Batch, at: usize) -> Option<Item<'_>> {
    let record = batch.record(at);
    record.event().map(|event| Item { event, record })
}
