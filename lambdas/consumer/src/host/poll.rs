//! A worker in a container: long polling, deletion of what is done.
//!
//! Knows: SQS's API through its SDK. Must not know: what becomes of a record.
//! Each worker has one delivery in hand at a time, and the queue gives a FIFO
//! group to one receiver at a time, so the order of a group is kept. A delivery
//! that takes longer than the queue's visibility timeout is held for longer,
//! within limits; one that cannot be held goes back before another gets it.

mod hold;

use crate::batch::Report;
use crate::consumer::Consumer;
use crate::error::chain;
use crate::handler::Handler;
use crate::host::environment::{Misconfigured, queue};
use crate::login::Login;
use crate::record::Record;
use crate::seldom::Seldom;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use dsn::Dsn;
use hold::{Hold, Visibility};
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The longest that SQS holds a request open, in seconds.
const WAIT: i32 = 20;

/// The longest that SQS keeps a message invisible, in seconds: 12 hours.
const LONGEST_DELAY: i32 = 43_200;

/// How long SQS may take to answer, beyond the wait for messages. The SDK tries again within it.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long one try of the SDK may take, the wait for messages included.
const TRY_LIMIT: Duration = Duration::from_secs(25);

/// The longest pause after an error.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long spans may take to be sent, after the messages were seen to.
const FOR_TRACES: Duration = Duration::from_secs(5);

/// What stands before each error of reading the queue.
const QUEUE_UNKNOWN: &str = "the queue cannot be read";

/// How a queue is worked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Polling {
    workers: usize,
    timeouts: u32,
}

impl Polling {
    /// With so many deliveries at a time, each of which may take ten visibility timeouts.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { workers: workers.max(1), timeouts: 10 }
    }

    /// A delivery may take so many of the queue's visibility timeouts: meanwhile its messages are
    /// kept from other receivers. 1 never asks for more than the first. What is not done by then
    /// goes back to the queue, not half done; SQS itself ends it after 12 hours.
    #[must_use]
    pub fn hold_for(mut self, timeouts: u32) -> Self {
        self.timeouts = timeouts.max(1);
        self
    }
}

impl From<usize> for Polling {
    fn from(workers: usize) -> Self {
        Self::new(workers)
    }
}

/// A client of SQS; region, credentials and endpoint come from the environment,
/// as in every AWS tool.
pub async fn client() -> Client {
    Client::new(&config().await)
}

async fn config() -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let limits = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(TRY_LIMIT)
        .build();
    let config = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    config.timeout_config(limits).load().await
}

/// The read model with the login that `READ_MODEL_LOGIN` says: `password` (what it is where it is
/// not set), or `aws-iam`, a token that is signed for each connection with the credentials and the
/// region of the SDK's default chain.
///
/// # Errors
/// When it is no such login, there is no region or no source of credentials, or a token would go
/// over a connection without TLS.
pub async fn login(read_model: Dsn) -> Result<Dsn, Misconfigured> {
    match Login::of_environment()? {
        Login::Password => Ok(read_model),
        Login::AwsIam => {
            let config = config().await;
            let region = config.region().map(ToString::to_string);
            Ok(crate::login::with_tokens(read_model, region, config.credentials_provider())?)
        }
    }
}

/// Works the queue that the environment names until the process is told to end (SIGTERM, or
/// Ctrl-C): the main of a worker. `QUEUE_URL` is the queue's, `WORKERS` how many deliveries are
/// worked at a time, 4 where it is not set. `READ_MODEL_POOLER=transaction` says that a pooler stands
/// before the read model. Each worker has a consumer of its own.
///
/// # Errors
/// When the environment does not say what it must.
pub async fn work<H: Handler>(consumer: impl Fn() -> Consumer<H>) -> Result<(), Misconfigured> {
    let (queue, pooled) = (queue()?, super::through_a_pool()?);
    let consumer = || match pooled {
        true => consumer().through_a_pool(),
        false => consumer(),
    };
    // Before anything is received: a signal that comes meanwhile must count.
    let mut terminate = signal(SignalKind::terminate()).map_err(Misconfigured::Signal)?;
    let told_to_end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    serve(consumer, &client().await, &queue.url, queue.workers, told_to_end).await;
    Ok(())
}

/// Works the queue, with so many workers (`4`, or a [`Polling`]), until `until` completes;
/// the deliveries in hand are finished then. Errors are logged and tried again.
pub async fn run<H: Handler + Clone>(
    handler: H,
    read_model: &Dsn,
    client: &Client,
    queue_url: &str,
    polling: impl Into<Polling>,
    until: impl Future<Output = ()>,
) {
    let consumer = || Consumer::new(handler.clone(), read_model);
    serve(consumer, client, queue_url, polling, until).await;
}

/// The same with consumers that are put together by the caller, one for each worker.
pub async fn serve<H: Handler>(
    consumer: impl Fn() -> Consumer<H>,
    client: &Client,
    queue_url: &str,
    polling: impl Into<Polling>,
    until: impl Future<Output = ()>,
) {
    let Polling { workers, timeouts } = polling.into();
    let (stop, stopped) = watch::channel(false);
    let worker = |_| Worker {
        client,
        queue_url,
        consumer: consumer(),
        stopped: stopped.clone(),
        visibility: Visibility::unknown(),
        timeouts,
        told: Seldom::default(),
    };
    let mut workers: Vec<_> =
        (0..workers).map(worker).map(|worker| Box::pin(worker.work())).collect();
    let mut until = pin!(until);
    let mut stopping = false;
    poll_fn(|context| {
        if !stopping && until.as_mut().poll(context).is_ready() {
            stopping = true;
            tracing::info!("stopping: the deliveries in hand are finished");
            stop.send_replace(true);
        }
        workers.retain_mut(|worker| worker.as_mut().poll(context).is_pending());
        if workers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

struct Worker<'a, H> {
    client: &'a Client,
    queue_url: &'a str,
    consumer: Consumer<H>,
    stopped: watch::Receiver<bool>,
    visibility: Visibility,
    timeouts: u32,
    /// What was logged of a read model that is waited for.
    told: Seldom,
}

impl<H: Handler> Worker<'_, H> {
    async fn work(mut self) {
        let mut failures: u32 = 0;
        while !*self.stopped.borrow() {
            let mut stopped = self.stopped.clone();
            // Without a read model nothing is received: each receipt would bring the messages
            // closer to the dead-letter queue.
            let connected =
                async { if failures > 0 { self.consumer.connect().await } else { Ok(()) } };
            let connected = tokio::select! {
                connected = connected => connected,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            if let Err(error) = connected {
                failures = failures.saturating_add(1);
                if self.told.may_tell(error.kind()) {
                    tracing::error!(
                        error = chain(&error),
                        failures,
                        "the read model is waited for; nothing is received"
                    );
                }
                let wait = stopped.wait_for(|stopped| *stopped);
                let _ = tokio::time::timeout(pause(failures), wait).await;
                continue;
            }
            let timeout = self.visibility.learn(self.client, self.queue_url).await;
            // Only the wait for messages is cut short. A request that is dropped just as it
            // is answered leaves its messages unseen until their visibility runs out.
            let received = tokio::select! {
                received = self.receive(timeout) => received,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            let worked = match received {
                Ok(messages) => self.deliver(messages, timeout).await,
                Err(error) => Err(error),
            };
            let Err(error) = worked else {
                failures = 0;
                continue;
            };
            failures = failures.saturating_add(1);
            tracing::error!(
                error,
                failures,
                queue_url = self.queue_url,
                "to be tried again after a pause"
            );
            let _ =
                tokio::time::timeout(pause(failures), stopped.wait_for(|stopped| *stopped)).await;
        }
    }

    async fn receive(&self, timeout: Duration) -> Result<Vec<Message>, String> {
        let timeout = i32::try_from(timeout.as_secs()).unwrap_or(LONGEST_DELAY);
        let received = self
            .client
            .receive_message()
            .queue_url(self.queue_url)
            .max_number_of_messages(10)
            .wait_time_seconds(WAIT)
            .visibility_timeout(timeout)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .send();
        let limit = Duration::from_secs(WAIT.unsigned_abs().into()) + ANSWER_LIMIT;
        let received =
            answered(limit, received).await.map_err(|error| format!("{QUEUE_UNKNOWN}: {error}"))?;
        Ok(received.messages.unwrap_or_default())
    }

    async fn deliver(&mut self, messages: Vec<Message>, timeout: Duration) -> Result<(), String> {
        if messages.is_empty() {
            return Ok(());
        }
        let fifo = self.queue_url.ends_with(".fifo");
        let mut receipts = Vec::with_capacity(messages.len());
        let mut records = Vec::with_capacity(messages.len());
        for message in messages {
            let attributes = message.attributes.unwrap_or_default();
            receipts.push(message.receipt_handle);
            records.push(Record::new(message.message_id, message.body, fifo, |name| {
                let name = MessageSystemAttributeName::from(name);
                attributes.get(&name).map(String::as_str)
            }));
        }
        let hold = Hold::new(self.client, self.queue_url, &receipts, timeout, self.timeouts);
        let deadline = hold.deadline();
        let report = tokio::select! {
            biased;
            report = self.consumer.deliver_within(records, &deadline) => report,
            // The hold ends before the delivery does; its deadline sees to the rest.
            never = async { hold.keep().await; pending().await } => never,
        };
        if let Ok(report) = &report {
            self.delay(report, &receipts).await;
            self.delete(report, receipts).await;
        }
        self.consumer.flush_traces(FOR_TRACES).await;
        report.map(drop).map_err(|error| chain(&error))
    }

    /// Has the queue keep back what the handler wants later.
    async fn delay(&self, report: &Report, receipts: &[Option<String>]) {
        for (at, delay) in &report.delays {
            let Some(Some(receipt)) = receipts.get(*at) else { continue };
            let seconds = i32::try_from(delay.as_secs()).unwrap_or(LONGEST_DELAY);
            let changed = self
                .client
                .change_message_visibility()
                .queue_url(self.queue_url)
                .receipt_handle(receipt)
                .visibility_timeout(seconds.min(LONGEST_DELAY))
                .send();
            if let Err(error) = answered(ANSWER_LIMIT, changed).await {
                tracing::warn!(
                    error,
                    "a message comes again when its visibility runs out, not when the handler asked for it"
                );
            }
        }
    }

    /// Deletes what is done. What is not deleted comes again, and is a duplicate then.
    async fn delete(&self, report: &Report, receipts: Vec<Option<String>>) {
        let done = report.outcomes.iter().zip(receipts).enumerate();
        let entries: Vec<_> = done
            .filter(|(_, ((_, outcome), _))| outcome.is_done())
            .filter_map(|(at, (_, receipt))| {
                DeleteMessageBatchRequestEntry::builder()
                    .id(at.to_string())
                    .receipt_handle(receipt?)
                    .build()
                    .ok()
            })
            .collect();
        if entries.is_empty() {
            return;
        }
        let count = entries.len();
        let deleted = self
            .client
            .delete_message_batch()
            .queue_url(self.queue_url)
            .set_entries(Some(entries))
            .send();
        let deleted = answered(ANSWER_LIMIT, deleted).await;
        let left = deleted.as_ref().map_or(count, |answer| answer.failed.len());
        if left > 0 {
            let error = deleted.err();
            tracing::warn!(
                left,
                error,
                "messages that are done were not deleted; they come again as duplicates"
            );
        }
    }
}

/// What SQS says to a request, within a limit.
async fn answered<T, E: std::error::Error>(
    limit: Duration,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(DisplayErrorContext(error).to_string()),
        Err(_) => {
            Err(format!("expected an answer of SQS within {} s, found none", limit.as_secs()))
        }
    }
}

/// Doubles with each failure, at random below that.
fn pause(failures: u32) -> Duration {
    let longest =
        Duration::from_millis(100).saturating_mul(1 << failures.min(12)).min(LONGEST_PAUSE);
    longest.mul_f64(fastrand::f64())
}
