//! Events that a handler causes: rows of the outbox in the transaction of the effect.
//!
//! Knows: `relay.outbox`, which stands in the same database then (`relay init`), and how an
//! event's id follows from the one that caused it. Must not know: the inbox, queues.

use crate::handler::Tx;
use crate::traces;
use envelope::Event;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// An event to be.
///
/// ```
/// use consumer::NewEvent;
///
/// #[derive(serde::Serialize)]
/// struct Flagged {
///     reason: &'static str,
/// }
///
/// let event = NewEvent::new("order", "ord_1", "order.flagged", &Flagged { reason: "late" })?;
/// let event = event.aggregate_version(6);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) event_type: String,
    pub(crate) event_version: Option<String>,
    pub(crate) aggregate_version: Option<i64>,
    pub(crate) data: Box<RawValue>,
}

impl NewEvent {
    /// An event of this type, of this aggregate, with this payload.
    ///
    /// # Errors
    /// When the payload cannot be written as JSON.
    pub fn new<T: Serialize + ?Sized>(
        aggregate_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        event_type: impl Into<String>,
        data: &T,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            aggregate_type: aggregate_type.into(),
            aggregate_id: aggregate_id.into(),
            event_type: event_type.into(),
            event_version: None,
            aggregate_version: None,
            data: serde_json::value::to_raw_value(data)?,
        })
    }

    /// The aggregate's version after it, from 1.
    #[must_use]
    pub fn aggregate_version(mut self, version: i64) -> Self {
        self.aggregate_version = Some(version);
        self
    }

    /// The version of the payload's shape; 1.0 where it is not set.
    #[must_use]
    pub fn event_version(mut self, version: impl Into<String>) -> Self {
        self.event_version = Some(version.into());
        self
    }
}

/// What the emitted events follow from.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    projection: String,
    event_id: Uuid,
    correlation_id: String,
    tenant_id: Option<String>,
    traceparent: Option<String>,
    /// How many were emitted for it.
    emitted: u32,
}

impl Cause {
    pub(crate) fn new(projection: &str, event: &Event) -> Self {
        Self {
            projection: projection.to_owned(),
            event_id: event.event_id,
            // An event of no operation begins one.
            correlation_id: event
                .correlation_id
                .clone()
                .unwrap_or_else(|| event.event_id.to_string()),
            tenant_id: event.tenant_id.clone(),
            traceparent: event.metadata_text("traceparent"),
            emitted: 0,
        }
    }

    /// The id of the next one: the same however often the handler runs for the event.
    fn next_id(&mut self) -> Uuid {
        let name = format!("{}\0{}", self.projection, self.emitted);
        self.emitted += 1;
        Uuid::new_v5(&self.event_id, name.as_bytes())
    }
}

impl Tx<'_> {
    /// The trace of the event being handled, as W3C's `traceparent` in its metadata.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.cause.as_ref()?.traceparent.as_deref()
    }

    /// Writes an event into the outbox of this database, in the same transaction.
    ///
    /// Its `causation_id` is the id of the event being handled, its `correlation_id` and tenant are
    /// that event's, and so is its `traceparent` unless spans are kept ([`Traces`](crate::Traces)):
    /// then it names the span that is open. Its own id follows from that event, the handler's name and
    /// the place among those that the handler emits for it: a handler that runs again emits the
    /// same ids. Returns the id.
    ///
    /// It is sent without a wait ([`write`](Tx::write)): where Postgres refuses it, because a name
    /// is none, the event fails when its handler has returned.
    ///
    /// # Errors
    /// When there is no outbox (`relay init`), or Postgres is gone.
    pub async fn emit(&mut self, event: NewEvent) -> Result<Uuid, tokio_postgres::Error> {
        const SQL: &str = "insert into relay.outbox
              (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, event_version,
               tenant_id, correlation_id, causation_id, data, metadata)
            values ($1, $2, $3, $4, $5, coalesce($6, '1.0'), $7, $8, $9, $10::pg_catalog.text::pg_catalog.json,
              case when $11::pg_catalog.text is null then pg_catalog.json_build_object()
                else pg_catalog.json_build_object('traceparent', $11::pg_catalog.text) end)";
        let cause = self.cause.as_mut();
        let id = cause.map_or_else(Uuid::now_v7, Cause::next_id);
        let cause = self.cause.clone();
        let cause = cause.as_ref();
        // A span that is open leads on from here; it is linked to where the event came from.
        let traceparent = traces::current();
        let origin = cause.and_then(|cause| cause.traceparent.as_deref());
        let traceparent = traceparent.as_deref().or(origin);
        let causation = cause.map(|cause| cause.event_id.to_string());
        self.write(
            SQL,
            &[
                &id,
                &event.aggregate_type,
                &event.aggregate_id,
                &event.aggregate_version,
                &event.event_type,
                &event.event_version,
                &cause.and_then(|cause| cause.tenant_id.as_deref()),
                &cause.map(|cause| cause.correlation_id.as_str()),
                &causation,
                &event.data.get(),
                &traceparent,
            ],
        )
        .await?;
        Ok(id)
    }
}
