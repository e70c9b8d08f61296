//! An envelope to a CloudEvent: version 1.0, structured mode, the JSON event format.
//!
//! Sources: the CloudEvents specification 1.0.2 and its JSON format; its extensions sequence,
//! partitioning, correlation and distributed tracing. Names of attributes are lower-case letters
//! and digits alone, and values are strings, or integers of 32 bits: so the author's metadata,
//! an object, travels as its text.

use crate::metadata::{TENANT_ID, has_member, member_text, push_members_without};
use crate::write::{raw, text_field, write_text};
use crate::{Envelope, Position};
use std::borrow::Cow;
use std::fmt::Write as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

impl Envelope<'_> {
    /// Appends the event as a CloudEvent.
    ///
    /// Characters that CloudEvents forbids in a value become U+FFFD, but in `data` and
    /// `metadata`, which keep them, the latter as JSON escapes. A time that is not RFC 3339 is
    /// left out.
    pub(crate) fn write_cloudevent(&self, out: &mut String) {
        out.reserve(self.data.len() + self.metadata.len() + 640);
        out.push_str("{\"specversion\":\"1.0\",\"id\":\"");
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        out.push_str(self.event_id.hyphenated().encode_lower(&mut id));
        out.push('"');
        text_field(out, "source", &uri_reference(self.source));
        attribute(out, "type", Some(self.event_type));
        attribute(out, "subject", Some(self.aggregate_id));
        let is_time = OffsetDateTime::parse(self.timestamp, &Rfc3339).is_ok();
        attribute(out, "time", Some(self.timestamp).filter(|_| is_time));
        out.push_str(",\"datacontenttype\":\"application/json\",\"sequence\":\"");
        out.push_str(self.position.encode(&mut [0; Position::TEXT_LENGTH]));
        out.push('"');
        attribute(out, "partitionkey", Some(self.key));
        attribute(out, "eventversion", Some(self.event_version));
        attribute(out, "aggregatetype", Some(self.aggregate_type));
        if let Some(version) = self.aggregate_version {
            // CloudEvents knows no larger integer; beyond it the version is a string.
            let quote = if i32::try_from(version).is_ok() { "" } else { "\"" };
            let _ = write!(out, ",\"aggregateversion\":{quote}{version}{quote}");
        }
        attribute(out, "tenantid", self.tenant_id);
        attribute(out, "correlationid", self.correlation_id);
        attribute(out, "causationid", self.causation_id);
        for name in ["traceparent", "tracestate"] {
            attribute(out, name, member_text(self.metadata, name).as_deref());
        }
        let metadata = self.metadata_beside_the_tenant();
        if metadata.trim_ascii() != "{}" {
            text_field(out, "metadata", &json_text(&metadata));
        }
        out.push_str(",\"data\":");
        raw(out, self.data);
        out.push('}');
    }
}

impl<'a> Envelope<'a> {
    /// The author's metadata; without a tenant in it where `tenantid` says whose event it is.
    fn metadata_beside_the_tenant(&self) -> Cow<'a, str> {
        if self.tenant_id.is_none() || !has_member(self.metadata, TENANT_ID) {
            return Cow::Borrowed(self.metadata);
        }
        let mut rest = String::with_capacity(self.metadata.len());
        push_members_without(&mut rest, self.metadata, TENANT_ID);
        Cow::Owned(format!("{{{}}}", rest.trim_start_matches(',')))
    }
}

/// Writes an attribute that has a value; an empty one counts as none.
fn attribute(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        if value.contains(is_forbidden) {
            write_text(out, &value.replace(is_forbidden, "\u{fffd}"));
        } else {
            write_text(out, value);
        }
    }
}

/// Control characters and noncharacters of Unicode (CloudEvents 1.0.2, type system, String).
fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{fdd0}'..='\u{fdef}')
        || matches!(u32::from(c) & 0xffff, 0xfffe..=0xffff)
}

/// A JSON text without forbidden characters, that means the same.
///
/// Outside strings JSON has no control characters but white space, and inside them neither
/// control characters below U+0020; the others can stand as escapes.
fn json_text(json: &str) -> Cow<'_, str> {
    if !json.contains(is_forbidden) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '\t' | '\n' | '\r' => out.push(' '),
            c if is_forbidden(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A source as a URI reference (RFC 3986): as it is where it is one, else percent-encoded.
fn uri_reference(source: &str) -> Cow<'_, str> {
    if is_uri_reference(source) {
        return Cow::Borrowed(source);
    }
    if source.is_empty() {
        return Cow::Borrowed("/");
    }
    let mut out = String::with_capacity(source.len() * 3);
    for byte in source.bytes() {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

/// Whether a text is sure to be a URI reference that is not empty; a few that are one too,
/// such as those with an IP literal, are not known here.
fn is_uri_reference(text: &str) -> bool {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = match rest.split_once(':') {
        // A colon behind the first slash is part of the path.
        Some((before, after)) if !before.contains('/') => (Some(before), after),
        _ => (None, rest),
    };
    let legal_scheme = scheme.is_none_or(|scheme| {
        let mut bytes = scheme.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    });
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            if host.contains('@') || !port.bytes().all(|b| b.is_ascii_digit()) {
                return false;
            }
            if !is_made_of(host, b"") {
                return false;
            }
            path
        }
    };
    !text.is_empty()
        && legal_scheme
        && is_made_of(path, b":@/")
        && is_made_of(query, b":@/?")
        && is_made_of(fragment, b":@/?")
}

/// Whether a text has unreserved characters, sub-delimiters, encoded bytes and these alone.
fn is_made_of(text: &str, more: &[u8]) -> bool {
    let legal = |b: u8| is_unreserved(b) || b"!$&'()*+,;=".contains(&b) || more.contains(&b);
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default();
    first.bytes().all(legal)
        && parts.all(|part| {
            let (encoded, rest) = part.split_at_checked(2).unwrap_or(("", part));
            encoded.len() == 2
                && encoded.bytes().all(|b| b.is_ascii_hexdigit())
                && rest.bytes().all(legal)
        })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use crate::write::tests::envelope;
    use jsonschema::Validator;
    use proptest::prelude::*;
    use serde_json::Value;

    const TRACED: &str = "{\"user_id\": \"u1\",\n \"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}";

    fn schema() -> Validator {
        let schema = serde_json::from_str(include_str!("../schema/cloudevents.json")).unwrap();
        jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
    }

    fn written(envelope: &Envelope<'_>) -> String {
        let mut out = String::new();
        envelope.write(Format::CloudEvents, &mut out);
        out
    }

    /// What the schema does not say and the specification does.
    fn check_attributes(event: &Value) {
        for (name, value) in event.as_object().unwrap() {
            if name == "data" {
                continue;
            }
            assert!(name.bytes().all(|b| b.is_ascii_lowercase()), "{name}");
            let legal = match value {
                Value::String(text) => !text.is_empty() && !text.contains(is_forbidden),
                Value::Number(number) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                _ => false,
            };
            assert!(legal, "{name} is {value}");
        }
    }

    #[test]
    fn the_event_is_what_the_golden_file_says_and_what_the_official_schema_asks_for() {
        let envelope = envelope("ord_123456", r#"{"total": 1.50}"#, TRACED);
        let body = written(&envelope);
        assert_eq!(body, include_str!("../golden/cloudevents_1.json").trim_end());
        let event: Value = serde_json::from_str(&body).unwrap();
        schema().validate(&event).unwrap();
        check_attributes(&event);
        let mut wrong = event;
        wrong["source"] = "a b".into();
        assert!(!schema().is_valid(&wrong), "the schema can say no");
    }

    #[test]
    fn a_version_that_cloudevents_has_no_integer_for_is_a_string() {
        let mut envelope = envelope("o", "null", "{}");
        envelope.aggregate_version = Some(i64::from(i32::MAX) + 1);
        let body = written(&envelope);
        assert!(body.contains(r#""aggregateversion":"2147483648""#), "{body}");
        assert!(body.ends_with(",\"data\":null}") && !body.contains("metadata"), "{body}");
    }

    #[test]
    fn the_tenant_and_the_trace_are_read_at_the_top_level_alone() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let metadata = format!(
            r#"{{"tenant_id":"other","trace\u0070arent":"{trace}","tracestate":7,"in":{{"traceparent":"x"}}}}"#
        );
        let event: Value = serde_json::from_str(&written(&envelope("o", "1", &metadata))).unwrap();
        assert_eq!((&event["tenantid"], &event["traceparent"]), (&"acme".into(), &trace.into()));
        assert_eq!(event.get("tracestate"), None);
        let metadata: Value = serde_json::from_str(event["metadata"].as_str().unwrap()).unwrap();
        assert_eq!((metadata.get("tenant_id"), &metadata["tracestate"]), (None, &7.into()));
        // Nothing else is in it: then there is no metadata.
        let body = written(&envelope("o", "1", r#"{"tenant_id":"acme"}"#));
        assert!(!body.contains("metadata"), "{body}");
    }

    #[test]
    fn a_source_that_is_a_uri_reference_stays_as_it_is() {
        for source in [
            "order-service",
            "/shop/orders",
            "urn:shop:orders",
            "https://a.example:8/b?c=d#e",
            "//h/a:b",
            "a%20b",
        ] {
            assert_eq!(uri_reference(source), source);
        }
        assert_eq!(uri_reference("order service"), "order%20service");
        assert_eq!(uri_reference("100%"), "100%25");
        assert_eq!(uri_reference("1:orders"), "1%3Aorders");
        assert_eq!(uri_reference(""), "/");
    }

    proptest! {
        #[test]
        fn whatever_the_texts_it_is_a_cloudevent_that_keeps_data_and_metadata(
            source in "\\PC{0,12}|[a-z:/?#@\\[\\]% 0-9]{0,12}",
            key in "\\PC{1,12}|[\\x00-\\x1f\"\\\\\u{80}\u{ffff}]{1,5}",
            time in "2026-01-15T10:30:00Z|infinity|[0-9:TZ-]{0,20}",
            value: String,
            version: Option<i64>,
        ) {
            let data = serde_json::to_string(&value).unwrap();
            let metadata = format!("{{\"a\":\r\n{data}}}");
            let mut envelope = envelope(&key, &data, &metadata);
            envelope.source = &source;
            envelope.timestamp = &time;
            envelope.aggregate_version = version;
            envelope.correlation_id = Some("");
            let body = written(&envelope);
            let event: Value = serde_json::from_str(&body).unwrap();
            if let Err(error) = schema().validate(&event) {
                return Err(TestCaseError::fail(format!("{error}: {body}")));
            }
            check_attributes(&event);
            prop_assert_eq!(&event["data"], &Value::from(value.as_str()));
            let metadata: Value = serde_json::from_str(event["metadata"].as_str().unwrap()).unwrap();
            prop_assert_eq!(&metadata["a"], &Value::from(value));
        }
    }
}
