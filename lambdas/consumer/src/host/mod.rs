//! Where a handler runs. Both hosts run the same one unchanged.

#[cfg(any(feature = "lambda", feature = "poll"))]
mod environment;
#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "logging")]
mod logging;
#[cfg(feature = "poll")]
pub mod poll;

#[cfg(any(feature = "lambda", feature = "poll"))]
pub use environment::{Misconfigured, read_model, through_a_pool};
#[cfg(feature = "logging")]
pub use logging::start_logging;
