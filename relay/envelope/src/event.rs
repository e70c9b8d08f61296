//! A JSON body to the event that a consumer handles.

use crate::Position;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

/// One event as it arrived.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// Stable identity: equal ids are the same event sent again.
    pub event_id: Uuid,
    /// What happened, such as `order.created`.
    pub event_type: String,
    /// The version of `data`'s shape.
    #[serde(default = "first_version")]
    pub event_version: String,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: OffsetDateTime,
    /// Which service published it.
    #[serde(default)]
    pub source: String,
    /// The kind of thing it happened to.
    pub aggregate_type: String,
    /// Which one it happened to: the ordering key.
    pub aggregate_id: String,
    /// The aggregate's version after the event, from 1; `None` where the author keeps none.
    #[serde(default)]
    pub aggregate_version: Option<i64>,
    /// The business operation that the event is part of.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// The event or command that caused this one.
    #[serde(default)]
    pub causation_id: Option<String>,
    /// The payload, byte for byte as its author wrote it.
    pub data: Box<RawValue>,
    /// The author's metadata, a JSON object.
    #[serde(default)]
    pub metadata: Option<Box<RawValue>>,
    /// Where the event stands in the stream, when it came from a relay.
    #[serde(default, deserialize_with = "position")]
    pub position: Option<Position>,
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

    /// One member of the metadata, when it is there and a string.
    #[must_use]
    pub fn metadata_text(&self, name: &str) -> Option<String> {
        let text = self.metadata.as_ref()?.get();
        // Most metadata lacks most names. An escape can hide one.
        if !text.contains(name) && !text.contains('\\') {
            return None;
        }
        let metadata: serde_json::Value = serde_json::from_str(text).ok()?;
        metadata.get(name)?.as_str().map(str::to_owned)
    }

    /// Whose event it is, when its author said so.
    #[must_use]
    pub fn tenant_id(&self) -> Option<String> {
        self.metadata_text("tenant_id")
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
        assert_eq!(event.tenant_id().as_deref(), Some("acme"));
        assert_eq!(event.position, Some(Position { commit_lsn: 0x16b_3748, ordinal: 3 }));
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
