//! Messages kept from the other receivers while they are worked on.
//!
//! Knows: the queue's visibility timeout, and how it is extended. Must not know: what is done
//! with the messages.

use super::{ANSWER_LIMIT, QUEUE_UNKNOWN, answered};
use crate::deadline::Deadline;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, QueueAttributeName};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What SQS gives a queue that says nothing.
const USUAL: Duration = Duration::from_secs(30);

/// How often the queue's setting is read again.
const BETWEEN_LOOKS: Duration = Duration::from_mins(5);

/// The end of a hold is left for deleting what is done: a tenth of it, and no more than this.
const FOR_THE_DELETION: Duration = Duration::from_secs(2);

/// The queue's visibility timeout, as it was last seen.
#[derive(Debug)]
pub(super) struct Visibility {
    timeout: Duration,
    seen: Option<Instant>,
}

impl Visibility {
    pub(super) fn unknown() -> Self {
        Self { timeout: USUAL, seen: None }
    }

    /// How long a message stays with us, by the queue's own setting.
    ///
    /// Who may not read the setting gets the usual one: each receipt asks for it by name, so what
    /// is believed here is so.
    pub(super) async fn learn(&mut self, client: &Client, queue_url: &str) -> Duration {
        if self.seen.is_none_or(|seen| seen.elapsed() >= BETWEEN_LOOKS) {
            self.seen = Some(Instant::now());
            match ask(client, queue_url).await {
                Ok(timeout) => self.timeout = timeout.unwrap_or(USUAL),
                Err(error) => tracing::warn!(
                    error,
                    queue_url,
                    seconds = self.timeout.as_secs(),
                    "expected to read the queue's VisibilityTimeout (sqs:GetQueueAttributes); messages are taken for so many seconds at a time instead"
                ),
            }
        }
        self.timeout
    }
}

async fn ask(client: &Client, queue_url: &str) -> Result<Option<Duration>, String> {
    let answer = client
        .get_queue_attributes()
        .queue_url(queue_url)
        .attribute_names(QueueAttributeName::VisibilityTimeout)
        .send();
    let answer = answered(ANSWER_LIMIT, answer)
        .await
        .map_err(|error| format!("{QUEUE_UNKNOWN}: {error}"))?;
    let seconds = answer.attributes.as_ref().and_then(|all| {
        all.get(&QueueAttributeName::VisibilityTimeout).and_then(|text| text.parse().ok())
    });
    // With none at all every message would be another receiver's at once.
    Ok(seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

/// The messages of one delivery, held until they are done with.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    client: &'a Client,
    queue_url: &'a str,
    receipts: &'a [Option<String>],
    /// How long each extension lasts.
    timeout: Duration,
    /// No extension is asked for after this.
    last: Instant,
    held: watch::Sender<Instant>,
}

impl<'a> Hold<'a> {
    /// Messages that were received just now, to be held for so many timeouts at most.
    pub(super) fn new(
        client: &'a Client,
        queue_url: &'a str,
        receipts: &'a [Option<String>],
        timeout: Duration,
        timeouts: u32,
    ) -> Self {
        let now = Instant::now();
        let usable = timeout - reserve(timeout);
        Self {
            client,
            queue_url,
            receipts,
            timeout,
            last: now + timeout.saturating_mul(timeouts.saturating_sub(1)) + usable,
            held: watch::Sender::new(now + usable),
        }
    }

    /// When the work on them must end: it moves with each extension.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::moving(self.held.subscribe(), self.last)
    }

    /// Extends the hold at each third of the timeout: two extensions may fail before it ends.
    pub(super) async fn keep(&self) {
        while *self.held.borrow() < self.last {
            tokio::time::sleep(self.timeout / 3).await;
            let now = Instant::now();
            match self.extend().await {
                Ok(()) => {
                    self.held.send_replace(now + self.timeout - reserve(self.timeout));
                }
                Err(error) => tracing::warn!(
                    error,
                    "messages in hand could not be held for longer (sqs:ChangeMessageVisibility); what is not done in time goes back to the queue"
                ),
            }
        }
    }

    async fn extend(&self) -> Result<(), String> {
        let seconds = i32::try_from(self.timeout.as_secs()).unwrap_or(super::LONGEST_DELAY);
        let receipts = self.receipts.iter().flatten().enumerate();
        let entries = receipts.filter_map(|(at, receipt)| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(receipt)
                .visibility_timeout(seconds)
                .build()
                .ok()
        });
        let answer = self
            .client
            .change_message_visibility_batch()
            .queue_url(self.queue_url)
            .set_entries(Some(entries.collect()))
            .send();
        let answer = answered(ANSWER_LIMIT, answer).await?;
        match answer.failed.first() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} of {} messages are not ours any more: {}",
                answer.failed.len(),
                self.receipts.len(),
                first.code
            )),
        }
    }
}

fn reserve(timeout: Duration) -> Duration {
    (timeout / 10).min(FOR_THE_DELETION)
}
