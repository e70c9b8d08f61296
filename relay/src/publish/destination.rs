//! Where events go: an address from the configuration to a publisher.

use super::schedule::BatchLimits;
use super::sns::Topic;
use super::sqs::Queue;
use super::{Outcome, Outgoing, Publisher};
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::{Builder, tls};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

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
    /// The region that an ARN names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::TopicArn(arn) | Self::QueueArn(arn) => arn.split(':').nth(3),
            Self::QueueUrl(_) => None,
        }
    }
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
        // An ARN names its region; two destinations may lie in two.
        let region = address.region().map(|region| Region::new(region.to_owned()));
        let config = &match region {
            Some(region) => config.to_builder().region(region).build(),
            None => config.clone(),
        };
        let kind = match &address {
            Address::TopicArn(arn) => Kind::Topic(Topic::new(config, arn.clone())),
            Address::QueueArn(arn) => Kind::Queue(Queue::by_arn(config, arn)),
            Address::QueueUrl(url) => Kind::Queue(Queue::by_url(config, url.clone())),
        };
        Self { name: address.to_string(), address, kind }
    }

    /// Asks AWS for the destination's size limit, and so whether it is there.
    ///
    /// # Errors
    /// When it is not there, may not be asked, or AWS cannot be reached.
    pub async fn learn_limits(&mut self) -> Result<(), DestinationError> {
        match &mut self.kind {
            Kind::Topic(topic) => topic.learn_limits().await,
            Kind::Queue(queue) => queue.learn_limits().await,
        }
    }

    /// The address it was made from.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Publisher for Destination {
    async fn publish(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        match &self.kind {
            Kind::Topic(topic) => topic.publish(batch).await,
            Kind::Queue(queue) => queue.publish(batch).await,
        }
    }

    fn limits(&self) -> BatchLimits {
        match &self.kind {
            Kind::Topic(topic) => topic.limits(),
            Kind::Queue(queue) => queue.limits(),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The SDK's configuration: its default chain of credentials and regions, our
/// own retries (the SDK's would hold a key's place unseen), and rustls with ring.
///
/// `region` is that of an address that names one; without it the default chain decides.
pub async fn aws_config(region: Option<&str>) -> SdkConfig {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(15))
        .build();
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(Builder::new().tls_provider(tls).build_https())
        .retry_config(RetryConfig::disabled())
        // The time-out below covers it, and the watching of each body costs.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(timeouts)
        .app_name(
            aws_config::AppName::new("relay").unwrap_or_else(|_| unreachable!("a legal name")),
        );
    match region {
        Some(region) => loader.region(Region::new(region.to_owned())).load().await,
        None => loader.load().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
