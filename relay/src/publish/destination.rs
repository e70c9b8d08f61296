//! Where events go: an address from the configuration to a publisher.

use super::identity::Identities;
use super::schedule::BatchLimits;
use super::sns::Topic;
use super::sqs::Queue;
use super::{ClaimChecks, Outcome, Outgoing, Publisher};
use aws_config::{Region, SdkConfig};
use futures_util::future::join_all;
use std::fmt;
use std::str::FromStr;

/// The address of a topic or queue, as written in the configuration.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// The ARN of an SNS topic.
    TopicArn(String),
    /// The ARN of an SQS queue.
    QueueArn(String),
    /// The URL of an SQS queue.
    QueueUrl(String),
}

/// A text that is no address of a topic or queue.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected the ARN of an SNS topic or SQS queue (arn:aws:sns:REGION:ACCOUNT:NAME) or the URL of an SQS queue, found {found:?}"
)]
pub struct AddressError {
    found: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || AddressError { found: text.to_owned() };
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::QueueUrl(text.to_owned()));
        }
        // arn:partition:service:region:account:name
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["arn", _, service, region, account, name]
                if !region.is_empty() && !account.is_empty() && !name.is_empty() =>
            {
                match *service {
                    "sns" => Ok(Self::TopicArn(text.to_owned())),
                    "sqs" => Ok(Self::QueueArn(text.to_owned())),
                    _ => Err(refused()),
                }
            }
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::TopicArn(text) | Self::QueueArn(text) | Self::QueueUrl(text)) = self;
        f.write_str(text)
    }
}

impl Address {
    /// The region that an ARN or the URL of a queue names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::TopicArn(arn) | Self::QueueArn(arn) => arn.split(':').nth(3),
            Self::QueueUrl(url) => region_of_url(url),
        }
    }
}

/// The region in a queue's URL: behind `sqs` or `sqs-fips`, or before `queue` in a legacy one.
///
/// Sources: the SQS endpoints page, and the endpoint rules of the service model for China, the
/// isolated partitions and dual-stack; VPC endpoints have the region in the same place.
fn region_of_url(url: &str) -> Option<&str> {
    let host = url.split_once("://")?.1.split(['/', ':', '?']).next()?;
    // At least two parts and a number: eu-west-1, us-gov-east-1, us-isob-east-1.
    let is_region = |label: &&str| {
        let parts: Vec<&str> = label.split('-').collect();
        let number = parts.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
        parts.len() >= 3 && number && parts[..parts.len() - 1].iter().all(word)
    };
    let labels: Vec<&str> = host.split('.').collect();
    let at = labels.iter().position(|label| matches!(*label, "sqs" | "sqs-fips" | "queue"))?;
    if labels[at] == "queue" {
        return match at.checked_sub(1) {
            Some(before) => labels.get(before).copied().filter(is_region),
            // The oldest form of all is that of the first region.
            None => (host == "queue.amazonaws.com").then_some("us-east-1"),
        };
    }
    labels.get(at + 1).copied().filter(is_region)
}

/// Why a destination could not be asked for its limits.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DestinationError {
    /// AWS refused, or could not be reached.
    #[error("{message} ({code})")]
    Asked {
        /// AWS's code, or `unreachable`.
        code: String,
        /// AWS's words.
        message: String,
    },
}

impl DestinationError {
    /// AWS's code, or `unreachable`.
    #[must_use]
    pub fn code(&self) -> &str {
        let Self::Asked { code, .. } = self;
        code
    }
}

/// A topic or a queue, ready to take batches.
#[derive(Clone, Debug)]
pub struct Destination {
    address: Address,
    /// The address as it was written.
    name: String,
    kind: Kind,
    claim_checks: Option<ClaimChecks>,
    identities: Identities,
}

#[derive(Clone, Debug)]
enum Kind {
    Topic(Topic),
    Queue(Queue),
}

impl Destination {
    /// A destination at this address; nothing is sent yet.
    #[must_use]
    pub fn new(config: &SdkConfig, address: Address) -> Self {
        // An ARN names its region, and most URLs do; two destinations may lie in two.
        let region = address.region().map(|region| Region::new(region.to_owned()));
        let config = &match region {
            Some(region) => config.to_builder().region(region).build(),
            None => config.clone(),
        };
        let kind = match &address {
            Address::TopicArn(arn) => Kind::Topic(Topic::new(config, arn.clone())),
            Address::QueueArn(arn) => Kind::Queue(Queue::by_arn(config, arn.clone())),
            Address::QueueUrl(url) => Kind::Queue(Queue::by_url(config, url.clone())),
        };
        Self {
            name: address.to_string(),
            address,
            kind,
            claim_checks: None,
            identities: Identities::default(),
        }
    }

    /// The same, with the credentials that are to be forgotten when they are refused.
    #[must_use]
    pub(super) fn with_identities(self, identities: Identities) -> Self {
        Self { identities, ..self }
    }

    /// The same, with a place for what is too large for it.
    #[must_use]
    pub fn with_claim_checks(self, claim_checks: Option<ClaimChecks>) -> Self {
        Self { claim_checks, ..self }
    }

    /// The place for what is too large for it.
    #[must_use]
    pub fn claim_checks(&self) -> Option<&ClaimChecks> {
        self.claim_checks.as_ref()
    }

    /// The address it was made from.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    async fn send(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        let outcomes = match &self.kind {
            Kind::Topic(topic) => topic.publish(batch).await,
            Kind::Queue(queue) => queue.publish(batch).await,
        };
        if let Some(Outcome::Failed { code, whole_request: true, .. }) = outcomes.first() {
            self.identities.refused(code);
        }
        outcomes
    }

    /// Sends a batch of which some entries are put into S3 first. What could not be put there is
    /// not sent.
    async fn send_checked(&self, claims: &ClaimChecks, batch: &[&Outgoing]) -> Vec<Outcome> {
        let limits = self.limits();
        let puts = batch.iter().map(|entry| async move {
            if limits.is_claimed(entry) { claims.put(entry).await.map(Some) } else { Ok(None) }
        });
        let checked = join_all(puts).await;
        let sent = batch.iter().zip(&checked).filter_map(|(entry, checked)| match checked {
            Ok(Some(claimed)) => Some(claimed),
            Ok(None) => Some(*entry),
            Err(_) => None,
        });
        let sent: Vec<&Outgoing> = sent.collect();
        let answers = if sent.is_empty() { Vec::new() } else { self.send(&sent).await };
        let mut answers = answers.into_iter();
        let outcome = |checked: Result<Option<Outgoing>, Outcome>| match checked {
            Ok(_) => answers.next().unwrap_or_else(Outcome::unanswered),
            Err(failed) => failed,
        };
        checked.into_iter().map(outcome).collect()
    }
}

impl Publisher for Destination {
    async fn publish(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        let limits = self.limits();
        match &self.claim_checks {
            Some(claims) if batch.iter().any(|entry| limits.is_claimed(entry)) => {
                self.send_checked(claims, batch).await
            }
            Some(_) | None => self.send(batch).await,
        }
    }

    fn limits(&self) -> BatchLimits {
        let limits = match &self.kind {
            Kind::Topic(topic) => topic.limits(),
            Kind::Queue(queue) => queue.limits(),
        };
        let claim_check = self.claim_checks.as_ref().map(|claims| claims.claim(limits.bytes));
        BatchLimits { claim_check, ..limits }
    }

    /// Asks AWS, and so whether the destination is there.
    async fn learn_limits(&self) -> Result<(), DestinationError> {
        match &self.kind {
            Kind::Topic(topic) => topic.learn_limits().await,
            Kind::Queue(queue) => queue.learn_limits().await,
        }
    }

    fn forget_limits(&self) {
        match &self.kind {
            Kind::Topic(topic) => topic.forget_limits(),
            Kind::Queue(queue) => queue.forget_limits(),
        }
    }

    fn is_known(&self) -> bool {
        match &self.kind {
            Kind::Topic(topic) => topic.is_known(),
            Kind::Queue(queue) => queue.is_known(),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_in_a_queues_url_is_taken_from_it() {
        for (url, expected) in [
            ("https://sqs.eu-west-1.amazonaws.com/1/orders", Some("eu-west-1")),
            ("https://sqs.us-gov-west-1.amazonaws.com/1/orders.fifo", Some("us-gov-west-1")),
            ("https://sqs.cn-north-1.amazonaws.com.cn/1/orders", Some("cn-north-1")),
            ("https://sqs-fips.us-east-2.amazonaws.com/1/orders", Some("us-east-2")),
            ("https://sqs.eu-west-1.api.aws/1/orders", Some("eu-west-1")),
            ("https://sqs-fips.us-west-2.api.aws/1/orders", Some("us-west-2")),
            ("https://eu-central-1.queue.amazonaws.com/1/orders", Some("eu-central-1")),
            ("https://cn-north-1.queue.amazonaws.com.cn/1/orders", Some("cn-north-1")),
            ("https://queue.amazonaws.com/1/orders", Some("us-east-1")),
            ("https://sqs.us-isob-east-1.sc2s.sgov.gov/1/orders", Some("us-isob-east-1")),
            ("https://vpce-0a1-x.sqs.eu-west-1.vpce.amazonaws.com/1/o", Some("eu-west-1")),
            (
                "http://sqs.us-east-1.localhost.localstack.cloud:4566/000000000000/o",
                Some("us-east-1"),
            ),
            ("http://127.0.0.1:4100/000000000000/orders", None),
            ("http://sqs.localhost/1/orders", None),
            ("https://queue.example.com/1/orders", None),
        ] {
            assert_eq!(url.parse::<Address>().unwrap().region(), expected, "{url}");
        }
    }

    #[test]
    fn addresses_are_told_apart() {
        let topic = "arn:aws:sns:eu-west-1:123456789012:orders.fifo";
        assert_eq!(topic.parse(), Ok(Address::TopicArn(topic.to_owned())));
        let queue = "arn:aws:sqs:eu-west-1:123456789012:orders";
        assert_eq!(queue.parse::<Address>().unwrap().region(), Some("eu-west-1"));
        let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders";
        assert_eq!(url.parse(), Ok(Address::QueueUrl(url.to_owned())));
        for wrong in [
            "",
            "orders",
            "arn:aws:s3:::bucket",
            "arn:aws:sns:eu-west-1:1:",
            "arn:aws:sns:eu-west-1:1:a:b",
        ] {
            let error = wrong.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("expected the ARN"), "{error}");
        }
    }
}
