//! Where a handler runs. Both hosts run the same one unchanged.

#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "poll")]
pub mod poll;
