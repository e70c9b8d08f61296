//! SQS: AWS JSON 1.0.

use super::rules::{Entry, Refusal};
use super::state::Message;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;

pub(super) fn entries(request: &Value) -> Vec<Entry> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let entries = request["Entries"].as_array().into_iter().flatten();
    entries
        .map(|entry| Entry {
            id: text(&entry["Id"]).unwrap_or_default(),
            body: text(&entry["MessageBody"]).unwrap_or_default(),
            group: text(&entry["MessageGroupId"]),
            deduplication: text(&entry["MessageDeduplicationId"]),
            attributes: entry["MessageAttributes"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| {
                    (name.clone(), text(&value["StringValue"]).unwrap_or_default())
                })
                .collect(),
        })
        .collect()
}

/// The queue's name at the end of its URL.
pub(super) fn queue(request: &Value) -> String {
    let url = request["QueueUrl"].as_str().or(request["QueueName"].as_str()).unwrap_or_default();
    url.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The entries with their places in the request, in the order in which the answer names them.
pub(super) fn sent(entries: &[(usize, &Entry)], failed: &HashMap<usize, (Refusal, bool)>) -> Value {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (at, entry) in entries {
        match failed.get(at) {
            None => good.push(json!({ "Id": entry.id, "MessageId": uuid::Uuid::new_v4().to_string(), "MD5OfMessageBody": md5(&entry.body) })),
            Some((Refusal { code, message }, sender)) => {
                bad.push(json!({ "Id": entry.id, "Code": code, "Message": message, "SenderFault": sender }));
            }
        }
    }
    json!({ "Successful": good, "Failed": bad })
}

pub(super) fn received(messages: &[Message]) -> Value {
    let messages = messages.iter().map(|message| {
        let mut attributes = json!({
            "SentTimestamp": message.sent_at.to_string(),
            "ApproximateReceiveCount": message.receive_count.to_string(),
        });
        if let Some(group) = &message.entry.group {
            attributes["MessageGroupId"] = json!(group);
        }
        json!({
            "MessageId": message.id, "ReceiptHandle": message.receipt, "Body": message.entry.body,
            "MD5OfBody": md5(&message.entry.body), "Attributes": attributes,
        })
    });
    json!({ "Messages": messages.collect::<Vec<_>>() })
}

fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
