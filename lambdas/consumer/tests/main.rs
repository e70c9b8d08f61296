//! The consumer against a real Postgres: one promise for each test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod bad_input;
mod connection;
mod deadline;
mod delivery;
mod emit;
mod latest;
mod plans;
mod poison;
mod replay;
mod support;
mod upkeep;
