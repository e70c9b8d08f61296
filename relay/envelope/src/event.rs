//! A JSON body to the event that a consumer handles.

use crate::Position;
use crate::metadata::{TENANT_ID, member_text};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::value::RawValue;
use std::borrow::Cow;
use time::OffsetDateTime;
use uuid::Uuid;

/// One event as it arrived.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Body")]
pub struct Event {
    /// Stable identity: equal ids are the same event sent again.
    pub event_id: Uuid,
    /// What happened, such as `order.created`.
    pub event_type: String,
    /// The version of `data`'s shape.
    pub event_version: String,
    /// When it happened.
    pub timestamp: OffsetDateTime,
    /// Which service published it.
    pub source: String,
    /// The kind of thing it happened to.
    pub aggregate_type: String,
    /// Which one it happened to.
    pub aggregate_id: String,
    /// Whose event it is, where tenants are used: the member `tenant_id` of the metadata. Never
    /// empty.
    pub tenant_id: Option<String>,
    /// The aggregate's version after the event, from 1; `None` where the author keeps none.
    pub aggregate_version: Option<i64>,
    /// The business operation that the event is part of.
    pub correlation_id: Option<String>,
    /// The event or command that caused this one.
    pub causation_id: Option<String>,
    /// The payload, byte for byte as its author wrote it.
    pub data: Box<RawValue>,
    /// The author's metadata, a JSON object.
    pub metadata: Option<Box<RawValue>>,
    /// Where the event stands in the stream, when it came from a relay.
    pub position: Option<Position>,
}

/// The members of a body.
#[derive(Deserialize)]
struct Body {
    event_id: Uuid,
    event_type: String,
    #[serde(default = "first_version")]
    event_version: String,
    #[serde(with = "time::serde::rfc3339")]
    timestamp: OffsetDateTime,
    #[serde(default)]
    source: String,
    aggregate_type: String,
    aggregate_id: String,
    #[serde(default)]
    aggregate_version: Option<i64>,
    #[serde(default)]
    correlation_id: Option<String>,
    #[serde(default)]
    causation_id: Option<String>,
    data: Box<RawValue>,
    #[serde(default)]
    metadata: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "position")]
    position: Option<Position>,
}

impl From<Body> for Event {
    fn from(body: Body) -> Self {
        let metadata = body.metadata.as_deref().map(RawValue::get);
        let tenant_id = metadata.and_then(tenant_of);
        Self {
            event_id: body.event_id,
            event_type: body.event_type,
            event_version: body.event_version,
            timestamp: body.timestamp,
            source: body.source,
            aggregate_type: body.aggregate_type,
            aggregate_id: body.aggregate_id,
            tenant_id: tenant_id.map(Cow::into_owned),
            aggregate_version: body.aggregate_version,
            correlation_id: body.correlation_id,
            causation_id: body.causation_id,
            data: body.data,
            metadata: body.metadata,
            position: body.position,
        }
    }
}

/// The tenant that metadata names: its member `tenant_id`, where that is a text and not empty.
#[must_use]
pub fn tenant_of(metadata: &str) -> Option<Cow<'_, str>> {
    member_text(metadata, TENANT_ID).filter(|tenant| !tenant.is_empty())
}

/// A body that is not an event.
#[derive(Debug, thiserror::Error)]
#[error("expected an event in the relay format, found a body that is not one")]
pub struct EventError(#[from] serde_json::Error);

impl Event {
    /// Reads an event from a message body.
    ///
    /// # Errors
    /// When the body is not JSON, or a field is missing or of another type.
    pub fn from_json(body: &str) -> Result<Self, EventError> {
        Ok(serde_json::from_str(body)?)
    }

    /// The payload as `T`.
    ///
    /// # Errors
    /// When the payload does not have the shape of `T`.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.data.get())
    }

    /// One member of the metadata, where it is there and a string.
    #[must_use]
    pub fn metadata_text(&self, name: &str) -> Option<String> {
        member_text(self.metadata.as_ref()?.get(), name).map(Cow::into_owned)
    }
}

fn first_version() -> String {
    "1.0".to_owned()
}

fn position<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Position>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_body_reads() {
        let event = Event::from_json(include_str!("../golden/relay_1.json")).unwrap();
        assert_eq!(event.aggregate_version, Some(5));
        assert_eq!(event.data.get(), r#"{"total": 1.50}"#);
        assert_eq!(event.tenant_id.as_deref(), Some("acme"));
        assert_eq!(
            event.position,
            Some(Position { epoch: 0x68e0_a1b2, commit_lsn: 0x16b_3748, ordinal: 3 })
        );
    }

    #[test]
    fn a_payload_that_no_parser_likes_still_passes() {
        let data = r#"{"a":1e999,"a":0.10,"lone":"\ud800","nul":"\u0000"}"#;
        let body = include_str!("../golden/relay_1.json").replace(r#"{"total": 1.50}"#, data);
        assert_eq!(Event::from_json(&body).unwrap().data.get(), data);
    }

    #[test]
    fn other_bodies_are_refused_with_the_reason_behind() {
        for body in ["", "null", "[]", "{}", r#"{"event_id":"x"}"#] {
            let error = Event::from_json(body).unwrap_err();
            assert!(std::error::Error::source(&error).is_some(), "{body}");
        }
    }
}
