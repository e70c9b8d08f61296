//! Read-your-writes without a wait: the projection applied in the command's own transaction.
//!
//! Knows: how a command's event is written and applied before it is published.
//! Must not know: queues, batches, how a delivery is judged (`apply` does).

use crate::apply::{Item, Manner, work};
use crate::batch::Outcome;
use crate::emit::NewEvent;
use crate::error::Error;
use crate::handler::{Handler, Mode, Tx};
use crate::inbox::content;
use crate::keep;
use crate::record::{Content, Malformed, Record, refusal};
use crate::statements::Statements;
use crate::traces;
use crate::undone::{PANICKED, Undone};
use envelope::Event;
use serde_json::value::RawValue;
use std::borrow::Cow;
use time::OffsetDateTime;
use tokio_postgres::Transaction;
use tokio_postgres::types::Json;
use uuid::Uuid;

/// How often it is tried when another transaction was faster with the aggregate's first progress.
const TRIES: u32 = 3;

/// Why an event could not be applied at once. Nothing of it is left in the transaction, which can
/// go on unless Postgres is gone: then the later delivery brings the event to the projection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The handler wants it later.
    #[error("the projection wants the event later: {0}")]
    NotNow(String),
    /// The handler, or the runtime before it, refuses it for good; delivered, it would be parked.
    #[error("the projection refuses the event: {0}")]
    Refused(String),
    /// It is no event that could be delivered.
    #[error("the event cannot be applied")]
    Malformed(#[from] Malformed),
    /// Without a version nothing tells it from older ones that are still on their way.
    #[error(
        "expected an aggregate_version, found none: a projection of mode Latest tells by it which write is the last, as the event has no position yet"
    )]
    Unversioned,
    /// Other transactions are working on its aggregate.
    #[error("other transactions are working on the event's aggregate; try the command again")]
    Contended,
    /// The database refused or is gone.
    #[error("the database refused")]
    Database(#[from] tokio_postgres::Error),
}

/// Applies an event in the transaction of the command that causes it.
///
/// The inbox's row and the progress are recorded as a delivery would record them, so the later
/// delivery is a [`Outcome::Duplicate`]. The event must be the one that the command writes into
/// the outbox in the same transaction, with the same id and the same bytes of data:
/// [`NewEvent::append`] gives it. The outbox, the tables of `relay init --read-model` and those of
/// the handler are then in one database.
///
/// | the outcome | what it says |
/// |---|---|
/// | `Applied` | the effect is part of the transaction |
/// | `Duplicate`, `Stale` | the projection knows this event, or (`Versioned`, `Latest`) this version of the aggregate or a later one |
/// | `Gap` | earlier events of the aggregate are still on their way (`Versioned`): nothing was recorded, and the later delivery applies it |
///
/// Until the transaction ends, deliveries of the same aggregate to this projection wait for it.
///
/// # Errors
/// When the event cannot be applied; nothing of it is left in the transaction then.
pub async fn apply_now<H: Handler>(
    handler: &H,
    transaction: &mut Transaction<'_>,
    event: &Event,
) -> Result<Outcome, ApplyError> {
    if let Some(malformed) = refusal(event) {
        return Err(malformed.into());
    }
    if handler.mode() == Mode::Latest && event.aggregate_version.is_none() {
        return Err(ApplyError::Unversioned);
    }
    if let Some(reason) = keep::too_long(event) {
        return Err(ApplyError::Refused(reason));
    }
    let delivered = as_delivered(event);
    let event = &*delivered;
    let record = record_of(event);
    let item = Item { event, record: &record };
    for _ in 0..TRIES {
        let savepoint = transaction.transaction().await?;
        let mut statements = Statements::default();
        let mut tx = Tx::new(savepoint.client(), &mut statements);
        let worked = work(&mut tx, handler, &[item], Manner::default()).await;
        let undone = match tx.end(worked).await {
            Ok(applied) => match applied.outcomes.first() {
                Some(Outcome::Parked) => {
                    let mut tx = Tx::new(savepoint.client(), &mut statements);
                    Undone::Reject(why_parked(&mut tx, handler, event).await?)
                }
                Some(outcome) => {
                    let outcome = *outcome;
                    savepoint.commit().await?;
                    return Ok(outcome);
                }
                None => Undone::Overtaken,
            },
            Err(undone) => undone,
        };
        savepoint.rollback().await?;
        match undone {
            Undone::Overtaken => {}
            Undone::Retry(reason, _) => return Err(ApplyError::NotNow(reason)),
            Undone::Reject(reason) => return Err(ApplyError::Refused(reason)),
            Undone::Db(error) => return Err(error.into()),
            Undone::Panicked => return Err(ApplyError::NotNow(PANICKED.to_owned())),
            Undone::Unfit(Error::NotInitialised(error) | Error::Pooler(error)) => {
                return Err(error.into());
            }
            // These are of deliveries, which have an end and a connection of their own.
            Undone::OutOfTime | Undone::NotBegun(_) | Undone::Unfit(_) => {
                return Err(ApplyError::Contended);
            }
        }
    }
    Err(ApplyError::Contended)
}

/// The event as the relay will send it: two characters that SQS refuses are escapes in its data.
/// What the inbox remembers of its content is then the same.
fn as_delivered(event: &Event) -> Cow<'_, Event> {
    match envelope::as_sent(event.data.get()) {
        Cow::Borrowed(_) => Cow::Borrowed(event),
        Cow::Owned(data) => match RawValue::from_string(data) {
            Ok(data) => Cow::Owned(Event { data, ..event.clone() }),
            Err(_) => Cow::Borrowed(event),
        },
    }
}

/// What the runtime wrote beside an event that it set aside.
async fn why_parked<H: Handler>(
    tx: &mut Tx<'_>,
    handler: &H,
    event: &Event,
) -> Result<String, tokio_postgres::Error> {
    let sql = "select reason from relay.parked
        where projection operator(pg_catalog.=) $1 and event_id operator(pg_catalog.=) $2
          and content operator(pg_catalog.=) $3";
    let row = tx.query_first(sql, &[&handler.name(), &event.event_id, &content(event)]).await?;
    Ok(row.map(|row| row.get(0)).unwrap_or_default())
}

/// A record that never was in a queue.
fn record_of(event: &Event) -> Record {
    Record {
        trace_header: None,
        message_id: None,
        group: None,
        sent_at: None,
        receive_count: 1,
        body: event.data.get().to_owned(),
        content: Content::Event(Box::new(event.clone())),
    }
}

impl NewEvent {
    /// Writes the event into `relay.outbox` in the command's transaction, and returns it as it
    /// will be delivered, but for its position and its source: for [`apply_now`].
    ///
    /// Its `traceparent` names the span that is open where spans are kept
    /// ([`Traces`](crate::Traces)): the consumers' spans are linked to it.
    ///
    /// # Errors
    /// When Postgres refuses it: there is no outbox (`relay init`), or a name is none.
    pub async fn append(
        self,
        transaction: &Transaction<'_>,
    ) -> Result<Event, tokio_postgres::Error> {
        let traceparent = traces::current();
        self.append_traced(transaction, traceparent.as_deref()).await
    }

    /// The same as part of the trace that this `traceparent` names, such as that of the request
    /// which brought the command: W3C's header as it came, whether spans are kept or not.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_traced(
        self,
        transaction: &Transaction<'_>,
        traceparent: Option<&str>,
    ) -> Result<Event, tokio_postgres::Error> {
        const SQL: &str = "insert into relay.outbox
              (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, event_version, data,
               metadata)
            values ($1, $2, $3, $4, $5, coalesce($6, '1.0'), $7::pg_catalog.text::pg_catalog.json,
              case when $8::pg_catalog.text is null then pg_catalog.json_build_object()
                else pg_catalog.json_build_object('traceparent', $8::pg_catalog.text) end)
            returning event_version, recorded_at, metadata";
        let event_id = Uuid::now_v7();
        let row = transaction
            .query_one(
                SQL,
                &[
                    &event_id,
                    &self.aggregate_type,
                    &self.aggregate_id,
                    &self.aggregate_version,
                    &self.event_type,
                    &self.event_version,
                    &self.data.get(),
                    &traceparent,
                ],
            )
            .await?;
        Ok(Event {
            event_id,
            event_type: self.event_type,
            event_version: row.get("event_version"),
            timestamp: row.get::<_, OffsetDateTime>("recorded_at"),
            source: String::new(),
            aggregate_type: self.aggregate_type,
            aggregate_id: self.aggregate_id,
            tenant_id: None,
            aggregate_version: self.aggregate_version,
            correlation_id: None,
            causation_id: None,
            data: self.data,
            metadata: Some(row.get::<_, Json<Box<RawValue>>>("metadata").0),
            position: None,
        })
    }
}
