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
#[derive(Debug, Deserialize)]
pub(crate) struct Redriven {
    event_id: Uuid,
    /// The address it was meant for.
    pub(crate) destination: String,
    key: String,
    event_type: String,
    body: String,
    attributes: BTreeMap<String, String>,
}

/// A message under our prefix that `relay.redrive` did not write.
#[derive(Debug, thiserror::Error)]
#[error("expected a message written by relay.redrive, found another under its prefix: {0}")]
pub(crate) struct NotALetter(#[from] serde_json::Error);

impl Redriven {
    pub(crate) fn read(content: &[u8]) -> Result<Self, NotALetter> {
        Ok(serde_json::from_slice(content)?)
    }

    pub(crate) fn aggregate_type(&self) -> Option<&str> {
        self.attributes.get("aggregate_type").map(String::as_str)
    }

    /// The event as it was, with its id.
    pub(crate) fn seal(self) -> Sealed {
        Sealed {
            event_id: self.event_id,
            event_type: self.event_type,
            key: self.key,
            body: self.body,
            attributes: attributes(self.attributes),
        }
    }

    /// The same as a dead letter again: events go to no such address any more.
    pub(crate) fn without_way(self, place: Place) -> DeadLetter {
        DeadLetter {
            event_id: Some(self.event_id),
            reason: format!(
                "expected {:?} among the destinations of the configuration, or a route for its aggregate type, found neither",
                self.destination
            ),
            destination: self.destination,
            key: self.key,
            event_type: self.event_type,
            error_code: None,
            attempts: 0,
            position: place.position,
            body: self.body,
            attributes: attributes(self.attributes),
        }
    }
}

fn attributes(mut kept: BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    ATTRIBUTES.iter().filter_map(|name| Some((*name, kept.remove(*name)?))).collect()
}
