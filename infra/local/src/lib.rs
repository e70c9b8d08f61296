//! Local stand-ins for what the product runs on, the demo's workload, and its judge.
//!
//! Knows: how to start a real Postgres and MiniStack and to stop them, how to
//! deploy the template, how an order is written, and what must then stand in the
//! read model. Must not know: the relay's or the consumer's insides.

mod customers;

pub mod deploy;
pub mod latency;
pub mod migrations;
pub mod ministack;
pub mod orders;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod read_back;
pub mod read_model;
pub mod receiver;
pub mod runtime_api;
pub mod stack;
pub mod verdict;

use std::path::PathBuf;

/// The folder of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
