//! A queue's message as the consumer sees it, whichever host received it.
//!
//! Pure: no clock, no database.

use envelope::{Event, EventError};
use time::{Date, OffsetDateTime};

/// One message of a batch.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The message's id: what a failure is reported by.
    pub message_id: String,
    /// The message group, on FIFO queues.
    pub group: Option<String>,
    /// When the queue received it.
    pub sent_at: Option<OffsetDateTime>,
    /// How often it was delivered, this time included.
    pub receive_count: u32,
    /// The body.
    pub body: String,
}

impl Record {
    /// A record from the attributes that SQS names in both of its interfaces.
    #[must_use]
    pub fn new<'a>(
        message_id: String,
        body: String,
        attribute: impl Fn(&str) -> Option<&'a str>,
    ) -> Self {
        let milliseconds = attribute("SentTimestamp").and_then(|text| text.parse::<i128>().ok());
        Self {
            message_id,
            group: attribute("MessageGroupId").map(str::to_owned),
            sent_at: milliseconds
                .and_then(|ms| OffsetDateTime::from_unix_timestamp_nanos(ms * 1_000_000).ok()),
            receive_count: attribute("ApproximateReceiveCount")
                .and_then(|text| text.parse().ok())
                .unwrap_or(1),
            body,
        }
    }

    /// The event in the body.
    ///
    /// # Errors
    /// When the body is not an event.
    pub fn event(&self) -> Result<Event, EventError> {
        Event::from_json(&self.body)
    }
}

/// The event's own day: of its id where that is a UUIDv7, or else of its timestamp.
///
/// It names the inbox's partition, so it must be the same at each delivery.
#[must_use]
pub fn day(event: &Event) -> Date {
    let of_id = event
        .event_id
        .get_timestamp()
        .filter(|_| event.event_id.get_version_num() == 7);
    let of_id = of_id.and_then(|time| {
        OffsetDateTime::from_unix_timestamp(i64::try_from(time.to_unix().0).ok()?).ok()
    });
    of_id
        .unwrap_or_else(|| event.timestamp.to_offset(time::UtcOffset::UTC))
        .date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_is_the_ids_own() {
        let golden = include_str!("../../../relay/envelope/golden/relay_1.json");
        let event = Event::from_json(golden).unwrap();
        // 0x0193_0000_0000 ms after 1970, not the timestamp's 2026-01-15.
        assert_eq!(day(&event).to_string(), "2024-11-06");
        let other = golden.replace("0000-7000-8000", "0000-4000-8000");
        assert_eq!(
            day(&Event::from_json(&other).unwrap()).to_string(),
            "2026-01-15"
        );
    }

    #[test]
    fn attributes_are_read_and_missing_ones_are_no_error() {
        let record = Record::new("m".to_owned(), String::new(), |name| match name {
            "SentTimestamp" => Some("1700000000123"),
            "MessageGroupId" => Some("g"),
            _ => None,
        });
        assert_eq!(
            record.sent_at.unwrap().unix_timestamp_nanos(),
            1_700_000_000_123_000_000
        );
        assert_eq!(
            (record.group.as_deref(), record.receive_count),
            (Some("g"), 1)
        );
    }
}
