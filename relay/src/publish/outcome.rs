//! What became of an entry, and whose fault it was when it was not accepted.

use super::Outgoing;

/// Whose fault a failure is, and so what is done about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// It may go well the next time: throttling, server errors, time-outs.
    Retry,
    /// This event can never be sent: it becomes a dead letter.
    Event,
    /// The destination is missing, closed or misconfigured: never the event's fault.
    Destination,
}

/// What became of one entry of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The broker has it.
    Accepted,
    /// The broker has not, or may not have it.
    Failed {
        /// Whose fault it is.
        class: Class,
        /// The broker's code, or ours for what never reached it.
        code: String,
        /// What the broker said.
        message: String,
        /// Whether the whole request failed, not this entry alone.
        whole_request: bool,
    },
}

impl Outcome {
    /// The failure of one entry of a request that was answered.
    ///
    /// The code decides; a sender's fault that it does not explain is the event's.
    pub(super) fn entry(code: &str, message: Option<&str>, sender_fault: bool) -> Self {
        let class = match classify(code, !sender_fault) {
            Class::Retry if sender_fault && !is_throttling(code) => Class::Event,
            class => class,
        };
        Self::Failed {
            class,
            code: code.to_owned(),
            message: message.unwrap_or("no reason was given").to_owned(),
            whole_request: false,
        }
    }

    /// For an entry that the broker's answer does not name.
    pub(super) fn unanswered() -> Self {
        Self::Failed {
            class: Class::Retry,
            code: "unanswered".to_owned(),
            message: "the answer does not name the entry".to_owned(),
            whole_request: false,
        }
    }

    /// The same failure for each entry of a request that failed as a whole.
    pub(super) fn all(
        batch: &[&Outgoing],
        code: &str,
        message: &str,
        server_error: bool,
    ) -> Vec<Self> {
        let class = classify(code, server_error);
        let failed = Self::Failed {
            class,
            code: code.to_owned(),
            message: message.to_owned(),
            whole_request: true,
        };
        vec![failed; batch.len()]
    }
}

/// What the codes of a claim check's bucket begin with, to tell them from the destination's.
pub(super) const OF_BUCKET: &str = "S3.";

/// Whether a code is that of a claim check's bucket.
#[must_use]
pub fn is_of_bucket(code: &str) -> bool {
    code.starts_with(OF_BUCKET)
}

/// Whether a code says that the destination wants fewer requests. SQS and SNS mark it as the
/// sender's fault, and it passes. That a bucket wants fewer says nothing of the destination.
#[must_use]
pub fn is_throttling(code: &str) -> bool {
    if is_of_bucket(code) {
        return false;
    }
    let code = code.to_ascii_lowercase();
    ["throttl", "overlimit", "slowdown", "requestlimit", "toomanyrequests"]
        .iter()
        .any(|word| code.contains(word))
}

/// The AWS error codes that SNS and SQS may answer with, and whose fault each is.
///
/// From their service models and the errors common to all of AWS. A code that is not here is
/// tried again.
pub const CODES: &[(&str, Class)] = &[
    // It passes.
    ("Throttled", Class::Retry),
    ("ThrottledException", Class::Retry),
    ("Throttling", Class::Retry),
    ("ThrottlingException", Class::Retry),
    ("RequestThrottled", Class::Retry),
    ("RequestThrottledException", Class::Retry),
    ("RequestLimitExceeded", Class::Retry),
    ("TooManyRequestsException", Class::Retry),
    ("SlowDown", Class::Retry),
    ("OverLimit", Class::Retry),
    ("KMSThrottling", Class::Retry),
    ("KMSThrottlingException", Class::Retry),
    ("KmsThrottled", Class::Retry),
    ("InternalError", Class::Retry),
    ("InternalErrorException", Class::Retry),
    ("InternalFailure", Class::Retry),
    ("ServiceUnavailable", Class::Retry),
    ("RequestTimeout", Class::Retry),
    // New credentials or a clock that is set pass too.
    ("ExpiredToken", Class::Retry),
    ("ExpiredTokenException", Class::Retry),
    ("RequestExpired", Class::Retry),
    ("RequestTimeTooSkewed", Class::Retry),
    // The destination is missing, closed to us, or its key is.
    ("NotFound", Class::Destination),
    ("NotFoundException", Class::Destination),
    ("ResourceNotFoundException", Class::Destination),
    ("AuthorizationError", Class::Destination),
    ("AuthorizationErrorException", Class::Destination),
    ("AccessDenied", Class::Destination),
    ("AccessDeniedException", Class::Destination),
    ("AWS.SimpleQueueService.NonExistentQueue", Class::Destination),
    ("AWS.SimpleQueueService.QueueDeletedRecently", Class::Destination),
    ("QueueDoesNotExist", Class::Destination),
    ("InvalidAddress", Class::Destination),
    ("InvalidSecurity", Class::Destination),
    ("UnsupportedOperation", Class::Destination),
    ("AWS.SimpleQueueService.UnsupportedOperation", Class::Destination),
    ("InvalidClientTokenId", Class::Destination),
    ("UnrecognizedClientException", Class::Destination),
    ("IncompleteSignature", Class::Destination),
    ("SignatureDoesNotMatch", Class::Destination),
    ("MissingAuthenticationToken", Class::Destination),
    ("OptInRequired", Class::Destination),
    ("EndpointDisabled", Class::Destination),
    ("PlatformApplicationDisabled", Class::Destination),
    ("KMSAccessDenied", Class::Destination),
    ("KMSAccessDeniedException", Class::Destination),
    ("KMSDisabled", Class::Destination),
    ("KMSDisabledException", Class::Destination),
    ("KMSInvalidState", Class::Destination),
    ("KMSInvalidStateException", Class::Destination),
    ("KMSNotFound", Class::Destination),
    ("KMSNotFoundException", Class::Destination),
    ("KMSOptInRequired", Class::Destination),
    ("KmsAccessDenied", Class::Destination),
    ("KmsDisabled", Class::Destination),
    ("KmsInvalidKeyUsage", Class::Destination),
    ("KmsInvalidState", Class::Destination),
    ("KmsNotFound", Class::Destination),
    ("KmsOptInRequired", Class::Destination),
    // The event can never be sent.
    ("InvalidParameter", Class::Event),
    ("InvalidParameterException", Class::Event),
    ("InvalidParameterValue", Class::Event),
    ("ParameterValueInvalid", Class::Event),
    ("ValidationException", Class::Event),
    ("ValidationError", Class::Event),
    ("InvalidMessageContents", Class::Event),
    ("BatchRequestTooLong", Class::Event),
    ("AWS.SimpleQueueService.BatchRequestTooLong", Class::Event),
];

/// Whose fault a code is, by [`CODES`]; what is not there is tried again.
///
/// `server_error` is an HTTP status of 500 or more, which is never the event's fault whatever
/// its code.
#[must_use]
pub fn classify(code: &str, server_error: bool) -> Class {
    if server_error {
        return Class::Retry;
    }
    let known = CODES.iter().find(|(known, _)| *known == code);
    known.map_or(Class::Retry, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_error_is_never_the_events_fault_and_what_is_unknown_is_tried_again() {
        for (code, _) in CODES {
            assert_eq!(classify(code, true), Class::Retry, "{code} with a server error");
        }
        assert_eq!(classify("new", false), Class::Retry);
    }

    #[test]
    fn each_code_stands_in_the_table_once() {
        for (n, (code, _)) in CODES.iter().enumerate() {
            assert!(CODES[..n].iter().all(|(other, _)| other != code), "{code}");
        }
    }

    #[test]
    fn what_is_throttling_is_tried_again() {
        let throttling = CODES.iter().filter(|(code, _)| is_throttling(code));
        assert!(throttling.clone().count() > 8);
        assert!(throttling.clone().all(|(_, class)| *class == Class::Retry));
    }
}
