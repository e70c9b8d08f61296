//! The list on a real Postgres, whatever the order of arrival.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod arrival;
mod late;
mod runtime_api;
mod support;
