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

/// SQS and SNS mark throttling as the sender's fault, and it passes.
fn is_throttling(code: &str) -> bool {
    let code = code.to_ascii_lowercase();
    code.contains("throttl") || code.contains("overlimit") || code.contains("slowdown")
}

/// The table of AWS error codes; what is not in it is tried again.
///
/// Codes: the service models of SNS and SQS. `server_error` is an HTTP status
/// of 500 or more, which is never the event's fault whatever its code.
#[must_use]
pub fn classify(code: &str, server_error: bool) -> Class {
    if server_error {
        return Class::Retry;
    }
    match code {
        "NotFound"
        | "NotFoundException"
        | "AuthorizationError"
        | "AuthorizationErrorException"
        | "AccessDenied"
        | "AccessDeniedException"
        | "AWS.SimpleQueueService.NonExistentQueue"
        | "QueueDoesNotExist"
        | "InvalidAddress"
        | "InvalidSecurity"
        | "UnsupportedOperation"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "EndpointDisabled"
        | "KMSAccessDenied"
        | "KMSDisabled"
        | "KMSInvalidState"
        | "KMSNotFound"
        | "KMSOptInRequired"
        | "KmsAccessDenied"
        | "KmsDisabled"
        | "KmsInvalidKeyUsage"
        | "KmsInvalidState"
        | "KmsNotFound"
        | "KmsOptInRequired" => Class::Destination,
        "InvalidParameter"
        | "InvalidParameterException"
        | "InvalidParameterValue"
        | "ParameterValueInvalid"
        | "ValidationException"
        | "ValidationError"
        | "InvalidMessageContents"
        | "BatchRequestTooLong"
        | "AWS.SimpleQueueService.BatchRequestTooLong" => Class::Event,
        _ => Class::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_class() {
        for code in [
            "Throttled",
            "ThrottledException",
            "InternalError",
            "KMSThrottling",
            "RequestThrottled",
            "timeout",
            "new",
        ] {
            assert_eq!(classify(code, false), Class::Retry, "{code}");
        }
        for code in ["NotFound", "AuthorizationError", "KMSDisabled", "QueueDoesNotExist"] {
            assert_eq!(classify(code, false), Class::Destination, "{code}");
        }
        for code in ["InvalidParameter", "InvalidMessageContents"] {
            assert_eq!(classify(code, false), Class::Event, "{code}");
            assert_eq!(classify(code, true), Class::Retry, "{code} with a server error");
        }
    }
}
