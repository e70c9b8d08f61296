//! The projection on a real Postgres, and the real binary on a local runtime API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

#[cfg(feature = "otel")]
#[path = "../../consumer/tests/otlp.rs"]
mod otlp;
mod projection;
mod runtime_api;
mod support;
#[cfg(feature = "otel")]
mod traces;
