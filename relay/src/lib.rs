//! Relay reads a Postgres database's committed changes by logical replication
//! and publishes them as events to SNS and SQS, in order per key and without loss.
//!
//! The path of an event, which is also the order of the modules:
//!
//! ```text
//! Postgres ─▶ wire ─▶ pgoutput ─▶ transaction ─▶ outbox ─▶ route ─▶ seal ─▶ publish ─▶ SNS, SQS
//!               ▲                                                             │
//!               └───────────── confirmed LSN ◀────────── ledger ◀─────────────┘
//! ```
//!
//! `transaction`, `outbox`, `route`, `seal`, `intake`, `publish::schedule` and
//! `ledger` are pure: they hold the promises, and their tests state them.
//! [`pipeline::run`] puts the stages together; the program and the tests call it.

pub mod admin;
pub mod bounds;
mod catalog;
pub mod change;
pub mod condition;
pub mod config;
pub mod dead_letter;
pub mod health;
pub mod heartbeat;
pub mod history;
pub mod iam;
pub mod intake;
pub mod ledger;
pub mod migrate;
pub mod observe;
pub mod outbox;
pub mod pipeline;
pub mod printable;
pub mod publish;
mod raw_row;
pub mod redrive;
pub mod route;
pub mod seal;
pub mod secret;
pub mod slot;
mod source;
pub mod table;
pub mod transaction;
pub mod value;
pub mod wire;

pub use source::SourceError;
