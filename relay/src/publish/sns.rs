//! Batches to an SNS topic. The SDK's types never leave this file.

use super::schedule::BatchLimits;
use super::{DestinationError, Outcome, Outgoing, Publisher, data_type};
use aws_sdk_sns::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sns::operation::publish_batch::PublishBatchError;
use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
use envelope::group_id;
use std::collections::HashMap;

/// A topic's limit where none was set on it (SNS quotas).
const DEFAULT_LIMIT: usize = 262_144;

/// One SNS topic.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    client: aws_sdk_sns::Client,
    arn: String,
    fifo: bool,
    limits: BatchLimits,
}

impl Topic {
    pub(crate) fn new(config: &aws_config::SdkConfig, arn: String) -> Self {
        let fifo = arn.ends_with(".fifo");
        let limits = BatchLimits { entries: 10, bytes: DEFAULT_LIMIT, claim_check: None };
        Self { client: aws_sdk_sns::Client::new(config), arn, fifo, limits }
    }

    /// Asks the topic for its limits: proof that it is there, too.
    ///
    /// SNS returns `MaximumMessageSize` only where it was set.
    pub(crate) async fn learn_limits(&mut self) -> Result<(), DestinationError> {
        let request = self.client.get_topic_attributes().topic_arn(&self.arn);
        let answer = request.send().await.map_err(|error| DestinationError::Asked {
            code: error.code().unwrap_or("unreachable").to_owned(),
            message: message(&error),
        })?;
        let set = answer.attributes().and_then(|a| a.get("MaximumMessageSize")?.parse().ok());
        self.limits.bytes = set.unwrap_or(DEFAULT_LIMIT);
        Ok(())
    }

    fn entry(&self, id: usize, outgoing: &Outgoing) -> PublishBatchRequestEntry {
        let event = &outgoing.event;
        let attribute = |(name, value): &(&'static str, String)| {
            let value =
                MessageAttributeValue::builder().data_type(data_type(name)).string_value(value);
            Some(((*name).to_owned(), value.build().ok()?))
        };
        let attributes: HashMap<_, _> = event.attributes.iter().filter_map(attribute).collect();
        let mut entry = PublishBatchRequestEntry::builder()
            .id(id.to_string())
            .message(&event.body)
            .set_message_attributes(Some(attributes));
        if self.fifo {
            entry = entry
                .message_group_id(group_id(&event.key))
                .message_deduplication_id(event.event_id.to_string());
        }
        // `build` fails without an id or a message, and both stand here.
        entry.build().unwrap_or_else(|_| unreachable!("the id and the message are set"))
    }
}

impl Publisher for Topic {
    async fn publish(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        let entries = batch.iter().enumerate().map(|(id, entry)| self.entry(id, entry)).collect();
        let request = self.client.publish_batch().topic_arn(&self.arn);
        let answer = match request.set_publish_batch_request_entries(Some(entries)).send().await {
            Ok(answer) => answer,
            Err(error) => return refused(batch, &error),
        };
        // Accepted is only what the answer names: an entry it forgets is sent again.
        let mut outcomes = vec![Outcome::unanswered(); batch.len()];
        let at = |id: Option<&str>| id.and_then(|id| id.parse::<usize>().ok());
        for accepted in answer.successful() {
            if let Some(outcome) = at(accepted.id()).and_then(|at| outcomes.get_mut(at)) {
                *outcome = Outcome::Accepted;
            }
        }
        for failed in answer.failed() {
            if let Some(outcome) = at(Some(failed.id())).and_then(|at| outcomes.get_mut(at)) {
                *outcome = Outcome::entry(failed.code(), failed.message(), failed.sender_fault());
            }
        }
        outcomes
    }

    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn name(&self) -> &str {
        &self.arn
    }
}

fn refused(batch: &[&Outgoing], error: &SdkError<PublishBatchError>) -> Vec<Outcome> {
    let server_error = error.raw_response().is_some_and(|r| r.status().is_server_error());
    let code = error.code().unwrap_or(match error {
        SdkError::TimeoutError(_) => "timeout",
        SdkError::DispatchFailure(_) => "unreachable",
        _ => "unknown",
    });
    Outcome::all(batch, code, &message(error), server_error)
}

fn message<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    error.message().map_or_else(|| DisplayErrorContext(error).to_string(), str::to_owned)
}
