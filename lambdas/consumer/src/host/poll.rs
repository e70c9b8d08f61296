//! A worker that polls a queue: the same handler in a container.

use crate::record::Record;
use crate::{Consumer, Handler};
use aws_config::BehaviorVersion;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use aws_smithy_http_client::{Builder, tls};
use dsn::Dsn;
use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;

/// How long one request waits for messages; 20 s is the most that SQS takes.
const WAIT_SECONDS: i32 = 20;

/// How long to leave a queue or a database alone after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// A client for SQS with the SDK's default chain of credentials and regions.
pub async fn client() -> Client {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let config = aws_config::defaults(BehaviorVersion::latest())
        .http_client(Builder::new().tls_provider(tls).build_https())
        .load()
        .await;
    Client::new(&config)
}

/// Polls a queue with `workers` at a time until `until` is ready, then finishes
/// the batches in hand. The queue keeps the order of a FIFO queue's groups.
pub async fn run<H>(
    handler: H,
    read_model: &Dsn,
    client: &Client,
    queue_url: &str,
    workers: usize,
    until: impl Future<Output = ()>,
) where
    H: Handler + Clone,
{
    let (stop, stopped) = watch::channel(false);
    let workers = (0..workers.max(1)).map(|_| {
        let consumer = Consumer::new(handler.clone(), read_model);
        worker(consumer, client, queue_url, stopped.clone())
    });
    let mut workers: Vec<_> = workers.map(Box::pin).collect();
    let all = std::future::poll_fn(|context| {
        workers.retain_mut(|worker| worker.as_mut().poll(context).is_pending());
        if workers.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    });
    let stopping = async {
        until.await;
        tracing::info!("stopping: finishing the batches in hand");
        let _ = stop.send(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = all => {}
        () = stopping => {}
    }
}

async fn worker<H: Handler>(
    mut consumer: Consumer<H>,
    client: &Client,
    queue_url: &str,
    mut stopped: watch::Receiver<bool>,
) {
    while !*stopped.borrow() {
        let received = tokio::select! {
            received = receive(client, queue_url) => received,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let messages = match received {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(error, queue_url, "the queue cannot be read; trying again");
                pause(&mut stopped).await;
                continue;
            }
        };
        if messages.is_empty() {
            continue;
        }
        let records = messages.iter().map(record).collect();
        match consumer.process(records).await {
            Ok(failed) => delete(client, queue_url, messages, failed).await,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "the whole batch goes back to the queue");
                pause(&mut stopped).await;
            }
        }
    }
}

async fn pause(stopped: &mut watch::Receiver<bool>) {
    let _ = tokio::time::timeout(PAUSE, stopped.wait_for(|stopped| *stopped)).await;
}

async fn receive(client: &Client, queue_url: &str) -> Result<Vec<Message>, String> {
    let request = client
        .receive_message()
        .queue_url(queue_url)
        .max_number_of_messages(10)
        .wait_time_seconds(WAIT_SECONDS)
        .message_system_attribute_names(MessageSystemAttributeName::All);
    let answer = request
        .send()
        .await
        .map_err(|e| DisplayErrorContext(e).to_string())?;
    Ok(answer.messages.unwrap_or_default())
}

fn record(message: &Message) -> Record {
    let attributes = message.attributes();
    Record::new(
        message.message_id().unwrap_or_default().to_owned(),
        message.body().unwrap_or_default().to_owned(),
        |name| {
            Some(
                attributes?
                    .get(&MessageSystemAttributeName::from(name))?
                    .as_str(),
            )
        },
    )
}

/// Takes what is done off the queue. What is not taken off is delivered again, and is then a no-op.
async fn delete(client: &Client, queue_url: &str, messages: Vec<Message>, failed: Vec<String>) {
    let failed: HashSet<String> = failed.into_iter().collect();
    let done = messages
        .into_iter()
        .filter(|m| !failed.contains(m.message_id().unwrap_or_default()));
    let entries: Vec<_> = done
        .enumerate()
        .filter_map(|(at, message)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(at.to_string());
            entry
                .set_receipt_handle(message.receipt_handle)
                .build()
                .ok()
        })
        .collect();
    if entries.is_empty() {
        return;
    }
    let request = client
        .delete_message_batch()
        .queue_url(queue_url)
        .set_entries(Some(entries));
    if let Err(error) = request.send().await {
        let error = DisplayErrorContext(error).to_string();
        tracing::warn!(
            error,
            "what is done could not be taken off the queue; it comes again and is then a no-op"
        );
    }
}
