//! Where a handler runs. Both hosts run the same one unchanged.

#[cfg(any(feature = "lambda", feature = "poll"))]
mod environment;
#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "logging")]
mod logging;
#[cfg(feature = "poll")]
pub mod poll;

/// After how many deliveries the functions of this project park an event
/// ([`Consumer::park_after`](crate::Consumer::park_after)): one less than their queues' `maxReceiveCount`
/// of 5, so that one delivery which ended without an answer does not make it a dead letter first.
pub const PARK_AFTER: u32 = 4;

#[cfg(any(feature = "lambda", feature = "poll"))]
pub use environment::{Misconfigured, read_model, through_a_pool};
#[cfg(feature = "logging")]
pub use logging::start_logging;
