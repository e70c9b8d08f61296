//! What travels beside the body: attributes for filter policies, and the group.

use crate::{Envelope, Format};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;

/// The most attributes an envelope has.
///
/// Raw delivery carries 10; with an 11th SNS discards the message, so two are
/// left for others to add.
pub const MAX_ATTRIBUTES: usize = 8;

/// One message attribute, of data type `String`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attribute<'a> {
    /// The attribute's name.
    pub name: &'static str,
    /// Its value, never empty: SNS and SQS refuse an empty one.
    pub value: Cow<'a, str>,
}

impl<'a> Envelope<'a> {
    /// The attributes that filter policies can use, at most [`MAX_ATTRIBUTES`].
    ///
    /// They are the same for each format, so that a filter policy outlives a change of it; the
    /// payload alone does not say which aggregate it is of, so there `aggregate_id` is the eighth.
    /// An empty value is left out. Characters that XML 1.0 does not know, which
    /// SNS and SQS refuse in a value, become U+FFFD; the body keeps the true text.
    pub fn attributes(&self, format: Format) -> impl Iterator<Item = Attribute<'a>> {
        let bare = format == Format::Payload;
        [
            ("event_type", Some(Cow::Borrowed(self.event_type))),
            ("event_version", Some(Cow::Borrowed(self.event_version))),
            ("aggregate_type", Some(Cow::Borrowed(self.aggregate_type))),
            ("source", Some(Cow::Borrowed(self.source))),
            ("tenant_id", self.tenant_id.map(Cow::Borrowed)),
            ("correlation_id", self.correlation_id.map(Cow::Borrowed)),
            ("event_id", Some(Cow::Owned(self.event_id.to_string()))),
            ("aggregate_id", Some(self.aggregate_id).filter(|_| bare).map(Cow::Borrowed)),
        ]
        .into_iter()
        .filter_map(|(name, value)| {
            let value = value.filter(|value| !value.is_empty())?;
            Some(Attribute { name, value: xml_text(value) })
        })
    }
}

/// The group of an ordering key on FIFO topics and queues.
///
/// A group id has 1 to 128 characters, letters, digits and ASCII punctuation
/// (SNS `PublishBatchRequestEntry`). A key of that kind is its own group; any
/// other is hashed, with the prefix `sha256:` to tell it apart.
#[must_use]
pub fn group_id(key: &str) -> Cow<'_, str> {
    let plain = (1..=128).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    // A key that looks like a hash is hashed too, or it could share another key's group.
    if plain && !key.starts_with("sha256:") {
        return Cow::Borrowed(key);
    }
    let mut group = String::from("sha256:");
    for byte in Sha256::digest(key.as_bytes()) {
        let _ = write!(group, "{byte:02x}");
    }
    Cow::Owned(group)
}

fn xml_text(value: Cow<'_, str>) -> Cow<'_, str> {
    if value.bytes().all(|b| matches!(b, 0x20..=0x7f)) {
        return value;
    }
    let refused = |c: char| matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    if value.contains(refused) { Cow::Owned(value.replace(refused, "\u{fffd}")) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn every_key_has_a_legal_group_and_no_two_share_one(keys in proptest::collection::vec(any::<String>(), 1..20)) {
            let mut owners: HashMap<String, String> = HashMap::new();
            for key in keys {
                let group = group_id(&key).into_owned();
                prop_assert!((1..=128).contains(&group.len()));
                prop_assert!(group.bytes().all(|b| b.is_ascii_graphic()));
                let owner = owners.entry(group).or_insert_with(|| key.clone()).clone();
                prop_assert_eq!(owner, key);
            }
        }
    }

    #[test]
    fn the_payload_has_what_filters_need_and_its_aggregate_and_stays_at_eight() {
        let mut envelope = crate::write::tests::envelope("ord\u{1}1", "{}", "{}");
        let names = |format| envelope.attributes(format).map(|a| a.name).collect::<Vec<_>>();
        let common = [
            "event_type",
            "event_version",
            "aggregate_type",
            "source",
            "tenant_id",
            "correlation_id",
            "event_id",
        ];
        assert_eq!(names(Format::Relay), common);
        assert_eq!(names(Format::CloudEvents), common);
        assert_eq!(names(Format::Payload), [&common[..], &["aggregate_id"]].concat());
        assert_eq!(names(Format::Payload).len(), MAX_ATTRIBUTES);
        let last = envelope.attributes(Format::Payload).last().unwrap();
        assert_eq!(last.value, "ord\u{fffd}1");
        envelope.tenant_id = Some("");
        assert!(envelope.attributes(Format::Payload).all(|a| a.name != "tenant_id"));
    }

    #[test]
    fn a_long_key_is_hashed_and_a_hash_is_hashed_again() {
        let long = "k".repeat(129);
        let group = group_id(&long).into_owned();
        assert!(group.starts_with("sha256:"));
        assert_ne!(group_id(&group), group);
        assert_eq!(group_id("ord_123456"), "ord_123456");
    }
}
