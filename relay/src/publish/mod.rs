//! Events to the broker: one request for a batch, one outcome for each entry.

mod answer;
mod aws;
mod backoff;
mod body;
pub mod breaker;
mod cause;
mod claim_check;
pub mod concurrency;
mod destination;
mod identity;
mod limit;
mod null;
mod outcome;
pub mod schedule;
mod sns;
mod sqs;

pub use aws::{Access, PRODUCT, StoreError, aws_config};
pub use backoff::{Retry, backoff};
pub use claim_check::{Claim, ClaimChecks};
pub use destination::{Address, AddressError, Destination, DestinationError};
pub use null::Null;
pub use outcome::{CODES, Class, Outcome, classify, is_of_bucket, is_throttling};

use crate::ledger::TransactionId;
use envelope::{Position, SIZE_ATTRIBUTE};
use std::future::Future;
use uuid::Uuid;

/// The most bytes that any topic or queue takes in one message: what SNS and SQS let their
/// limit be raised to. The limit of a destination is
/// asked for, and can be lower; with a claim check an event may be larger.
pub const LARGEST_MESSAGE: usize = 1 << 20;

/// The most bytes that a topic or queue takes where none was set on it, or its limit is not
/// known (SNS and SQS quotas).
pub const DEFAULT_LIMIT: usize = 262_144;

/// Names a destination by its place in the list the pipeline was given.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DestinationId(pub usize);

/// An envelope as it will be sent: nothing is left to compute for a request.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The event's identity; the deduplication id on FIFO topics and queues.
    pub event_id: Uuid,
    /// What happened; for logs and dead letters.
    pub event_type: String,
    /// The ordering key, as the author wrote it.
    pub key: String,
    /// The JSON body.
    pub body: String,
    /// The message attributes, of data type String but for the size of a claim check.
    pub attributes: Vec<(&'static str, String)>,
}

impl Sealed {
    /// What is left when the content was moved away.
    fn empty(event_id: Uuid) -> Self {
        Self {
            event_id,
            event_type: String::new(),
            key: String::new(),
            body: String::new(),
            attributes: Vec::new(),
        }
    }

    /// The same with an empty body.
    fn without_body(&self) -> Self {
        Self {
            event_id: self.event_id,
            event_type: self.event_type.clone(),
            key: self.key.clone(),
            body: String::new(),
            attributes: self.attributes.clone(),
        }
    }
}

/// An envelope on its way to one destination.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The transaction to settle when this entry is done.
    pub transaction: TransactionId,
    /// Where to.
    pub destination: DestinationId,
    /// Its place in the stream.
    pub position: Position,
    /// How often it was sent before.
    pub attempts: u32,
    /// Whether it must have a request to itself: one that it shared was refused
    /// as a whole, and the broker did not say for whose sake.
    pub alone: bool,
    /// What is sent.
    pub event: Sealed,
}

impl Outgoing {
    /// An entry that belongs to no transaction, to try a destination with.
    #[must_use]
    pub fn probe(event: Sealed) -> Self {
        Self {
            transaction: TransactionId::default(),
            destination: DestinationId(0),
            position: Position::default(),
            attempts: 0,
            alone: false,
            event,
        }
    }

    /// Its size as SNS and SQS count it: the body, and of each attribute the
    /// name, the data type and the value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.event.body.len() + self.attribute_bytes()
    }

    fn attribute_bytes(&self) -> usize {
        let attributes = self.event.attributes.iter();
        attributes.map(|(name, value)| name.len() + data_type(name).len() + value.len()).sum()
    }

    /// The memory that it takes, in bytes: what the budget counts.
    #[must_use]
    pub fn weight(&self) -> usize {
        let event = &self.event;
        let attributes: usize = event.attributes.iter().map(|(_, value)| value.capacity()).sum();
        let places = event.attributes.capacity() * size_of::<(&str, String)>();
        let texts = event.body.capacity() + event.key.capacity() + event.event_type.capacity();
        size_of::<Self>() + texts + places + attributes
    }
}

/// The data type of a message attribute.
fn data_type(name: &str) -> &'static str {
    if name == SIZE_ATTRIBUTE { "Number" } else { "String" }
}

/// Something that takes batches of events.
///
/// A publisher cannot fail: a request that fails as a whole is the same outcome
/// for each entry, so there is one account of what was accepted.
pub trait Publisher: Clone + Send + Sync + 'static {
    /// Sends the entries in one request, in order; returns one outcome for each, in order.
    fn publish(&self, batch: &[&Outgoing]) -> impl Future<Output = Vec<Outcome>> + Send;

    /// What one request may hold, as far as is known now.
    fn limits(&self) -> schedule::BatchLimits;

    /// Asks the destination for what one request may hold, and where it is; [`limits`] and
    /// [`is_known`] tell what was learned.
    ///
    /// [`limits`]: Publisher::limits
    /// [`is_known`]: Publisher::is_known
    fn learn_limits(&self) -> impl Future<Output = Result<(), DestinationError>> + Send {
        std::future::ready(Ok(()))
    }

    /// The limit that was learned may not hold any more, and cannot be asked for: until it is told
    /// again the destination judges by itself.
    fn forget_limits(&self) {}

    /// Whether it is known where to send to.
    fn is_known(&self) -> bool {
        true
    }

    /// What it is called in logs and dead letters.
    fn name(&self) -> &str;
}
