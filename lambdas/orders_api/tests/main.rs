//! The real service on a real read model, over HTTP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod lambda;
mod orders;
mod program;
mod support;
