//! Claim checks: a message that names an object in S3 in place of a body that is too large.
//!
//! Two forms. That of AWS's extended clients (Java, Python) for SNS and SQS: the body is a JSON
//! array of a class name and the bucket and key, and the attribute [`SIZE_ATTRIBUTE`] has the
//! size of the true body. And for CloudEvents its extension `dataref`: the event without `data`,
//! with the place of it.
//!
//! Format: <https://github.com/awslabs/payload-offloading-java-lib-for-aws>.

use crate::write::write_text;
use serde::Deserialize;

/// The attribute, of data type Number, that a message in the extended clients' form has.
pub const SIZE_ATTRIBUTE: &str = "ExtendedPayloadSize";

/// The class names that extended clients write, the newer first.
const CLASSES: [&str; 2] = [
    "software.amazon.payloadoffloading.PayloadS3Pointer",
    "com.amazon.sqs.javamessaging.MessageS3Pointer",
];

/// Where a CloudEvent's `data` begins. A quote within a JSON string has a backslash before it, so
/// these bytes cannot stand in one; and `data` is the last member that we write.
const DATA: &str = ",\"data\":";

/// Where an object is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct ClaimCheck {
    /// The bucket.
    #[serde(rename = "s3BucketName")]
    pub bucket: String,
    /// The object's key in it.
    #[serde(rename = "s3Key")]
    pub key: String,
}

impl ClaimCheck {
    /// The body of a message in the extended clients' form.
    #[must_use]
    pub fn to_body(&self) -> String {
        let [class, _] = CLASSES;
        let mut body = format!("[\"{class}\",{{\"s3BucketName\":");
        write_text(&mut body, &self.bucket);
        body.push_str(",\"s3Key\":");
        write_text(&mut body, &self.key);
        body.push_str("}]");
        body
    }

    /// Reads a body in the extended clients' form; `None` where it is another.
    #[must_use]
    pub fn from_body(body: &str) -> Option<Self> {
        // No event begins with a bracket, so that most bodies are looked at no further.
        if !body.trim_ascii_start().starts_with('[') {
            return None;
        }
        let (class, check): (String, Self) = serde_json::from_str(body).ok()?;
        CLASSES.contains(&class.as_str()).then_some(check)
    }

    /// A CloudEvent that names the place of its data, from the part before that.
    #[must_use]
    pub fn to_cloudevent(&self, head: &str) -> String {
        let mut body = String::with_capacity(head.len() + 64 + self.bucket.len() + self.key.len());
        body.push_str(head);
        body.push_str(",\"dataref\":");
        write_text(&mut body, &format!("s3://{}/{}", self.bucket, self.key));
        body.push('}');
        body
    }
}

/// A CloudEvent that [`Envelope::write`](crate::Envelope::write) wrote, as what stands before its
/// data and the data alone.
#[must_use]
pub fn split_cloudevent(body: &str) -> Option<(&str, &str)> {
    let (head, rest) = body.split_once(DATA)?;
    Some((head, rest.strip_suffix('}')?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use crate::write::tests::envelope;
    use proptest::prelude::*;

    fn check() -> ClaimCheck {
        ClaimCheck { bucket: "events".to_owned(), key: "a/0193.json".to_owned() }
    }

    #[test]
    fn the_body_is_what_extended_clients_write_and_read() {
        let body = include_str!("../golden/claim_check_1.json").trim_end();
        assert_eq!(check().to_body(), body);
        assert_eq!(ClaimCheck::from_body(body), Some(check()));
        let older = body.replace(CLASSES[0], CLASSES[1]);
        assert_eq!(ClaimCheck::from_body(&older), Some(check()));
        let other = body.replace(CLASSES[0], "java.lang.Runtime");
        for body in ["", "[]", "{}", "[1,2]", &other, include_str!("../golden/relay_1.json")] {
            assert_eq!(ClaimCheck::from_body(body), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn a_cloudevent_splits_before_its_data_whatever_it_says(key in "[,\":{}\\\\dat]{1,20}|\\PC{1,9}", value: String) {
            let value = serde_json::to_string(&value).unwrap();
            let data = format!("{{\"x\":{value},\"data\":{value}}}");
            let metadata = format!("{{\"x\":{value},\"data\":{value}}}");
            let mut body = String::new();
            let mut envelope = envelope(&key, &data, &metadata);
            envelope.correlation_id = Some(&key);
            envelope.write(Format::CloudEvents, &mut body);
            let (head, found) = split_cloudevent(&body).unwrap();
            prop_assert_eq!(found.replace("\\ufffe", "\u{fffe}").replace("\\uffff", "\u{ffff}"), data.replace("\\ufffe", "\u{fffe}").replace("\\uffff", "\u{ffff}"));
            let event: serde_json::Value = serde_json::from_str(&check().to_cloudevent(head)).unwrap();
            prop_assert_eq!(&event["dataref"], "s3://events/a/0193.json");
            prop_assert!(event.get("data").is_none() && event["subject"].is_string());
        }
    }
}
