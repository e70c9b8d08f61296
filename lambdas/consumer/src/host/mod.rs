//! The two hosts that run a handler: the same handler, unchanged.

#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "poll")]
pub mod poll;
