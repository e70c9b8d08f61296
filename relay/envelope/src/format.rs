//! Which of the published formats a destination gets.

use serde::Deserialize;

/// A format of the message body.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The default: all that is known of an event, in one JSON object.
    #[default]
    Relay,
    /// CloudEvents 1.0 in structured mode, JSON.
    CloudEvents,
    /// The event's `data` alone; what else is known travels in the attributes.
    Payload,
}
