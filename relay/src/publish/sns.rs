//! Batches to an SNS topic. The SDK's types never leave this file.

use super::answer::{self, Refused};
use super::body::{self, OwnBody};
use super::limit::Limit;
use super::schedule::BatchLimits;
use super::{DestinationError, Outcome, Outgoing, Publisher, Sealed, data_type};
use envelope::group_id;
use std::io::Write as _;
use std::sync::Arc;

/// One SNS topic. Clones share what was learned.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    client: aws_sdk_sns::Client,
    arn: String,
    /// Where it is reached, for errors.
    host: String,
    fifo: bool,
    limit: Arc<Limit>,
}

impl Topic {
    pub(crate) fn new(config: &aws_config::SdkConfig, arn: String) -> Self {
        let fifo = arn.ends_with(".fifo");
        let host = super::cause::host(config, "sns");
        let config = aws_sdk_sns::config::Builder::from(config)
            .interceptor(OwnBody { content_type: "application/x-www-form-urlencoded" });
        Self {
            client: aws_sdk_sns::Client::from_conf(config.build()),
            arn,
            host,
            fifo,
            limit: Arc::default(),
        }
    }

    /// The parameters of `PublishBatch` (SNS API reference, AWS query protocol): members and
    /// entries count from 1, and an entry's id is its place in the batch.
    fn body(&self, batch: &[&Outgoing]) -> Vec<u8> {
        // A text grows by its quotes, and a name is as long as what it names.
        let room = batch.iter().map(|outgoing| outgoing.bytes() * 3 / 2 + 2048).sum();
        let mut body = Vec::with_capacity(room);
        body.extend_from_slice(b"Action=PublishBatch&Version=2010-03-31&TopicArn=");
        encode(&self.arn, &mut body);
        let mut member = Vec::with_capacity(48);
        for (id, outgoing) in batch.iter().enumerate() {
            member.clear();
            // Writing to a vector cannot fail.
            let _ = write!(member, "&PublishBatchRequestEntries.member.{}.", id + 1);
            self.write_entry(id, &outgoing.event, &member, &mut body);
        }
        body
    }

    fn write_entry(&self, id: usize, event: &Sealed, member: &[u8], body: &mut Vec<u8>) {
        body.extend_from_slice(member);
        let _ = write!(body, "Id={id}");
        let mut field = |name: &[u8], value: &str| {
            body.extend_from_slice(member);
            body.extend_from_slice(name);
            encode(value, body);
        };
        field(b"Message=", &event.body);
        if self.fifo {
            field(b"MessageGroupId=", &group_id(&event.key));
            field(
                b"MessageDeduplicationId=",
                event.event_id.hyphenated().encode_lower(&mut [0; 36]),
            );
        }
        for (at, (name, value)) in (1..).zip(&event.attributes) {
            let at: u32 = at;
            body.extend_from_slice(member);
            let _ = write!(body, "MessageAttributes.entry.{at}.Name={name}");
            body.extend_from_slice(member);
            let _ = write!(body, "MessageAttributes.entry.{at}.Value.DataType={}", data_type(name));
            body.extend_from_slice(member);
            let _ = write!(body, "MessageAttributes.entry.{at}.Value.StringValue=");
            encode(value, body);
        }
    }
}

/// Percent-encodes all but letters, digits and `-`, `.`, `_`, `~` (RFC 3986, unreserved).
fn encode(text: &str, out: &mut Vec<u8>) {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    let mut rest = text.as_bytes();
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    loop {
        let as_it_is = rest.iter().position(|byte| !plain(byte)).unwrap_or(rest.len());
        let (before, from) = rest.split_at(as_it_is);
        out.extend_from_slice(before);
        let Some((byte, behind)) = from.split_first() else { return };
        let digit = |value: u8| HEX[usize::from(value & 15)];
        out.extend_from_slice(&[b'%', digit(byte >> 4), digit(*byte)]);
        rest = behind;
    }
}

impl Publisher for Topic {
    async fn publish(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        let request = self.client.publish_batch().topic_arn(&self.arn);
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
        let accepted = answer.successful().iter().filter_map(|entry| entry.id());
        answer::outcomes(batch.len(), accepted, refused)
    }

    fn limits(&self) -> BatchLimits {
        self.limit.limits()
    }

    /// SNS returns `MaximumMessageSize` only where it was set.
    async fn learn_limits(&self) -> Result<(), DestinationError> {
        let request = self.client.get_topic_attributes().topic_arn(&self.arn);
        let answer = request.send().await.map_err(|e| answer::asked(&e, &self.host))?;
        let set = answer.attributes().and_then(|a| a.get("MaximumMessageSize")?.parse().ok());
        self.limit.learned(set);
        Ok(())
    }

    fn forget_limits(&self) {
        self.limit.forget();
    }

    fn name(&self) -> &str {
        &self.arn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::body::tests::{Written, batch};
    use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};

    fn entry(id: usize, event: &Sealed) -> PublishBatchRequestEntry {
        let entry = PublishBatchRequestEntry::builder()
            .id(id.to_string())
            .message(&event.body)
            .message_group_id(group_id(&event.key))
            .message_deduplication_id(event.event_id.to_string());
        let set = |entry: aws_sdk_sns::types::builders::PublishBatchRequestEntryBuilder,
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
        let topic = Topic::new(&config, "arn:aws:sns:eu-west-1:1:a.fifo".to_owned());
        let written = Written::default();
        let config = aws_sdk_sns::config::Builder::from(&config).interceptor(written.clone());
        let batch = batch();
        let entries = batch.iter().enumerate().map(|(id, o)| entry(id, &o.event)).collect();
        let client = aws_sdk_sns::Client::from_conf(config.build());
        let request = client.publish_batch().topic_arn(&topic.arn);
        request.set_publish_batch_request_entries(Some(entries)).send().await.unwrap_err();
        let theirs = String::from_utf8(std::mem::take(&mut *written.0.lock().unwrap())).unwrap();
        let ours = String::from_utf8(topic.body(&batch.iter().collect::<Vec<_>>())).unwrap();
        let parameters = |body: &str| {
            let mut parameters: Vec<_> = body.split('&').map(str::to_owned).collect();
            parameters.sort_unstable();
            parameters
        };
        assert_eq!(parameters(&ours), parameters(&theirs));
    }
}
