//! Projection functions on SQS whose effects happen once.
//!
//! An author writes one function, [`Handler::handle`]; a host takes messages
//! from a queue and brings them to it. The event's row in the inbox and the
//! handler's writes are one database transaction, so a redelivery is a no-op.
//!
//! ```no_run
//! use consumer::{Event, Handler, HandlerError, Tx};
//!
//! struct Customers;
//!
//! #[derive(serde::Deserialize)]
//! struct Registered {
//!     name: String,
//! }
//!
//! impl Handler for Customers {
//!     fn name(&self) -> &str {
//!         "customers"
//!     }
//!
//!     async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
//!         if event.event_type != "customer.registered" {
//!             return Ok(());
//!         }
//!         // Data of another shape is rejected: parked with the reason, and the queue goes on.
//!         let customer: Registered = event.data()?;
//!         tx.write(
//!             "insert into customers (customer_id, name) values ($1, $2)",
//!             &[&event.aggregate_id, &customer.name],
//!         )
//!         .await?;
//!         Ok(())
//!     }
//! }
//!
//! # #[cfg(feature = "lambda")]
//! #[tokio::main]
//! async fn main() -> Result<(), consumer::host::lambda::Error> {
//!     consumer::host::start_logging();
//!     consumer::host::lambda::run(Customers, &consumer::host::read_model()?).await
//! }
//! # #[cfg(not(feature = "lambda"))]
//! # fn main() {}
//! ```
//!
//! The read model needs the tables of `relay init --read-model`, and the event
//! source mapping `ReportBatchItemFailures`.
//!
//! # What becomes of an event
//! | the handler, or the runtime before it | the event |
//! |---|---|
//! | `Ok(())` | is applied: its effect and its inbox row are committed together |
//! | [`HandlerError::Retry`], or a database error | goes back to the queue, without any effect |
//! | [`HandlerError::Reject`] | is parked in `relay.parked` with the reason, and counts as done |
//! | finds it in the inbox, or its version applied | is a duplicate: nothing happens |
//! | finds its version applied as another event ([`Mode::Versioned`]) | is parked with [`Consumer::park_after`], else passed over, with a warning |
//! | finds earlier versions missing ([`Mode::Versioned`]) | goes back to the queue, with a warning, and is parked after [`Consumer::park_after`] deliveries |
//! | [`HandlerError::RetryAfter`] | as `Retry`, after a while where the host can tell the queue |
//! | finds that a later one was applied ([`Mode::Latest`]) | is stale: nothing happens |
//! | finds another content under an id that it knows | is parked: two events must not share an id |
//! | finds that the body is no event | goes back to the queue, and so to the dead-letter queue |
//!
//! A batch is one transaction when all is well. On an error it is rolled back
//! and taken one by one, so a bad event costs only itself; on a FIFO queue its
//! own group stops there and the other groups go on.
//!
//! # Claim checks
//! A message can name an object in S3 in place of a body that was too large for it. Without
//! [`Consumer::with_claim_checks`] it goes back to the queue; the feature `s3` brings a way to
//! the objects of one bucket.
//!
//! # Effects outside the database
//! A mail, a call of another service: [`Tx::effect`] notes it in the event's transaction, and the
//! consumer's [`Effects`] perform it after the commit, at most once unless it is certain that nothing
//! happened. The page `relay/docs/side-effects.md` says what can be promised and what cannot.
//!
//! # Layout
//! `record` reads a message, `batch` knows what became of each, `version` and
//! `inbox` tell new events from old ones, `apply` puts those and the handler
//! into a transaction, `consumer` decides between one and many; the hosts bring
//! the messages. The core depends on no AWS SDK; the feature `lambda` brings
//! Lambda's runtime, the feature `poll` the SDK of SQS, either the log
//! of its process (the feature `logging`), the feature `s3` claim checks,
//! the feature `iam` logins without a password, the feature `otel` OpenTelemetry,
//! the feature `testing` a harness for an author's tests.

mod handler;
mod statements;

mod apply;
mod awaited;
mod batch;
mod begin;
mod claim_check;
mod consumer;
#[cfg(any(feature = "s3", all(feature = "iam", feature = "lambda")))]
mod credentials;
mod database;
mod deadline;
mod direct;
mod effect;
mod emit;
mod error;
mod inbox;
mod keep;
mod ledger;
#[cfg(any(feature = "lambda", feature = "poll"))]
mod login;
mod metrics;
mod oddity;
mod read_model;
mod record;
mod replay;
mod seldom;
mod traces;
mod typed;
mod undone;
mod upcast;
mod version;
mod write;

pub mod host;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "testing")]
pub mod testing;

pub use crate::consumer::Consumer;
pub use batch::{Outcome, Report};
pub use claim_check::{ClaimChecks, Redeemed};
pub use direct::{ApplyError, apply_now};
pub use dsn::{Dsn, Error as DsnError};
pub use effect::{Effect, Effects, Performed};
pub use emit::NewEvent;
pub use envelope::{ClaimCheck, Event, Position};
pub use error::Error;
pub use handler::{Handler, HandlerError, Mode, Tx};
#[cfg(any(feature = "lambda", feature = "poll"))]
pub use login::LoginError;
pub use read_model::{Pauses, ReadModel, TimedOut, Unavailable, Waited};
pub use record::{Content, Malformed, Record};
pub use replay::Replayed;
pub use traces::Traces;
#[cfg(feature = "otel")]
pub use traces::TracesError;
pub use typed::{EventSet, Projection, Typed, Unknown};
pub use upcast::{UpcastError, Upcasters};

/// Crates whose types stand in this API: a parameter of [`Tx::write`] is a
/// [`ToSql`](tokio_postgres::types::ToSql), an id a [`Uuid`](uuid::Uuid), a time an
/// [`OffsetDateTime`](time::OffsetDateTime). Taken from here they are of the version that fits.
pub use {time, tokio_postgres, uuid};

/// The queue's client, for [`host::poll`].
#[cfg(feature = "poll")]
pub use aws_sdk_sqs;

/// For what [`events!`] writes.
#[doc(hidden)]
pub use {serde, serde_json};

/// The README's handler compiles: its Rust is run as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// So does that of the page for authors.
#[cfg(doctest)]
#[doc = include_str!("../../../relay/docs/consumer.md")]
struct Authors;
/// So does that of the page on side effects.
#[cfg(doctest)]
#[doc = include_str!("../../../relay/docs/side-effects.md")]
struct SideEffects;

/// So does that of the page on large events.
#[cfg(all(doctest, feature = "s3"))]
#[doc = include_str!("../../../relay/docs/large-events.md")]
struct LargeEvents;
/// And so does what the page on reading one's writes shows.
#[cfg(doctest)]
#[doc = include_str!("../../../relay/docs/read-your-writes.md")]
struct ReadYourWrites;
