//! One delivery from records to outcomes.
//!
//! Knows: when a batch is taken one by one, what is tried again at once, when a
//! connection is made anew. Must not know: the queue's API, SQL.

use crate::apply::{Item, Undone, apply};
use crate::batch::{Batch, Outcome, Report};
use crate::claim_check::{ClaimChecks, redeem};
use crate::database::Database;
use crate::error::{Error, chain, describe, is_contention, is_lost};
use crate::handler::Handler;
use crate::record::{Content, Record};
use crate::version::sort_within_aggregates;
use dsn::Dsn;
use tokio::time::Instant;

/// How often one event is tried in one delivery when others are in its way.
const TRIES: u32 = 5;

/// A handler with the read model that it writes to.
#[derive(Debug)]
pub struct Consumer<H> {
    handler: H,
    database: Database,
    claim_checks: Option<ClaimChecks>,
}

impl<H: Handler> Consumer<H> {
    /// Puts the two together; connects with the first delivery.
    #[must_use]
    pub fn new(handler: H, read_model: &Dsn) -> Self {
        Self { handler, database: Database::new(read_model.clone()), claim_checks: None }
    }

    /// The same, with a way to the bodies that were too large for a message.
    #[must_use]
    pub fn with_claim_checks(self, claim_checks: ClaimChecks) -> Self {
        Self { claim_checks: Some(claim_checks), ..self }
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
    pub async fn deliver(&mut self, mut records: Vec<Record>) -> Result<Report, Error> {
        let began = Instant::now();
        redeem(self.claim_checks.as_ref(), &mut records).await;
        let mut batch = Batch::new(records);
        self.log_malformed(&batch);
        let open = batch.open();
        if !open.is_empty() {
            // Proves that the database can be reached; from here on each record has an end of its own.
            self.database.session(self.handler.name()).await?;
            if open.len() == 1 || !self.together(&mut batch, &open).await {
                self.one_by_one(&mut batch, &open).await?;
            }
        }
        let report = batch.finish();
        tracing::info!(
            projection = self.handler.name(),
            milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            applied = report.count(Outcome::Applied),
            duplicates = report.count(Outcome::Duplicate),
            parked = report.count(Outcome::Parked),
            gaps = report.count(Outcome::Gap),
            failed = report.count(Outcome::Failed),
            held_back = report.count(Outcome::HeldBack),
            "batch"
        );
        Ok(report)
    }

    /// The whole batch in one transaction; false if it was rolled back.
    async fn together(&mut self, batch: &mut Batch, open: &[usize]) -> bool {
        let mode = self.handler.mode();
        let mut order = open.to_vec();
        let result = {
            let item = |at: &usize| item(batch, *at).map(|item| (*at, item));
            let mut items: Vec<_> = order.iter().filter_map(item).collect();
            sort_within_aggregates(&mut items, |(_, item)| item.candidate(), mode);
            order = items.iter().map(|(at, _)| *at).collect();
            let items: Vec<Item<'_>> = items.into_iter().map(|(_, item)| item).collect();
            match self.database.session(self.handler.name()).await {
                Ok(session) => apply(session, &self.handler, &items, None).await,
                Err(error) => Err(Undone::NotBegun(error)),
            }
        };
        match result {
            Ok(outcomes) => {
                for (at, outcome) in order.into_iter().zip(outcomes) {
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

    /// Each event in a transaction of its own.
    async fn one_by_one(&mut self, batch: &mut Batch, open: &[usize]) -> Result<(), Error> {
        let mode = self.handler.mode();
        let mut items: Vec<_> =
            open.iter().filter_map(|at| item(batch, *at).map(|item| (*at, item))).collect();
        sort_within_aggregates(&mut items, |(_, item)| item.candidate(), mode);
        let order: Vec<usize> = items.into_iter().map(|(at, _)| at).collect();
        let mut done_any = false;
        for at in order {
            if !batch.is_open(at) {
                continue;
            }
            let Some(one) = item(batch, at) else { continue };
            match self.one(one).await {
                Ok(outcome) => {
                    done_any = true;
                    batch.settle(at, outcome);
                }
                Err(error) if done_any => {
                    // Those that are done need not come again; the rest does.
                    tracing::error!(
                        error = chain(&error),
                        "the rest of the batch goes back to the queue"
                    );
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One event: again at once where another transaction or a broken
    /// connection was in the way, parked where the handler refuses it.
    async fn one(&mut self, item: Item<'_>) -> Result<Outcome, Error> {
        let mut park: Option<String> = None;
        let mut tries = 0;
        loop {
            tries += 1;
            let session = self.database.session(self.handler.name()).await?;
            let undone = match apply(session, &self.handler, &[item], park.as_deref()).await {
                Ok(outcomes) => {
                    let outcome = outcomes.first().copied().unwrap_or(Outcome::Failed);
                    if outcome == Outcome::Parked {
                        self.log(item, "parked: see relay.parked for the event and the reason");
                    }
                    return Ok(outcome);
                }
                Err(undone) => undone,
            };
            self.clear_up(&undone);
            let again = tries < TRIES;
            match undone {
                Undone::Reject(reason) if park.is_none() => park = Some(reason),
                Undone::Overtaken if again => {}
                Undone::Db(error) if again && (is_contention(&error) || is_lost(&error)) => {}
                Undone::NotBegun(_) if again => {}
                Undone::NotBegun(error) => return Err(error),
                Undone::Retry(reason) | Undone::Reject(reason) => {
                    self.log(item, &format!("to be retried: {reason}"));
                    return Ok(Outcome::Failed);
                }
                Undone::Db(error) => {
                    self.log(item, &format!("to be retried: {}", describe(&error)));
                    return Ok(Outcome::Failed);
                }
                Undone::Overtaken => {
                    self.log(item, "to be retried: other hosts are working on its aggregate");
                    return Ok(Outcome::Failed);
                }
            }
        }
    }

    /// Makes the connection usable again after a rollback, or gives it up.
    fn clear_up(&mut self, undone: &Undone) {
        match undone {
            Undone::NotBegun(_) => self.database.discard(),
            Undone::Db(error) if is_lost(error) => self.database.discard(),
            Undone::Db(_) => self.database.forget_statements(),
            Undone::Retry(_) | Undone::Reject(_) | Undone::Overtaken => {}
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

fn item(batch: &Batch, at: usize) -> Option<Item<'_>> {
    let record = batch.record(at);
    record.event().map(|event| Item { event, record })
}
