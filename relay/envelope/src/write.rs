//! An envelope to its JSON body in the default format.

use crate::Position;
use crate::metadata::{TENANT_ID, has_member, push_members_without};
use std::borrow::Cow;
use std::fmt::Write as _;
use uuid::Uuid;

/// One event about to be published, borrowing from the row it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// Stable identity: the same however often the event is sent.
    pub event_id: Uuid,
    /// What happened, such as `order.created`.
    pub event_type: &'a str,
    /// The version of `data`'s shape.
    pub event_version: &'a str,
    /// When it happened, RFC 3339 in UTC.
    pub timestamp: &'a str,
    /// Which service published it.
    pub source: &'a str,
    /// The kind of thing it happened to.
    pub aggregate_type: &'a str,
    /// Which one it happened to.
    pub aggregate_id: &'a str,
    /// The ordering key, as [`ordering_key`](crate::ordering_key) writes it; it is not part of the
    /// default format.
    pub key: &'a str,
    /// The aggregate's version after the event, from 1; `None` where the author keeps none.
    pub aggregate_version: Option<i64>,
    /// Whose event it is; written into `metadata` as `tenant_id`.
    pub tenant_id: Option<&'a str>,
    /// The business operation that the event is part of.
    pub correlation_id: Option<&'a str>,
    /// The event or command that caused this one.
    pub causation_id: Option<&'a str>,
    /// The payload, raw JSON.
    pub data: &'a str,
    /// The author's metadata, a raw JSON object.
    pub metadata: &'a str,
    /// Where the event stands in the stream.
    pub position: Position,
}

impl Envelope<'_> {
    /// Appends the event's JSON, in the default format, to `out`.
    ///
    /// `data` and `metadata` are copied as they are, but for the two characters
    /// that JSON allows in a string and SQS refuses (U+FFFE and U+FFFF are no
    /// XML 1.0 characters): those are written as JSON escapes.
    pub(crate) fn write_json(&self, out: &mut String) {
        out.reserve(self.data.len() + self.metadata.len() + 512);
        out.push_str("{\"event_id\":\"");
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        out.push_str(self.event_id.hyphenated().encode_lower(&mut id));
        out.push('"');
        text_field(out, "event_type", self.event_type);
        text_field(out, "event_version", self.event_version);
        text_field(out, "timestamp", self.timestamp);
        text_field(out, "source", self.source);
        text_field(out, "aggregate_type", self.aggregate_type);
        text_field(out, "aggregate_id", self.aggregate_id);
        if let Some(version) = self.aggregate_version {
            let _ = write!(out, ",\"aggregate_version\":{version}");
        }
        if let Some(id) = self.correlation_id {
            text_field(out, "correlation_id", id);
        }
        if let Some(id) = self.causation_id {
            text_field(out, "causation_id", id);
        }
        out.push_str(",\"data\":");
        raw(out, self.data);
        out.push_str(",\"metadata\":");
        self.write_metadata(out);
        out.push_str(",\"position\":\"");
        out.push_str(self.position.encode(&mut [0; Position::TEXT_LENGTH]));
        out.push_str("\"}");
    }

    /// Writes the author's metadata with the tenant as its first member.
    ///
    /// The row's column says whose event it is: a member of that name that the author wrote beside
    /// it gives way, so that body, attribute and ordering key agree.
    fn write_metadata(&self, out: &mut String) {
        let members = self.metadata.trim_ascii().strip_prefix('{').map(str::trim_ascii_start);
        let (Some(tenant), Some(members)) = (self.tenant_id, members) else {
            raw(out, self.metadata);
            return;
        };
        out.push_str("{\"tenant_id\":");
        write_text(out, tenant);
        if has_member(self.metadata, TENANT_ID) {
            push_members_without(out, self.metadata, TENANT_ID);
            out.push('}');
            return;
        }
        if !members.starts_with('}') {
            out.push(',');
        }
        raw(out, members);
    }
}

pub(crate) fn text_field(out: &mut String, name: &str, value: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    write_text(out, value);
}

/// Appends a JSON string; the same escapes as serde_json, and the two characters that SQS refuses.
pub fn write_text(out: &mut String, value: &str) {
    out.push('"');
    let mut rest = value;
    while let Some(at) = rest.bytes().position(|b| matches!(b, b'"' | b'\\' | ..=0x1f | 0xef)) {
        // Each of these bytes begins a character.
        let (clean, from) = rest.split_at(at);
        out.push_str(clean);
        let mut chars = from.chars();
        match chars.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(c @ ('\0'..='\x1f' | '\u{fffe}' | '\u{ffff}')) => escape(out, c),
            Some(other) => out.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

/// Writes `\uXXXX`; only for characters of the basic plane.
fn escape(out: &mut String, c: char) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        out.push(char::from(DIGITS[(c as usize >> shift) & 0xf]));
    }
}

/// Raw JSON as it is sent: the two characters that SQS refuses are JSON escapes.
#[must_use]
pub fn as_sent(json: &str) -> Cow<'_, str> {
    if !json.contains('\u{fffe}') && !json.contains('\u{ffff}') {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    raw(&mut out, json);
    Cow::Owned(out)
}

/// Copies raw JSON. Outside strings JSON is ASCII, so the non-characters can
/// only stand inside one, where an escape means the same.
pub(crate) fn raw(out: &mut String, json: &str) {
    // Two searches for one character each go many bytes at a time; one for either does not.
    if !json.contains('\u{fffe}') && !json.contains('\u{ffff}') {
        out.push_str(json);
        return;
    }
    let mut rest = json;
    while let Some(at) = rest.find(['\u{fffe}', '\u{ffff}']) {
        out.push_str(&rest[..at]);
        let after = &rest[at..];
        let mut chars = after.chars();
        if let Some(c) = chars.next() {
            escape(out, c);
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Event;
    use proptest::prelude::*;

    pub(crate) fn envelope<'a>(
        aggregate_id: &'a str,
        data: &'a str,
        metadata: &'a str,
    ) -> Envelope<'a> {
        Envelope {
            event_id: Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0001),
            event_type: "order.created",
            event_version: "1.0",
            timestamp: "2026-01-15T10:30:00.000Z",
            source: "order-service",
            aggregate_type: "order",
            aggregate_id,
            key: "acme/order/ord_123456",
            aggregate_version: Some(5),
            tenant_id: Some("acme"),
            correlation_id: Some("c-1"),
            causation_id: None,
            data,
            metadata,
            position: Position { epoch: 0x68e0_a1b2, commit_lsn: 0x16b_3748, ordinal: 3 },
        }
    }

    fn body(envelope: &Envelope<'_>) -> String {
        let mut out = String::new();
        envelope.write_json(&mut out);
        out
    }

    #[test]
    fn the_default_format() {
        let expected = include_str!("../golden/relay_1.json").trim_end();
        assert_eq!(
            body(&envelope("ord_123456", r#"{"total": 1.50}"#, r#"{"user_id": "u1"}"#)),
            expected
        );
    }

    #[test]
    fn the_tenant_of_the_row_stands_in_the_metadata_once_whatever_its_author_wrote_there() {
        for (own, rest) in [
            ("{}", ""),
            ("{ }", ""),
            (r#"{"tenant_id": "other"}"#, ""),
            (r#"{"tenant\u005fid":"other", "a": 1}"#, r#","a":1"#),
            (r#"{"tenant_id":"acme","tenant_id":7}"#, ""),
            (r#"{"actor":{"tenant_id":"x"}}"#, r#","actor":{"tenant_id":"x"}"#),
            (r#"{"changed":["tenant_id"]}"#, r#","changed":["tenant_id"]"#),
        ] {
            let body = body(&envelope("o", "{}", own));
            let expected = format!(r#""metadata":{{"tenant_id":"acme"{rest}}}"#);
            assert!(body.contains(&expected), "{own} became {body}");
            assert_eq!(Event::from_json(&body).unwrap().tenant_id.as_deref(), Some("acme"));
        }
    }

    #[test]
    fn characters_that_sqs_refuses_are_escaped() {
        let body = body(&envelope("a\u{ffff}\u{1}b", "{\"x\":\"\u{fffe}\u{ffff}é\"}", "{}"));
        assert!(body.contains(r#""aggregate_id":"a\uffff\u0001b""#), "{body}");
        assert!(body.contains("{\"x\":\"\\ufffe\\uffffé\"}"), "{body}");
    }

    proptest! {
        #[test]
        fn whatever_the_texts_the_body_reads_back(id in "\\PC{1,40}|[\\x00-\\x1f\"\\\\]{1,5}", value in any::<String>()) {
            let data = serde_json::to_string(&value).unwrap();
            let event = Event::from_json(&body(&envelope(&id, &data, "{}"))).unwrap();
            prop_assert_eq!(&event.aggregate_id, &id);
            let read: String = serde_json::from_str(event.data.get()).unwrap();
            prop_assert_eq!(read, value);
        }
    }
}
