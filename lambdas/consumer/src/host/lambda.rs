//! AWS Lambda behind an SQS event source mapping with `ReportBatchItemFailures`.
//!
//! Knows: the invocation's JSON, the partial batch response.
//! Must not know: what becomes of a record.

use super::Misconfigured;
use crate::batch::Report;
use crate::consumer::Consumer;
use crate::error::{self, chain};
use crate::handler::Handler;
use crate::login::Login;
use crate::record::Record;
use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use dsn::Dsn;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::Deserialize;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use lambda_runtime::Error;

/// The end of an invocation that is left for the answer; a fifth of a short one.
const FOR_THE_ANSWER: Duration = Duration::from_secs(1);

/// The most bytes of an object: what the relay puts there unless it is told otherwise.
#[cfg(feature = "s3")]
const LARGEST_OBJECT: usize = 16 << 20;

/// How long connecting may take at the start.
const FOR_THE_START: Duration = Duration::from_secs(7);

/// How long spans may take to be sent at most: a receiver that hangs costs each invocation so much.
const FOR_TRACES: Duration = Duration::from_secs(2);

/// What Lambda hands in. Looser than `SqsEvent`: without records it is an empty batch.
#[derive(Debug, Default, Deserialize)]
struct Invocation {
    #[serde(rename = "Records", default)]
    records: Option<Vec<SqsMessage>>,
}

/// `off` writes no metrics.
const METRICS: &str = "RELAY_METRICS";

fn wants_metrics(setting: Option<&str>) -> bool {
    setting != Some("off")
}

/// Runs the handler until Lambda ends the process.
///
/// # Errors
/// When the runtime API is not there.
pub async fn run<H: Handler>(handler: H, read_model: &Dsn) -> Result<(), Error> {
    serve(Consumer::new(handler, read_model)).await
}

/// The same with a consumer that was put together before.
///
/// It writes metrics to standard output, where Lambda's log takes them from, unless
/// `RELAY_METRICS` is `off` or the consumer has another place for them. With the feature `s3` it
/// redeems the claim checks of the bucket `RELAY_CLAIM_CHECK_BUCKET`, up to 16 MiB each, unless the
/// consumer has a way of its own. `READ_MODEL_POOLER=transaction` says that a pooler stands before the
/// read model ([`through_a_pool`](super::through_a_pool)).
///
/// # Errors
/// When the runtime API is not there, or the environment says what it may not.
pub async fn serve<H: Handler>(mut consumer: Consumer<H>) -> Result<(), Error> {
    if !consumer.has_metrics() && wants_metrics(std::env::var(METRICS).ok().as_deref()) {
        consumer = consumer.with_metrics(std::io::stdout());
    }
    #[cfg(feature = "s3")]
    if !consumer.has_claim_checks()
        && let Some(bucket) = super::environment::claim_check_bucket()
    {
        let claim_checks = crate::s3::from_environment(&bucket, LARGEST_OBJECT);
        consumer = consumer.with_claim_checks(claim_checks);
    }
    if super::through_a_pool()? {
        consumer = consumer.through_a_pool();
    }
    // Before the first invocation: Lambda gives the start more processor time, for 10 s.
    let connected = tokio::time::timeout(FOR_THE_START, consumer.connect()).await;
    let connected = connected.unwrap_or(Err(error::Error::NotInTime));
    if let Err(error) = connected {
        tracing::warn!(error = chain(&error), "not connected yet; the first delivery tries again");
    }
    let consumer = Mutex::new(consumer);
    let function = |invocation: LambdaEvent<Invocation>| {
        invoke(&consumer, invocation.payload, invocation.context.deadline())
    };
    lambda_runtime::run(service_fn(function)).await
}

/// The read model with the login that `READ_MODEL_LOGIN` says: `password` (what it is where it is
/// not set), or `aws-iam`, a token that is signed for each connection with the function's own
/// credentials and region. For the latter the crate's feature `iam` is needed.
///
/// # Errors
/// When it is no such login, or a token would go over a connection without TLS.
pub fn login(read_model: Dsn) -> Result<Dsn, Misconfigured> {
    match Login::of_environment()? {
        Login::Password => Ok(read_model),
        #[cfg(feature = "iam")]
        Login::AwsIam => {
            use crate::credentials::{of_environment, variable};
            let region = variable("AWS_REGION");
            Ok(crate::login::with_tokens(read_model, region, Some(of_environment()))?)
        }
    }
}

/// When work must end, for the answer to be given in time.
fn deadline(invocation_ends: SystemTime) -> Instant {
    let left = left(invocation_ends);
    Instant::now() + left - (left / 5).min(FOR_THE_ANSWER)
}

fn left(invocation_ends: SystemTime) -> Duration {
    invocation_ends.duration_since(SystemTime::now()).unwrap_or_default()
}

async fn invoke<H: Handler>(
    consumer: &Mutex<Consumer<H>>,
    invocation: Invocation,
    ends: SystemTime,
) -> Result<SqsBatchResponse, Diagnostic> {
    let messages = invocation.records.unwrap_or_default();
    let records = messages.into_iter().map(record).collect();
    let mut consumer = consumer.lock().await;
    let result = consumer.deliver_until(records, Some(deadline(ends))).await;
    // Before the answer: what is open after it waits, frozen, for the next invocation.
    consumer.flush_traces((left(ends) / 2).min(FOR_TRACES)).await;
    drop(consumer);
    result.and_then(|report| respond(&report)).map_err(|error| {
        tracing::error!(error = chain(&error), "the whole batch goes back to the queue");
        Diagnostic { error_type: error.kind().to_owned(), error_message: chain(&error) }
    })
}

fn record(message: SqsMessage) -> Record {
    let attributes = message.attributes;
    // Only FIFO queues number their messages; that tells them where no ARN is given.
    let fifo = message.event_source_arn.is_some_and(|arn| arn.ends_with(".fifo"))
        || attributes.contains_key("SequenceNumber");
    Record::new(message.message_id, message.body, fifo, |name| {
        attributes.get(name).map(String::as_str)
    })
}

fn respond(report: &Report) -> Result<SqsBatchResponse, error::Error> {
    let failed = report.failed_ids().ok_or(error::Error::NoMessageId)?;
    let mut response = SqsBatchResponse::default();
    response.set_failures(failed);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Outcome;

    fn report(outcomes: &[(Option<&str>, Outcome)]) -> Report {
        Report {
            outcomes: outcomes
                .iter()
                .map(|(id, outcome)| (id.map(str::to_owned), *outcome))
                .collect(),
            ..Report::default()
        }
    }

    #[test]
    fn the_response_names_what_was_not_done_and_nothing_else() {
        let report = report(&[
            (Some("a"), Outcome::Applied),
            (Some("b"), Outcome::Gap),
            (Some("c"), Outcome::Parked),
            (Some("d"), Outcome::Failed),
        ]);
        let response = serde_json::to_value(respond(&report).unwrap()).unwrap();
        let expected = serde_json::json!({
            "batchItemFailures": [{ "itemIdentifier": "b" }, { "itemIdentifier": "d" }]
        });
        assert_eq!(response, expected);
    }

    #[test]
    fn a_failure_without_an_id_is_an_error_and_a_success_without_one_is_not() {
        assert!(respond(&report(&[(None, Outcome::Failed)])).is_err());
        assert!(respond(&report(&[(None, Outcome::Applied)])).is_ok());
    }

    #[test]
    fn a_queue_is_known_to_be_fifo_by_its_name() {
        for (arn, group) in [
            ("arn:aws:sqs:eu-west-1:000000000000:orders.fifo", Some("g")),
            ("arn:aws:sqs:eu-west-1:000000000000:orders", None),
        ] {
            let message = serde_json::json!({
                "messageId": "m-1", "body": "{}", "attributes": { "MessageGroupId": "g" },
                "messageAttributes": null, "eventSourceARN": arn,
            });
            let message = serde_json::from_value(message).unwrap();
            assert_eq!(record(message).group.as_deref(), group);
        }
    }

    #[test]
    fn an_invocation_without_records_is_an_empty_batch() {
        for body in ["{}", r#"{"Records":null}"#, r#"{"Records":[]}"#, r#"{"key":"value"}"#] {
            let invocation: Invocation = serde_json::from_str(body).unwrap();
            assert!(invocation.records.unwrap_or_default().is_empty(), "{body}");
        }
    }
}
