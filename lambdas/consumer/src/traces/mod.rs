//! Traces: a span for each batch and one for each event handled, linked to where the event and its
//! message come from.
//!
//! Knows: the names of OpenTelemetry's conventions for messages, when spans are sent. Must not
//! know: queues, the database. Spans are `tracing`'s; without the feature `otel` they only give
//! names to what is logged.

#[cfg(feature = "otel")]
mod export;
#[cfg(feature = "otel")]
mod kept;
#[cfg(feature = "otel")]
mod links;
#[cfg(feature = "otel")]
mod transport;

#[cfg(feature = "otel")]
pub use export::TracesError;

use crate::apply::Item;
use crate::error::Error;
use crate::handler::HandlerError;
#[cfg(feature = "otel")]
use opentelemetry::trace::{Status, TraceContextExt as _};
use std::time::Duration;
use tracing::Span;
#[cfg(feature = "otel")]
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Where spans are kept until a host sends them; nowhere, unless they were turned on.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    #[cfg(feature = "otel")]
    export: Option<std::sync::Arc<export::Export>>,
}

impl Traces {
    /// Sends the spans that have ended meanwhile, in one request; gives them up after `limit`. The
    /// hosts do so by themselves.
    #[cfg(feature = "otel")]
    pub async fn flush(&self, limit: Duration) {
        if let Some(export) = &self.export {
            export.flush(limit).await;
        }
    }

    /// There is nothing to send.
    #[cfg(not(feature = "otel"))]
    pub fn flush(&self, _: Duration) -> impl Future<Output = ()> + use<> {
        std::future::ready(())
    }
}

/// The span of a delivery.
pub(crate) fn of_batch(projection: &str, count: usize) -> Span {
    let span = tracing::info_span!("batch", projection);
    #[cfg(feature = "otel")]
    {
        describe(&span, "batch", projection);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        span.set_attribute("messaging.batch.message_count", count);
    }
    #[cfg(not(feature = "otel"))]
    let _ = count;
    span
}

/// The span of an event that is handled. A link, and no parent, leads to its origin: a batch has
/// many.
pub(crate) fn of_event(projection: &str, item: Item<'_>, traceparent: Option<&str>) -> Span {
    let Item { event, record } = item;
    let span = tracing::info_span!(
        "event",
        event_id = %event.event_id,
        event_type = event.event_type,
        correlation_id = event.correlation_id,
        receive_count = record.receive_count,
        traceparent,
        aws_trace_header = record.trace_header,
    );
    #[cfg(feature = "otel")]
    {
        describe(&span, "process", projection);
        if let Some(id) = &record.message_id {
            span.set_attribute("messaging.message.id", id.clone());
        }
        let written = traceparent.and_then(links::of_traceparent);
        let sent = record.trace_header.as_deref().and_then(links::of_xray);
        for origin in written.into_iter().chain(sent) {
            span.add_link(origin);
        }
    }
    #[cfg(not(feature = "otel"))]
    let _ = projection;
    span
}

/// Notes why a delivery failed, by the kind of the error alone.
pub(crate) fn batch_failed(span: &Span, error: &Error) {
    failed(span, error.kind());
}

/// Notes why an event was not applied, by the kind of the error alone: words may hold payload.
pub(crate) fn event_failed(span: &Span, error: &HandlerError) {
    let kind = match error {
        HandlerError::Retry(_) | HandlerError::RetryAfter { .. } => "retry",
        HandlerError::Reject(_) => "reject",
        HandlerError::Database(_) => "database",
    };
    failed(span, kind);
}

#[cfg(not(feature = "otel"))]
fn failed(_: &Span, _: &'static str) {}

#[cfg(feature = "otel")]
fn failed(span: &Span, kind: &'static str) {
    span.set_attribute("error.type", kind);
    span.set_status(Status::error(kind));
}

/// The names of a message's span, after
/// <https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>.
#[cfg(feature = "otel")]
fn describe(span: &Span, operation: &'static str, projection: &str) {
    span.set_attribute("messaging.system", "aws_sqs");
    span.set_attribute("messaging.operation.type", "process");
    span.set_attribute(kept::OPERATION, operation);
    span.set_attribute(kept::GROUP, projection.to_owned());
}

/// The span that is current, as W3C's `traceparent`; none where no spans are kept.
#[cfg(feature = "otel")]
pub(crate) fn current() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    links::to_traceparent(span.span_context())
}

#[cfg(not(feature = "otel"))]
pub(crate) fn current() -> Option<String> {
    None
}
