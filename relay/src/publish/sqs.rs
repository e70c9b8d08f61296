//! Batches to an SQS queue. The SDK's types never leave this file.

use super::answer::{self, Refused};
use super::body::{self, OwnBody};
use super::limit::Limit;
use super::schedule::BatchLimits;
use super::{DestinationError, Outcome, Outgoing, Publisher, Sealed, data_type};
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchResultEntry};
use envelope::group_id;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

/// One SQS queue. Clones share what was learned.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    client: aws_sdk_sqs::Client,
    /// As it was given.
    address: String,
    /// Where it is reached, for errors.
    host: String,
    fifo: bool,
    learned: Arc<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    /// Empty until a queue that was given by its ARN has told it.
    url: OnceLock<String>,
    limit: Limit,
}

impl Queue {
    pub(crate) fn by_url(config: &aws_config::SdkConfig, url: String) -> Self {
        let queue = Self::by_arn(config, url.clone());
        // New, so it is empty.
        let _ = queue.learned.url.set(url);
        queue
    }

    pub(crate) fn by_arn(config: &aws_config::SdkConfig, arn: String) -> Self {
        let fifo = arn.ends_with(".fifo");
        let host = super::cause::host(config, "sqs");
        let config = aws_sdk_sqs::config::Builder::from(config)
            .interceptor(OwnBody { content_type: "application/x-amz-json-1.0" });
        let client = aws_sdk_sqs::Client::from_conf(config.build());
        Self { client, address: arn, host, fifo, learned: Arc::default() }
    }

    async fn ask_for_url(&self) -> Result<&str, DestinationError> {
        if let Some(url) = self.learned.url.get() {
            return Ok(url);
        }
        // arn:partition:sqs:region:account:name
        let mut parts = self.address.rsplit(':');
        let (name, account) = (parts.next(), parts.next());
        let request = self
            .client
            .get_queue_url()
            .set_queue_name(name.map(str::to_owned))
            .set_queue_owner_aws_account_id(account.map(str::to_owned));
        let answer = request.send().await.map_err(|e| answer::asked(&e, &self.host))?;
        let url = answer.queue_url().ok_or_else(|| DestinationError::Asked {
            code: "unanswered".to_owned(),
            message: "the answer does not name the queue's URL".to_owned(),
        })?;
        Ok(self.learned.url.get_or_init(|| url.to_owned()))
    }

    /// The parameters of `SendMessageBatch` (SQS API reference, AWS JSON protocol 1.0); an
    /// entry's id is its place in the batch.
    fn body(&self, url: &str, batch: &[&Outgoing]) -> Vec<u8> {
        // A text grows by the backslashes before its quotes.
        let room = batch.iter().map(|outgoing| outgoing.bytes() * 5 / 4 + 768).sum();
        let mut body = Vec::with_capacity(room);
        body.extend_from_slice(b"{\"QueueUrl\":");
        string(url, &mut body);
        body.extend_from_slice(b",\"Entries\":[");
        for (id, outgoing) in batch.iter().enumerate() {
            let comma = if id == 0 { "" } else { "," };
            // Writing to a vector cannot fail.
            let _ = write!(body, "{comma}{{\"Id\":\"{id}\",\"MessageBody\":");
            self.write_entry(&outgoing.event, &mut body);
        }
        body.extend_from_slice(b"]}");
        body
    }

    fn write_entry(&self, event: &Sealed, body: &mut Vec<u8>) {
        string(&event.body, body);
        if self.fifo {
            body.extend_from_slice(b",\"MessageGroupId\":");
            string(&group_id(&event.key), body);
            let _ = write!(body, ",\"MessageDeduplicationId\":\"{}\"", event.event_id);
        }
        body.extend_from_slice(b",\"MessageAttributes\":{");
        for (at, (name, value)) in event.attributes.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let kind = data_type(name);
            let _ = write!(body, "{comma}\"{name}\":{{\"DataType\":\"{kind}\",\"StringValue\":");
            string(value, body);
            body.push(b'}');
        }
        body.extend_from_slice(b"}}");
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    // Neither can a text fail to be one of JSON's, nor writing to a vector.
    let _ = serde_json::to_writer(out, text);
}

impl Publisher for Queue {
    async fn publish(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        let Some(url) = self.learned.url.get() else {
            let message = "the URL of the queue is not known yet";
            return Outcome::all(batch, "unresolved", message, true);
        };
        let request = self.client.send_message_batch().queue_url(url);
        let answer = match body::with(self.body(url, batch), request.send()).await {
            Ok(answer) => answer,
            Err(error) => return answer::failed(batch, &error, &self.host),
        };
        let refused = answer.failed().iter().map(|entry| Refused {
            id: entry.id(),
            code: entry.code(),
            message: entry.message(),
            sender_fault: entry.sender_fault(),
        });
        let accepted = answer.successful().iter().map(SendMessageBatchResultEntry::id);
        answer::outcomes(batch.len(), accepted, refused)
    }

    fn limits(&self) -> BatchLimits {
        self.learned.limit.limits()
    }

    async fn learn_limits(&self) -> Result<(), DestinationError> {
        let url = self.ask_for_url().await?;
        let wanted = QueueAttributeName::MaximumMessageSize;
        let request =
            self.client.get_queue_attributes().queue_url(url).attribute_names(wanted.clone());
        let answer = request.send().await.map_err(|e| answer::asked(&e, &self.host))?;
        let set = answer.attributes().and_then(|a| a.get(&wanted)?.parse().ok());
        self.learned.limit.learned(set);
        Ok(())
    }

    fn forget_limits(&self) {
        self.learned.limit.forget();
    }

    fn is_known(&self) -> bool {
        self.learned.url.get().is_some()
    }

    fn name(&self) -> &str {
        &self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::body::tests::{Written, batch};
    use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};

    fn entry(id: usize, event: &Sealed) -> SendMessageBatchRequestEntry {
        let entry = SendMessageBatchRequestEntry::builder()
            .id(id.to_string())
            .message_body(&event.body)
            .message_group_id(group_id(&event.key))
            .message_deduplication_id(event.event_id.to_string());
        let set = |entry: aws_sdk_sqs::types::builders::SendMessageBatchRequestEntryBuilder,
                   (name, value): &(&str, String)| {
            let value =
                MessageAttributeValue::builder().data_type(data_type(name)).string_value(value);
            entry.message_attributes(*name, value.build().unwrap())
        };
        event.attributes.iter().fold(entry, set).build().unwrap()
    }

    #[tokio::test]
    async fn the_body_is_what_the_sdk_would_write() {
        let config = crate::publish::aws_config(Some("eu-west-1")).await;
        let url = "https://sqs.eu-west-1.amazonaws.com/1/a.fifo".to_owned();
        let queue = Queue::by_url(&config, url);
        let written = Written::default();
        let config = aws_sdk_sqs::config::Builder::from(&config).interceptor(written.clone());
        let batch = batch();
        let entries = batch.iter().enumerate().map(|(id, o)| entry(id, &o.event)).collect();
        let client = aws_sdk_sqs::Client::from_conf(config.build());
        let request = client.send_message_batch().queue_url(&queue.address);
        request.set_entries(Some(entries)).send().await.unwrap_err();
        let json = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap();
        let ours = json(&queue.body(&queue.address, &batch.iter().collect::<Vec<_>>()));
        assert_eq!(ours, json(&written.0.lock().unwrap()));
    }
}
