//! A batch to its effects: one transaction when all is well, one by one when not.

use crate::batch::Batch;
use crate::database::{Database, Open, Tx};
use crate::inbox::{Admitted, Progress, Work, admit, park};
use crate::record::Record;
use crate::version::{Step, step};
use crate::{ConsumerError, Handler, HandlerError, Mode};
use dsn::Dsn;
use envelope::PROBE_EVENT_TYPE;
use tokio_postgres::error::SqlState;

/// A handler with the read model it writes to.
pub struct Consumer<H> {
    handler: H,
    database: Database,
}

impl<H: Handler> std::fmt::Debug for Consumer<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("handler", &self.handler.name())
            .finish_non_exhaustive()
    }
}

/// Why a transaction did not commit.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Handler(#[from] HandlerError),
    #[error(
        "expected version {expected} of {aggregate_type} {aggregate_id}, found version {found}: events between are missing"
    )]
    Gap {
        aggregate_type: String,
        aggregate_id: String,
        expected: i64,
        found: i64,
    },
    #[error(
        "the event is older than what the inbox remembers, so it cannot be told whether it had its effect"
    )]
    Forgotten,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Handler(error.into())
    }
}

impl Failure {
    /// The reason to park the event, if it can never be applied.
    fn rejection(&self) -> Option<String> {
        match self {
            Self::Handler(HandlerError::Reject(reason)) => Some(reason.clone()),
            Self::Forgotten => Some(self.to_string()),
            Self::Handler(_) | Self::Gap { .. } => None,
        }
    }

    fn database(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Handler(HandlerError::Database(error)) => Some(error),
            Self::Handler(_) | Self::Gap { .. } | Self::Forgotten => None,
        }
    }

    /// Lost to another transaction, which is done by the time this is read.
    fn is_contention(&self) -> bool {
        let code = self.database().and_then(tokio_postgres::Error::code);
        matches!(
            code,
            Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED)
        )
    }
}

impl<H: Handler> Consumer<H> {
    /// A consumer of events for `handler`; the connection is made with the first batch.
    #[must_use]
    pub fn new(handler: H, read_model: &Dsn) -> Self {
        Self {
            handler,
            database: Database::new(read_model.clone()),
        }
    }

    /// Gives each event of a batch its effect, once; returns the ids of the messages
    /// that go back to the queue.
    ///
    /// # Errors
    /// When nothing could be done at all, so that the whole batch goes back.
    pub async fn process(&mut self, records: Vec<Record>) -> Result<Vec<String>, ConsumerError> {
        if records.iter().any(|record| record.message_id.is_empty()) {
            return Err(ConsumerError::NoMessageId);
        }
        let began = std::time::Instant::now();
        let mut batch = Batch::default();
        let works = read(records, &mut batch);
        if !works.is_empty() {
            self.apply_all(&works, &mut batch).await?;
        }
        let done = batch.count_done();
        let failed = batch.into_failed();
        tracing::info!(
            projection = self.handler.name(),
            done,
            back_to_the_queue = failed.len(),
            milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "batch"
        );
        Ok(failed)
    }

    async fn apply_all(&mut self, works: &[Work], batch: &mut Batch) -> Result<(), ConsumerError> {
        let all: Vec<&Work> = works.iter().collect();
        let open = self.database.open().await?;
        match apply(&self.handler, open, &all).await {
            Ok(()) => {
                all.iter().for_each(|_| batch.done());
                return Ok(());
            }
            Err(failure) => {
                if let Some(error) = failure.database()
                    && let Some(&(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME)) =
                        error.code()
                    && error
                        .as_db_error()
                        .is_some_and(|e| e.message().contains("relay"))
                    && let Failure::Handler(HandlerError::Database(error)) = failure
                {
                    return Err(ConsumerError::Schema(error));
                }
                tracing::debug!(%failure, events = all.len(), "the batch is taken one by one");
            }
        }
        self.one_by_one(works, batch).await
    }

    async fn one_by_one(&mut self, works: &[Work], batch: &mut Batch) -> Result<(), ConsumerError> {
        for work in works {
            if batch.is_stopped(&work.record) {
                batch.failed(&work.record);
                continue;
            }
            // The connection may have died with the work before: then it is made anew, and if
            // it cannot be, the events that were done stay done and the rest goes back.
            let done = match self.database.open().await {
                Ok(open) => one(&self.handler, open, work).await,
                Err(error) if batch.count_done() == 0 => return Err(error),
                Err(error) => {
                    tracing::error!(%error, message_id = work.record.message_id, "the event goes back to the queue");
                    batch.failed(&work.record);
                    continue;
                }
            };
            match done {
                Ok(()) => batch.done(),
                Err(failure) => {
                    if failure
                        .database()
                        .is_some_and(tokio_postgres::Error::is_closed)
                    {
                        self.database.close();
                    }
                    let (event, record) = (&work.event, &work.record);
                    tracing::warn!(
                        %failure, projection = self.handler.name(), event_id = %event.event_id,
                        event_type = event.event_type, receive_count = record.receive_count,
                        "the event goes back to the queue"
                    );
                    batch.failed(record);
                }
            }
        }
        Ok(())
    }
}

/// Reads the events; what is none goes back, and ends in the dead-letter queue.
fn read(records: Vec<Record>, batch: &mut Batch) -> Vec<Work> {
    let mut works = Vec::with_capacity(records.len());
    for record in records {
        if batch.is_stopped(&record) {
            batch.failed(&record);
            continue;
        }
        match record.event() {
            Ok(event) if event.event_type == PROBE_EVENT_TYPE => batch.done(),
            Ok(event) => works.push(Work { record, event }),
            Err(error) => {
                // serde's word names the field and the place, and quotes no payload.
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(
                    %error, cause, message_id = record.message_id, receive_count = record.receive_count,
                    "the message goes back to the queue, and to its dead-letter queue in the end"
                );
                batch.failed(&record);
            }
        }
    }
    works
}

/// One event in a transaction of its own; refused events are parked.
async fn one<H: Handler>(handler: &H, open: &mut Open, work: &Work) -> Result<(), Failure> {
    const TRIES: u32 = 3;
    let mut tries = 1;
    loop {
        match apply(handler, open, &[work]).await {
            Ok(()) => return Ok(()),
            Err(failure) if failure.is_contention() && tries < TRIES => tries += 1,
            Err(failure) => {
                let Some(reason) = failure.rejection() else {
                    return Err(failure);
                };
                parked(handler, open, work, &reason).await?;
                tracing::warn!(
                    projection = handler.name(), event_id = %work.event.event_id,
                    event_type = work.event.event_type, reason, "the event was parked in relay.parked"
                );
                return Ok(());
            }
        }
    }
}

/// Records a refused event as done, and keeps it: the events behind it go on.
async fn parked<H: Handler>(
    handler: &H,
    open: &mut Open,
    work: &Work,
    reason: &str,
) -> Result<(), Failure> {
    let transaction = open.client.transaction().await?;
    let mut tx = Tx::new(&transaction, &mut open.statements);
    let projection = handler.name();
    let mut admitted = admit(&mut tx, projection, &[work]).await?;
    admitted.take(&work.event);
    if handler.mode() == Mode::Versioned {
        let mut progress = Progress::lock(&mut tx, projection, &[work]).await?;
        let version = work.event.aggregate_version.unwrap_or(0);
        if step(progress.of(&work.event), version) == Step::Next {
            progress.advance(&work.event, version);
            progress.save(&mut tx, projection).await?;
        }
    }
    park(&mut tx, projection, work, reason).await?;
    transaction.commit().await?;
    Ok(())
}

/// Events in one transaction: all have their effect, or none.
async fn apply<H: Handler>(handler: &H, open: &mut Open, works: &[&Work]) -> Result<(), Failure> {
    let transaction = open.client.transaction().await?;
    let mut tx = Tx::new(&transaction, &mut open.statements);
    let projection = handler.name();
    let mut admitted = admit(&mut tx, projection, works).await?;
    let versioned = handler.mode() == Mode::Versioned;
    let mut progress = if versioned {
        Progress::lock(&mut tx, projection, works).await?
    } else {
        Progress::default()
    };
    for work in works {
        if !is_due(&mut admitted, &progress, work, versioned)? {
            tracing::debug!(event_id = %work.event.event_id, "a duplicate: it had its effect before");
            continue;
        }
        handler.handle(&work.event, &mut tx).await?;
        if let Some(version) = work.event.aggregate_version.filter(|_| versioned) {
            progress.advance(&work.event, version);
        }
    }
    progress.save(&mut tx, projection).await?;
    transaction.commit().await?;
    Ok(())
}

/// Whether the event is to have its effect now; a gap is an error.
fn is_due(
    admitted: &mut Admitted,
    progress: &Progress,
    work: &Work,
    versioned: bool,
) -> Result<bool, Failure> {
    let event = &work.event;
    if !admitted.take(event) {
        return Ok(false);
    }
    if admitted.is_forgotten(event) {
        return Err(Failure::Forgotten);
    }
    let Some(version) = event.aggregate_version.filter(|_| versioned) else {
        return Ok(true);
    };
    match step(progress.of(event), version) {
        Step::Next => Ok(true),
        Step::Duplicate => Ok(false),
        Step::Gap { expected } => Err(Failure::Gap {
            aggregate_type: event.aggregate_type.clone(),
            aggregate_id: event.aggregate_id.clone(),
            expected,
            found: version,
        }),
    }
}
