//! The function on a real Postgres, calling a real server that counts and misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod calls;
mod runtime_api;
mod support;
mod tls;
