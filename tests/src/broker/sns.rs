//! SNS: the Query protocol, XML answers.

use super::rules::{Entry, Refusal};
use std::collections::HashMap;
use std::fmt::Write as _;

/// The fields of a request.
pub(super) type Fields = HashMap<String, String>;

pub(super) fn parse(body: &[u8]) -> Fields {
    serde_urlencoded::from_bytes::<Vec<(String, String)>>(body)
        .unwrap_or_default()
        .into_iter()
        .collect()
}

pub(super) fn entries(fields: &Fields) -> Vec<Entry> {
    let mut entries = Vec::new();
    for n in 1.. {
        let field = |name: &str| {
            fields.get(&format!("PublishBatchRequestEntries.member.{n}.{name}")).cloned()
        };
        let Some(id) = field("Id") else { break };
        let attributes = (1..).map_while(|m| {
            let name = field(&format!("MessageAttributes.entry.{m}.Name"))?;
            Some((
                name,
                field(&format!("MessageAttributes.entry.{m}.Value.StringValue"))
                    .unwrap_or_default(),
            ))
        });
        entries.push(Entry {
            id,
            body: field("Message").unwrap_or_default(),
            group: field("MessageGroupId"),
            deduplication: field("MessageDeduplicationId"),
            attributes: attributes.collect(),
        });
    }
    entries
}

pub(super) fn topic_attributes(arn: &str, fifo: bool, limit: Option<usize>) -> String {
    let mut attributes = format!(
        "<entry><key>TopicArn</key><value>{arn}</value></entry><entry><key>FifoTopic</key><value>{fifo}</value></entry>"
    );
    if let Some(limit) = limit {
        let _ = write!(
            attributes,
            "<entry><key>MaximumMessageSize</key><value>{limit}</value></entry>"
        );
    }
    result("GetTopicAttributes", &format!("<Attributes>{attributes}</Attributes>"))
}

/// The entries with their places in the request, in the order in which the answer names them.
pub(super) fn published(
    entries: &[(usize, &Entry)],
    failed: &HashMap<usize, (Refusal, bool)>,
) -> String {
    let (mut good, mut bad) = (String::new(), String::new());
    for (at, entry) in entries {
        let _ = match failed.get(at) {
            None => write!(
                good,
                "<member><Id>{}</Id><MessageId>{}</MessageId></member>",
                entry.id,
                uuid::Uuid::new_v4()
            ),
            Some((Refusal { code, message }, sender)) => write!(
                bad,
                "<member><Id>{}</Id><Code>{code}</Code><Message>{message}</Message><SenderFault>{sender}</SenderFault></member>",
                entry.id
            ),
        };
    }
    result("PublishBatch", &format!("<Successful>{good}</Successful><Failed>{bad}</Failed>"))
}

fn result(action: &str, inner: &str) -> String {
    format!(
        "<{action}Response xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><{action}Result>{inner}</{action}Result><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>"
    )
}

pub(super) fn error(refusal: &Refusal) -> String {
    let Refusal { code, message } = refusal;
    format!(
        "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    )
}
