//! Why a request of the SDK failed, in one line of words.
//!
//! Knows: how the SDK wraps what happened. Must not know: what follows from it.

use aws_config::SdkConfig;
use aws_sdk_sns::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_types::service_config::ServiceConfigKey;
use std::error::Error;

/// No line of a cause is longer, in characters: what is beyond stands at debug.
const MOST: usize = 300;

/// What failed, at which host, and why: the broker's own words where it said any. All that the
/// SDK knows of it is logged at debug.
pub(super) fn in_words<E>(error: &SdkError<E>, host: &str) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(said) = error.message() {
        return said.to_owned();
    }
    tracing::debug!(host, error = %DisplayErrorContext(error), "a request failed");
    let why = || innermost(error);
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            format!("{host} answered with HTTP status {status} and no reason")
        }
        SdkError::TimeoutError(_) => format!("no answer from {host} in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            format!("no connection to {host} in time")
        }
        SdkError::DispatchFailure(failure) if failure.is_io() => {
            format!("no connection to {host}: {}", why())
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
            format!("nothing could be sent to {host}: {}", why())
        }
        SdkError::ResponseError(_) => {
            format!("an answer from {host} that cannot be read: {}", why())
        }
        _ => format!("a request to {host} failed: {}", why()),
    }
}

/// The last cause: those before it only say where it came by.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect()
}

/// The host at which a service is reached: of `AWS_ENDPOINT_URL_…` or `AWS_ENDPOINT_URL`, else
/// AWS's own of the region.
pub(super) fn host(config: &SdkConfig, service: &str) -> String {
    match endpoint(config, service) {
        Some(url) => {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            let authority = rest.split('/').next().unwrap_or_default();
            authority.rsplit('@').next().unwrap_or_default().to_owned()
        }
        None => match config.region() {
            Some(region) => format!("{service}.{region}.amazonaws.com"),
            None => service.to_owned(),
        },
    }
}

/// The endpoint that variables or a profile set for a service, or for all of them.
pub(super) fn endpoint(config: &SdkConfig, service: &str) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id(service)
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url");
    let own = key.build().ok().and_then(|key| config.service_config()?.load_config(key));
    own.or_else(|| config.endpoint_url().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_sns::operation::publish_batch::PublishBatchError;
    use aws_smithy_runtime_api::client::result::ConnectorError;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(String, #[source] Option<Box<Layer>>);

    fn chain(texts: &[&str]) -> Box<Layer> {
        let mut chain = None;
        for text in texts.iter().rev() {
            chain = Some(Box::new(Layer((*text).to_owned(), chain)));
        }
        chain.unwrap()
    }

    #[test]
    fn a_failure_is_one_line_that_says_host_and_cause() {
        type Failed = SdkError<PublishBatchError>;
        let refused =
            || chain(&["client error (Connect)", "tcp connect error", "Connection refused"]);
        let long = "x\n".repeat(5000);
        for (error, expected) in [
            (
                Failed::dispatch_failure(ConnectorError::io(refused())),
                "no connection to h: Connection refused",
            ),
            (
                Failed::dispatch_failure(ConnectorError::timeout(refused())),
                "no connection to h in time",
            ),
            (
                Failed::construction_failure(chain(&[
                    "a",
                    "no providers in chain provided credentials",
                ])),
                "nothing could be sent to h: no providers in chain provided credentials",
            ),
            (Failed::timeout_error(chain(&["timeout"])), "no answer from h in time"),
        ] {
            assert_eq!(in_words(&error, "h"), expected);
        }
        let said = in_words(&Failed::construction_failure(chain(&[&long])), "h");
        assert!(said.chars().count() < 400 && !said.contains('\n'), "{said}");
    }
}
