//! Which of the published formats a destination gets, and the plainest of them.

use crate::Envelope;
use crate::write::raw;
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
    /// The event's `data` alone; what else a consumer needs travels in the attributes.
    Payload,
}

impl Envelope<'_> {
    /// Appends the event in this format to `out`. `data` is never parsed: it is copied.
    pub fn write(&self, format: Format, out: &mut String) {
        match format {
            Format::Relay => self.write_json(out),
            Format::CloudEvents => self.write_cloudevent(out),
            Format::Payload => {
                out.reserve(self.data.len());
                raw(out, self.data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::tests::envelope;

    #[test]
    fn the_payload_is_the_data_byte_for_byte() {
        let mut out = String::new();
        let data = "{\"total\": 1.50, \"a\":1, \"a\":2}";
        envelope("o", data, "{}").write(Format::Payload, &mut out);
        assert_eq!(out, data);
        out.clear();
        envelope("ord_123456", r#"{"total": 1.50}"#, r#"{"user_id": "u1"}"#)
            .write(Format::Payload, &mut out);
        assert_eq!(out, include_str!("../golden/payload_1.json").trim_end());
    }
}
