//! An event with its place becomes an envelope that nothing is left to compute for.
//!
//! The only builder of envelopes: the same event gives the same bytes, however
//! often it is sealed.

use crate::outbox::OutboxEvent;
use crate::publish::Sealed;
use envelope::{Envelope, Format, Position};

/// Seals an event in a destination's format.
///
/// `source` names the service that publishes it. Its ordering key is that of its aggregate.
#[must_use]
pub fn seal(event: &OutboxEvent<'_>, position: Position, source: &str, format: Format) -> Sealed {
    let key = event.ordering_key();
    let envelope = Envelope {
        event_id: event.event_id,
        event_type: &event.event_type,
        event_version: &event.event_version,
        timestamp: &event.recorded_at,
        source,
        aggregate_type: &event.aggregate_type,
        aggregate_id: &event.aggregate_id,
        key: &key,
        aggregate_version: event.aggregate_version,
        tenant_id: event.tenant_id.as_deref(),
        correlation_id: event.correlation_id.as_deref(),
        causation_id: event.causation_id.as_deref(),
        data: event.data,
        metadata: event.metadata,
        position,
    };
    let mut body = String::new();
    envelope.write(format, &mut body);
    let attributes = envelope.attributes(format);
    let attributes = attributes.map(|a| (a.name, a.value.into_owned())).collect();
    Sealed {
        event_id: event.event_id,
        event_type: event.event_type.clone().into_owned(),
        key,
        body,
        attributes,
    }
}
