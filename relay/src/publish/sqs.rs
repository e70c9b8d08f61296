//! Batches to an SQS queue. The SDK's types never leave this file.

use super::answer::{self, Refused};
use super::body::{self, OwnBody};
use super::schedule::BatchLimits;
use super::{DestinationError, Outcome, Outgoing, Publisher, Sealed, data_type};
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchResultEntry};
use envelope::group_id;
use std::io::Write as _;

/// A queue's limit when it does not say (SQS quotas); every real queue says.
const DEFAULT_LIMIT: usize = 262_144;

/// One SQS queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    client: aws_sdk_sqs::Client,
    /// The queue's name, for a queue that was given by its ARN: its URL is asked for.
    name: Option<String>,
    url: String,
    /// Where it is reached, for errors.
    host: String,
    fifo: bool,
    limits: BatchLimits,
}

impl Queue {
    pub(crate) fn by_url(config: &aws_config::SdkConfig, url: String) -> Self {
        let fifo = url.ends_with(".fifo");
        let limits = BatchLimits { entries: 10, bytes: DEFAULT_LIMIT, claim_check: None };
        let host = super::cause::host(config, "sqs");
        let config = aws_sdk_sqs::config::Builder::from(config)
            .interceptor(OwnBody { content_type: "application/x-amz-json-1.0" });
        let client = aws_sdk_sqs::Client::from_conf(config.build());
        Self { client, name: None, url, host, fifo, limits }
    }

    pub(crate) fn by_arn(config: &aws_config::SdkConfig, arn: &str) -> Self {
        let name = arn.rsplit(':').next().unwrap_or(arn).to_owned();
        Self { name: Some(name), ..Self::by_url(config, arn.to_owned()) }
    }

    /// Asks the queue for its limits: proof that it is there, too.
    pub(crate) async fn learn_limits(&mut self) -> Result<(), DestinationError> {
        if let Some(name) = &self.name {
            let answer = self
                .client
                .get_queue_url()
                .queue_name(name)
                .send()
                .await
                .map_err(|e| answer::asked(&e, &self.host))?;
            self.url = answer.queue_url().unwrap_or(&self.url).to_owned();
            self.name = None;
        }
        let wanted = QueueAttributeName::MaximumMessageSize;
        let request =
            self.client.get_queue_attributes().queue_url(&self.url).attribute_names(wanted.clone());
        let answer = request.send().await.map_err(|e| answer::asked(&e, &self.host))?;
        let set = answer.attributes().and_then(|a| a.get(&wanted)?.parse().ok());
        self.limits.bytes = set.unwrap_or(DEFAULT_LIMIT);
        Ok(())
    }

    /// The parameters of `SendMessageBatch` (SQS API reference, AWS JSON protocol 1.0); an
    /// entry's id is its place in the batch.
    fn body(&self, batch: &[&Outgoing]) -> Vec<u8> {
        // A text grows by the backslashes before its quotes.
        let room = batch.iter().map(|outgoing| outgoing.bytes() * 5 / 4 + 768).sum();
        let mut body = Vec::with_capacity(room);
        body.extend_from_slice(b"{\"QueueUrl\":");
        string(&self.url, &mut body);
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
        let request = self.client.send_message_batch().queue_url(&self.url);
        let answer = match body::with(self.body(batch), request.send()).await {
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
        self.limits
    }

    fn name(&self) -> &str {
        &self.url
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
        let request = client.send_message_batch().queue_url(&queue.url);
        request.set_entries(Some(entries)).send().await.unwrap_err();
        let json = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap();
        let ours = json(&queue.body(&batch.iter().collect::<Vec<_>>()));
        assert_eq!(ours, json(&written.0.lock().unwrap()));
    }
}
