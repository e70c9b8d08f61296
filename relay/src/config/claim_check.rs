//! `[claim_check]`: where bodies go that are too large for a message.

use crate::publish::LARGEST_MESSAGE;
use bytesize::ByteSize;
use serde::Deserialize;

/// `[claim_check]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimCheck {
    /// The bucket; without one an event that is too large is a dead letter.
    pub bucket: Option<String>,
    /// What the keys of objects begin with; the event's id follows.
    pub prefix: String,
    /// The size of a message, in bytes, above which it is put into the bucket; the destination's
    /// limit where it is not set or larger.
    pub above: Option<ByteSize>,
    /// The most bytes of an event that is put into the bucket.
    pub largest: ByteSize,
}

impl Default for ClaimCheck {
    fn default() -> Self {
        Self { bucket: None, prefix: String::new(), above: None, largest: ByteSize::mib(16) }
    }
}

impl ClaimCheck {
    /// The bucket, where there is one.
    #[must_use]
    pub fn bucket(&self) -> Option<&str> {
        self.bucket.as_deref().filter(|bucket| !bucket.is_empty())
    }

    /// The most bytes of an event that can be sent, with claim checks or without.
    pub(super) fn largest(&self, used: bool) -> usize {
        let largest = usize::try_from(self.largest.as_u64()).unwrap_or(usize::MAX);
        if used && self.bucket().is_some() { largest } else { LARGEST_MESSAGE }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:orders.fifo";

    fn config(file: &str) -> Result<Config, String> {
        let variable = ("RELAY_TOPIC_ARN".to_owned(), TOPIC.to_owned());
        Config::from_sources(file, [variable]).map_err(|e| e.to_string())
    }

    #[test]
    fn with_a_bucket_events_may_be_larger_where_the_destination_takes_claim_checks() {
        let largest =
            |file: &str| config(file).unwrap().destinations().unwrap().settings[0].largest;
        assert_eq!(largest(""), 1 << 20);
        let bucket = "[claim_check]\nbucket = 'events'\nlargest = '2MiB'\n";
        assert_eq!(largest(bucket), 2 << 20);
        let off = format!("{bucket}[[destination]]\nto = '{TOPIC}'\nclaim_check = false");
        assert_eq!(largest(&off), 1 << 20);
    }

    #[test]
    fn what_s3_would_refuse_is_refused_here() {
        for (line, said) in [
            ("bucket = 'My_Bucket'", "lower-case"),
            ("prefix = '/a'", "slash"),
            ("largest = '1GiB'", "256.0 MiB"),
            ("largest = '1KiB'", "1.0 MiB"),
            ("largest = '2MiB'", "claim_check.bucket (RELAY_CLAIM_CHECK_BUCKET)"),
        ] {
            let error = config(&format!("[claim_check]\n{line}")).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
