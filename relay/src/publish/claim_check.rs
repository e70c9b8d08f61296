//! What is too large for a message goes to S3, and the message says where it is.
//!
//! The object is put before the message is sent, under a key made of the event's id: a retry puts
//! the same object again. A claim check that cannot be put is an outcome of its entry like any
//! other, so the event waits, its key with it, and is tried again.

use super::outcome::OF_BUCKET;
use super::schedule::BatchLimits;
use super::{Class, Outcome, Outgoing};
use bytes::Bytes;
use envelope::{ClaimCheck, Format, SIZE_ATTRIBUTE, split_cloudevent};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes of memory for one permit to put; more than 32 bits of permits there cannot be.
const PERMIT: usize = 1024;

/// The bytes of the attribute that tells the size: its name, its type and up to nine digits.
const SIZE_ATTRIBUTE_BYTES: usize = SIZE_ATTRIBUTE.len() + "Number".len() + 9;

/// Which entries of a destination go to S3, and what is left of them in a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// Entries of more bytes than this.
    pub above: usize,
    /// The destination's format.
    pub format: Format,
    /// The bytes that tell where the object is.
    pub reference: usize,
}

impl BatchLimits {
    /// Whether an entry goes to S3.
    #[must_use]
    pub fn is_claimed(&self, entry: &Outgoing) -> bool {
        self.claim_check.is_some_and(|claim| entry.bytes() > claim.above)
    }

    /// The bytes of a request that an entry takes.
    #[must_use]
    pub fn in_request(&self, entry: &Outgoing) -> usize {
        let bytes = entry.bytes();
        match self.claim_check {
            Some(claim) if bytes > claim.above => {
                let kept = match claim.format {
                    Format::CloudEvents => split_cloudevent(&entry.event.body),
                    Format::Relay | Format::Payload => None,
                };
                let kept = kept.map_or(0, |(head, _)| head.len());
                entry.attribute_bytes() + kept + claim.reference
            }
            Some(_) | None => bytes,
        }
    }
}

/// Puts what is too large for one destination into a bucket.
#[derive(Clone, Debug)]
pub struct ClaimChecks {
    store: s3::Store,
    bucket: Arc<str>,
    prefix: Arc<str>,
    above: usize,
    format: Format,
    reference: usize,
    /// How much may be held a second time for the puts under way; shared by all destinations.
    room: Arc<Semaphore>,
    most_permits: usize,
}

impl ClaimChecks {
    /// Claim checks in this bucket, for destinations of the default format.
    ///
    /// `above` is the size above which an entry goes there, where the destination's limit is not
    /// lower; `largest` is that of the largest event. Both are in bytes.
    #[must_use]
    pub fn new(
        store: s3::Store,
        bucket: &str,
        prefix: &str,
        above: Option<usize>,
        largest: usize,
    ) -> Self {
        let key = format!("{prefix}{}", uuid::Uuid::nil());
        let check = ClaimCheck { bucket: bucket.to_owned(), key };
        Self {
            store,
            reference: check.to_body().len() + SIZE_ATTRIBUTE_BYTES,
            bucket: bucket.into(),
            prefix: prefix.into(),
            above: above.unwrap_or(usize::MAX),
            format: Format::default(),
            room: Arc::new(Semaphore::new(permits(largest))),
            most_permits: permits(largest),
        }
    }

    /// The same for a destination of this format.
    #[must_use]
    pub fn of_format(&self, format: Format) -> Self {
        Self { format, ..self.clone() }
    }

    /// Which entries go to S3, for a destination that takes messages of so many bytes.
    #[must_use]
    pub fn claim(&self, limit: usize) -> Claim {
        Claim { above: self.above.min(limit), format: self.format, reference: self.reference }
    }

    fn check(&self, name: &str) -> ClaimCheck {
        ClaimCheck { bucket: self.bucket.to_string(), key: format!("{}{name}", self.prefix) }
    }

    /// Puts an object that stands for no event, to prove the permission to.
    ///
    /// # Errors
    /// When it cannot be put.
    pub async fn probe(&self) -> Result<String, s3::Error> {
        let ClaimCheck { bucket, key } = self.check(envelope::PROBE_EVENT_TYPE);
        self.store.put(&bucket, &key, Bytes::from_static(b"{}")).await?;
        Ok(format!("{bucket}/{key}"))
    }

    /// Puts an entry's body; returns the entry that is sent in its place.
    ///
    /// # Errors
    /// The entry's outcome, when the body could not be put.
    pub(super) async fn put(&self, entry: &Outgoing) -> Result<Outgoing, Outcome> {
        let event = &entry.event;
        let check = self.check(&event.event_id.to_string());
        let head_and_data = match self.format {
            Format::CloudEvents => split_cloudevent(&event.body),
            Format::Relay | Format::Payload => None,
        };
        let content = head_and_data.map_or(event.body.as_str(), |(_, data)| data);
        // The largest event has all of the room, and so has one that is a little larger when it is
        // sealed. The semaphore is never closed.
        let wanted = permits(content.len()).min(self.most_permits);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let _room = self.room.acquire_many(wanted).await;
        let object = Bytes::copy_from_slice(content.as_bytes());
        let put = self.store.put(&check.bucket, &check.key, object).await;
        put.map_err(|error| failed(&check.bucket, &error))?;
        let mut sent = Outgoing { event: event.without_body(), ..*entry };
        if let Some((head, _)) = head_and_data {
            sent.event.body = check.to_cloudevent(head);
        } else {
            sent.event.body = check.to_body();
            sent.event.attributes.push((SIZE_ATTRIBUTE, content.len().to_string()));
        }
        Ok(sent)
    }
}

fn permits(bytes: usize) -> usize {
    (bytes / PERMIT + 1).min(Semaphore::MAX_PERMITS)
}

/// Whose fault it is that an object was not put: never the event's.
///
/// Codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
fn failed(bucket: &str, error: &s3::Error) -> Outcome {
    let code = error.code();
    let class = match code {
        _ if error.is_of_server() => Class::Retry,
        "NoSuchBucket"
        | "AccessDenied"
        | "AllAccessDisabled"
        | "AuthorizationHeaderMalformed"
        | "InvalidAccessKeyId"
        | "InvalidBucketName"
        | "InvalidBucketState"
        | "InvalidRequest"
        | "MethodNotAllowed"
        | "PermanentRedirect"
        | "SignatureDoesNotMatch"
        | "301"
        | "403"
        | "404" => Class::Destination,
        code if code.starts_with("KMS.") => Class::Destination,
        _ => Class::Retry,
    };
    Outcome::Failed {
        class,
        code: format!("{OF_BUCKET}{code}"),
        message: format!("its claim check could not be put into the bucket {bucket}: {error}"),
        whole_request: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::{Sealed, is_throttling};
    use uuid::Uuid;

    fn entry(body: String) -> Outgoing {
        Outgoing::probe(Sealed {
            event_id: Uuid::nil(),
            event_type: "order.created".to_owned(),
            key: "k".to_owned(),
            body,
            attributes: vec![("event_type", "order.created".to_owned())],
        })
    }

    fn limits(format: Format) -> BatchLimits {
        let claim = Claim { above: 100, format, reference: 60 };
        BatchLimits { entries: 10, bytes: 1000, largest: 1000, claim_check: Some(claim) }
    }

    #[test]
    fn an_entry_takes_of_a_request_what_is_left_of_it() {
        let attributes = entry(String::new()).bytes();
        let small = entry("x".repeat(100 - attributes));
        let large = entry("x".repeat(101 - attributes));
        let limits = limits(Format::Relay);
        assert!(!limits.is_claimed(&small) && limits.is_claimed(&large));
        assert_eq!(limits.in_request(&small), 100);
        assert_eq!(limits.in_request(&large), attributes + 60);
        assert_eq!(BatchLimits { claim_check: None, ..limits }.in_request(&large), 101);
        let event = entry(format!("{{\"specversion\":\"1.0\",\"data\":\"{}\"}}", "x".repeat(200)));
        let head = "{\"specversion\":\"1.0\"".len();
        assert_eq!(self::limits(Format::CloudEvents).in_request(&event), attributes + head + 60);
    }

    #[test]
    fn no_failure_of_s3_is_the_events_fault() {
        let class = |status, code: &str| {
            let error =
                s3::Error::Refused { status, code: code.to_owned(), message: String::new() };
            let Outcome::Failed { class, whole_request: false, code, .. } = failed("b", &error)
            else {
                panic!("expected a failure of one entry");
            };
            assert!(!is_throttling(&code), "{code} slows the destination down");
            class
        };
        for code in ["SlowDown", "RequestTimeout", "ExpiredToken", "EntityTooLarge", "new"] {
            assert_eq!(class(400, code), Class::Retry, "{code}");
        }
        for code in ["NoSuchBucket", "AccessDenied", "KMS.DisabledException", "403"] {
            assert_eq!(class(403, code), Class::Destination, "{code}");
            assert_eq!(class(503, code), Class::Retry, "{code} with a server error");
        }
    }
}
