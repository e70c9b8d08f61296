//! One message of a queue to one piece of work. PURE.
//!
//! Knows: the names of SQS's attributes, what makes a body an event.
//! Must not know: the database, the hosts, what handlers do.

use envelope::{ClaimCheck, Event, PROBE_EVENT_TYPE, Position};
use serde_json::error::Category;
use std::error::Error as _;
use std::panic::catch_unwind;
use time::{OffsetDateTime, UtcOffset};

/// One message as it came from the queue.
#[derive(Clone, Debug)]
pub struct Record {
    /// The queue's id of the message; `None` where the message has none.
    pub message_id: Option<String>,
    /// The FIFO group; `None` on standard queues.
    pub group: Option<String>,
    /// When the queue received the message.
    pub sent_at: Option<OffsetDateTime>,
    /// How often the message was delivered, this time included.
    pub receive_count: u32,
    /// The trace that the message belongs to, in X-Ray's form (`AWSTraceHeader`).
    pub trace_header: Option<String>,
    /// The body as it came.
    pub body: String,
    /// The body as it was read: an event, or why it is none.
    pub content: Content,
}

/// What a body turned out to be.
#[derive(Clone, Debug)]
pub enum Content {
    /// An event in the relay format, to be given to the handler.
    Event(Box<Event>),
    /// The place of an event that was too large for a message; it is not got yet.
    ClaimCheck(ClaimCheck),
    /// A message that proves the way is open; there is nothing to do.
    Probe,
    /// A body that can never be applied; its message goes back to the queue, to its dead-letter queue.
    Malformed(Malformed),
}

/// Why a body is no event. Shows no part of the body.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// It ends too early or is no JSON.
    #[error("expected JSON, found a body that breaks at line {line} column {column}")]
    NotJson {
        /// Line of the body, from 1.
        line: usize,
        /// Byte in that line, from 1.
        column: usize,
    },
    /// It is JSON of another shape.
    #[error(
        "expected an event in the relay format, found JSON with a field missing or of another type at line {line} column {column}"
    )]
    NotAnEvent {
        /// Line of the body, from 1.
        line: usize,
        /// Byte in that line, from 1.
        column: usize,
    },
    /// Its position was written by another version of the relay.
    #[error(
        "expected a position that this consumer, version {}, can read, found one of another version of the relay; deploy a consumer of that version or a newer one",
        env!("CARGO_PKG_VERSION")
    )]
    Position,
    /// It is SNS's own envelope around a message.
    #[error(
        "expected an event, found an SNS notification around one; set RawMessageDelivery on the subscription"
    )]
    Notification,
    /// It is a claim check, and the consumer has no way to redeem it.
    #[error(
        "expected an event, found a claim check for an object in S3; give the consumer a way to redeem it (with_claim_checks)"
    )]
    ClaimCheck,
    /// The aggregate's version is below 1.
    #[error("expected aggregate_version to be 1 or more, found {found}")]
    Version {
        /// The version in the body.
        found: i64,
    },
    /// A time that no calendar in UTC has.
    #[error(
        "expected timestamp to be a time of the years -9999 to 9999 in UTC, found one beyond them"
    )]
    Timestamp,
    /// Reading the body panicked: a fault of the code, told as that of this message alone.
    #[error("the code panicked over the body; standard error says where")]
    Panicked,
    /// A name that Postgres cannot hold.
    #[error("expected {field} to be text without NUL characters")]
    Nul {
        /// Name of the field in the body, such as `aggregate_id`.
        field: &'static str,
    },
}

impl Record {
    /// Reads a message. `attribute` looks SQS's system attributes up; `fifo` says
    /// whether the queue is one: a message of a standard queue can carry a group id too.
    #[must_use]
    pub fn new<'a>(
        message_id: Option<String>,
        body: Option<String>,
        fifo: bool,
        attribute: impl Fn(&str) -> Option<&'a str>,
    ) -> Self {
        let body = body.unwrap_or_default();
        Self {
            message_id: message_id.filter(|id| !id.is_empty()),
            group: attribute("MessageGroupId").filter(|_| fifo).map(str::to_owned),
            sent_at: attribute("SentTimestamp").and_then(milliseconds),
            receive_count: attribute("ApproximateReceiveCount")
                .and_then(|count| count.parse().ok())
                .unwrap_or(1),
            trace_header: attribute("AWSTraceHeader").map(str::to_owned),
            content: content_of(&body),
            body,
        }
    }

    /// Puts the body that its claim check stands for in its place, or says that there is no way to it.
    ///
    /// A claim check of a claim check is none.
    pub(crate) fn redeem(&mut self, body: Option<String>) {
        let Some(body) = body else {
            self.content = Content::Malformed(Malformed::ClaimCheck);
            return;
        };
        self.content = match content_of(&body) {
            Content::ClaimCheck(_) => Content::Malformed(malformed(&body, None)),
            content => content,
        };
        self.body = body;
    }

    /// The event, where the body is one.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        match &self.content {
            Content::Event(event) => Some(event),
            Content::Probe | Content::ClaimCheck(_) | Content::Malformed(_) => None,
        }
    }
}

fn milliseconds(text: &str) -> Option<OffsetDateTime> {
    let milliseconds: i64 = text.parse().ok()?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000).ok()
}

/// What a body is. A body over which reading panics costs itself alone.
fn content_of(body: &str) -> Content {
    catch_unwind(|| read(body)).unwrap_or(Content::Malformed(Malformed::Panicked))
}

fn read(body: &str) -> Content {
    if let Some(check) = ClaimCheck::from_body(body) {
        return Content::ClaimCheck(check);
    }
    let event = match Event::from_json(body) {
        Ok(event) => event,
        Err(error) => {
            let cause = error.source().and_then(<dyn std::error::Error>::downcast_ref);
            return Content::Malformed(malformed(body, cause));
        }
    };
    if event.event_type == PROBE_EVENT_TYPE {
        return Content::Probe;
    }
    match refusal(&event) {
        Some(reason) => Content::Malformed(reason),
        None => Content::Event(Box::new(event)),
    }
}

/// serde's own words are not passed on: they quote values, and values are payload.
fn malformed(body: &str, cause: Option<&serde_json::Error>) -> Malformed {
    #[derive(serde::Deserialize)]
    struct Notification {
        #[serde(rename = "Type")]
        kind: String,
        #[serde(rename = "TopicArn")]
        _topic_arn: serde::de::IgnoredAny,
    }
    #[derive(serde::Deserialize)]
    struct Positioned {
        position: String,
    }
    let notification = serde_json::from_str::<Notification>(body);
    if notification.is_ok_and(|n| n.kind == "Notification") {
        return Malformed::Notification;
    }
    let positioned = serde_json::from_str::<Positioned>(body);
    if positioned.is_ok_and(|found| found.position.parse::<Position>().is_err()) {
        return Malformed::Position;
    }
    let (line, column) = cause.map_or((0, 0), |error| (error.line(), error.column()));
    match cause.map(serde_json::Error::classify) {
        Some(Category::Syntax | Category::Eof) => Malformed::NotJson { line, column },
        Some(Category::Data | Category::Io) | None => Malformed::NotAnEvent { line, column },
    }
}

/// Why an event that reads well is refused all the same.
pub(crate) fn refusal(event: &Event) -> Option<Malformed> {
    // An offset from UTC can lead beyond the calendar's end.
    if event.timestamp.checked_to_offset(UtcOffset::UTC).is_none() {
        return Some(Malformed::Timestamp);
    }
    if let Some(found) = event.aggregate_version.filter(|version| *version < 1) {
        return Some(Malformed::Version { found });
    }
    [
        ("event_type", &event.event_type),
        ("aggregate_type", &event.aggregate_type),
        ("aggregate_id", &event.aggregate_id),
        ("tenant_id", event.tenant_id.as_ref().unwrap_or(&event.aggregate_id)),
    ]
    .into_iter()
    .find(|(_, text)| text.contains('\0'))
    .map(|(field, _)| Malformed::Nul { field })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &str = include_str!("../../../relay/envelope/golden/relay_1.json");

    fn content(body: &str) -> Content {
        let id = Some("m".to_owned());
        Record::new(id, Some(body.to_owned()), false, |_| None).content
    }

    fn reason(body: &str) -> String {
        match content(body) {
            Content::Malformed(reason) => reason.to_string(),
            other => panic!("{body} was taken for {other:?}"),
        }
    }

    #[test]
    fn a_message_reads_with_its_group_its_time_and_its_count() {
        let attribute = |name: &str| match name {
            "ApproximateReceiveCount" => Some("3"),
            "SentTimestamp" => Some("1768473000123"),
            "MessageGroupId" => Some("ord_123456"),
            _ => None,
        };
        let message = |fifo| Record::new(None, Some(GOLDEN.to_owned()), fifo, attribute);
        let record = message(true);
        assert_eq!(record.group.as_deref(), Some("ord_123456"));
        assert_eq!(record.receive_count, 3);
        let sent_at = record.sent_at.unwrap().unix_timestamp_nanos();
        assert_eq!(sent_at, 1_768_473_000_123_000_000);
        assert_eq!(record.event().unwrap().aggregate_version, Some(5));
        // A standard queue's group is for fairness and orders nothing.
        assert_eq!(message(false).group, None);
    }

    #[test]
    fn a_body_that_is_no_event_says_what_was_expected_and_shows_no_payload() {
        assert!(reason("").contains("expected JSON"));
        assert!(reason("{\"event_id\": ").contains("expected JSON"));
        assert!(reason("{\"event_id\":\"secret\"}").contains("expected an event"));
        assert!(!reason("{\"event_id\":\"secret\"}").contains("secret"));
        let notification = r#"{"Type":"Notification","TopicArn":"t","Message":"{}"}"#;
        assert!(reason(notification).contains("RawMessageDelivery"));
        let zero = GOLDEN.replace("\"aggregate_version\":5", "\"aggregate_version\":0");
        assert!(reason(&zero).contains("found 0"));
        let later = GOLDEN.replace("0000000068e0a1b2-", "v9:");
        assert!(reason(&later).contains(concat!("version ", env!("CARGO_PKG_VERSION"))));
        let nul = GOLDEN.replace("ord_123456", "a\\u0000b");
        assert!(reason(&nul).contains("aggregate_id"));
    }

    #[test]
    fn a_probe_is_no_work() {
        let probe = GOLDEN.replace("order.created", PROBE_EVENT_TYPE);
        assert!(matches!(content(&probe), Content::Probe));
    }

    #[test]
    fn a_claim_check_is_the_event_once_it_is_redeemed() {
        let check = include_str!("../../../relay/envelope/golden/claim_check_1.json");
        let record = || Record::new(Some("m".to_owned()), Some(check.to_owned()), false, |_| None);
        assert!(matches!(record().content, Content::ClaimCheck(_)));
        let redeemed = |body| {
            let mut record = record();
            record.redeem(body);
            record
        };
        let whole = redeemed(Some(GOLDEN.to_owned()));
        assert_eq!(whole.event().unwrap().aggregate_id, "ord_123456");
        assert_eq!(whole.body, GOLDEN);
        for body in [None, Some(check.to_owned()), Some("{}".to_owned())] {
            assert!(matches!(redeemed(body).content, Content::Malformed(_)));
        }
    }

    proptest! {
        #[test]
        fn no_body_and_no_attribute_makes_a_panic(body in any::<String>(), value in any::<String>(), number in "[0-9]{0,30}") {
            for value in [&value, &number] {
                let record = Record::new(None, Some(body.clone()), true, |_| Some(value));
                prop_assert!(record.event().is_none());
            }
        }

        #[test]
        fn a_broken_event_is_malformed_wherever_it_breaks(at in 0..GOLDEN.trim_end().len() - 1) {
            prop_assert!(matches!(content(&GOLDEN[..at]), Content::Malformed(_)));
        }
    }
}
