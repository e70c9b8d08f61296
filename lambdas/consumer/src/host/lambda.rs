//! A Lambda function behind an SQS event source with `ReportBatchItemFailures`.

use crate::record::Record;
use crate::{Consumer, Handler};
use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use dsn::Dsn;
use lambda_runtime::{LambdaEvent, service_fn};
use tokio::sync::Mutex;

pub use lambda_runtime::Error;

/// Serves invocations until the platform ends the process.
///
/// # Errors
/// When the runtime's API cannot be reached.
pub async fn run<H: Handler>(handler: H, read_model: &Dsn) -> Result<(), Error> {
    // One invocation at a time is all that Lambda gives an instance.
    let consumer = Mutex::new(Consumer::new(handler, read_model));
    let consumer = &consumer;
    lambda_runtime::run(service_fn(
        move |invocation: LambdaEvent<SqsEvent>| async move {
            respond(&mut *consumer.lock().await, invocation.payload).await
        },
    ))
    .await
}

/// One invocation: the batch that came to the ids that go back.
///
/// # Errors
/// When the whole batch must be delivered again.
pub async fn respond<H: Handler>(
    consumer: &mut Consumer<H>,
    event: SqsEvent,
) -> Result<SqsBatchResponse, Error> {
    let records = event.records.into_iter().map(record).collect();
    let failed = consumer.process(records).await.inspect_err(|error| {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::error!(%error, cause, "the whole batch goes back to the queue");
    })?;
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = failed
        .into_iter()
        .map(|id| {
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = id;
            failure
        })
        .collect();
    Ok(response)
}

fn record(message: SqsMessage) -> Record {
    let attributes = message.attributes;
    Record::new(
        message.message_id.unwrap_or_default(),
        message.body.unwrap_or_default(),
        |name| attributes.get(name).map(String::as_str),
    )
}
