//! The consumer against a real Postgres: one promise for each test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod bad_input;
mod before_tenants;
mod connection;
mod convergence;
mod deadline;
mod delivery;
mod direct;
mod effects;
mod emit;
mod fit;
mod latest;
mod look_alikes;
mod manual;
mod observed;
#[cfg(feature = "otel")]
mod otlp;
mod outside;
mod panics;
mod plans;
mod poison;
mod pooler;
mod queue;
mod read_your_writes;
mod replay;
mod restarted;
mod round_trips;
mod support;
#[cfg(feature = "testing")]
mod testing;
#[cfg(feature = "otel")]
mod traces;
mod upkeep;
mod write;
