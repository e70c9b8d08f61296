//! A dead letter that comes again: read from the message that `relay.redrive` writes.
//!
//! The event goes through the stream like any other, at the place of the message: so it is lost
//! as little, and becomes a dead letter again when it is refused again.

use crate::dead_letter::DeadLetter;
use crate::publish::Sealed;
use crate::transaction::Place;
use serde::Deserialize;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The prefix under which `relay.redrive` writes its messages.
pub const REDRIVE_PREFIX: &str = "relay.redrive";

/// The attributes that an event may have; what else a letter has is not ours.
const ATTRIBUTES: &[&str] = &[
    "event_type",
    "event_version",
    "aggregate_type",
    "aggregate_id",
    "source",
    "tenant_id",
    "correlation_id",
    "event_id",
];

/// A dead letter as it was kept.
#[derive(Debug)]
pub(crate) struct Redriven {
    head: Head,
    body: String,
}

/// What is kept beside the body.
#[derive(Debug, Deserialize)]
struct Head {
    event_id: Uuid,
    /// The address it was meant for.
    destination: String,
    key: String,
    event_type: String,
    attributes: BTreeMap<String, String>,
}

/// A letter as `relay.redrive` wrote it before it signed: the body is a text of the JSON.
#[derive(Debug, Deserialize)]
struct Unsigned {
    #[serde(flatten)]
    head: Head,
    body: String,
}

/// A message that is not a letter. Its content becomes a dead letter again.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a message written by relay.redrive, found another under its prefix: {reason}")]
pub(crate) struct NotALetter {
    /// Without any part of the message.
    reason: String,
}

impl From<serde_json::Error> for NotALetter {
    fn from(error: serde_json::Error) -> Self {
        // Only the kind and the place: serde's own words can quote the payload.
        let reason = format!("{:?} at column {}", error.classify(), error.column());
        Self { reason }
    }
}

impl Redriven {
    /// Reads the length of the head in four bytes, the head as JSON, and the body.
    pub(crate) fn read(content: &[u8]) -> Result<Self, NotALetter> {
        if content.first() == Some(&b'{') {
            let Unsigned { head, body } = serde_json::from_slice(content)?;
            return Ok(Self { head, body });
        }
        let cut = || NotALetter { reason: "it is cut".to_owned() };
        let (length, rest) = content.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut())?;
        let (head, body) = rest.split_at_checked(length).ok_or_else(cut)?;
        let body = std::str::from_utf8(body)
            .map_err(|_| NotALetter { reason: "its body is not UTF-8".to_owned() })?;
        Ok(Self { head: serde_json::from_slice(head)?, body: body.to_owned() })
    }

    /// The address it was meant for.
    pub(crate) fn destination(&self) -> &str {
        &self.head.destination
    }

    pub(crate) fn aggregate_type(&self) -> Option<&str> {
        self.head.attributes.get("aggregate_type").map(String::as_str)
    }

    /// The event as it was, with its id.
    pub(crate) fn seal(self) -> Sealed {
        let Self { head, body } = self;
        Sealed {
            event_id: head.event_id,
            event_type: head.event_type,
            key: head.key,
            body,
            attributes: attributes(head.attributes),
        }
    }

    /// The same as a dead letter again: events go to no such address any more.
    pub(crate) fn without_way(self, place: Place) -> DeadLetter {
        let Self { head, body } = self;
        DeadLetter {
            event_id: Some(head.event_id),
            reason: format!(
                "expected {:?} among the destinations of the configuration, or a route for its aggregate type, found neither",
                head.destination
            ),
            destination: head.destination,
            key: head.key,
            event_type: head.event_type,
            error_code: None,
            attempts: 0,
            position: place.position,
            body: body.into_bytes(),
            attributes: attributes(head.attributes),
        }
    }
}

/// Those that are ours, in the order in which they are written.
fn attributes(mut kept: BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    ATTRIBUTES.iter().filter_map(|name| Some((*name, kept.remove(*name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use envelope::{Envelope, Format, Position};
    use std::collections::BTreeSet;

    #[test]
    fn what_is_no_letter_is_refused_without_quoting_it() {
        let head = br#"{"event_id":"my secret"}"#;
        let signed =
            [&u32::try_from(head.len()).unwrap().to_be_bytes()[..], head, b"body"].concat();
        let unsigned = &br#"{"event_id":"my secret","body":""}"#[..];
        for content in [&signed[..], unsigned, b"", b"\x00", b"\xff\xff\xff\xff", b"\0\0\0\0\xff"] {
            let error = Redriven::read(content).unwrap_err().to_string();
            assert!(error.contains("relay.redrive") && !error.contains("my secret"), "{error}");
        }
    }

    #[test]
    fn every_attribute_that_a_format_writes_comes_again() {
        let envelope = Envelope {
            event_id: Uuid::nil(),
            event_type: "order.created",
            event_version: "1.0",
            timestamp: "2026-01-15T10:30:00.000Z",
            source: "order-service",
            aggregate_type: "order",
            aggregate_id: "ord_1",
            key: "ord_1",
            aggregate_version: Some(1),
            tenant_id: Some("t"),
            correlation_id: Some("c"),
            causation_id: Some("d"),
            data: "{}",
            metadata: "{}",
            position: Position::default(),
        };
        let mut written = BTreeSet::new();
        for format in Format::ALL {
            let attributes = envelope.attributes(format).map(|a| (a.name, a.value.into_owned()));
            let attributes: Vec<_> = attributes.collect();
            written.extend(attributes.iter().map(|(name, _)| *name));
            let kept = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
            let again: BTreeSet<_> = super::attributes(kept.collect()).into_iter().collect();
            assert_eq!(again, attributes.into_iter().collect(), "{format:?}");
        }
        assert_eq!(written, ATTRIBUTES.iter().copied().collect(), "no format writes the others");
    }
}
