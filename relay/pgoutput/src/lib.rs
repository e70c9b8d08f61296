//! Postgres logical replication: bytes to messages, and the answers to them.
//!
//! Knows: the payload of CopyData on a replication connection, and the messages
//! of the `pgoutput` plugin, protocol versions 1 to 4. Must not know: sockets,
//! clocks, what a table means to anyone. Everything is borrowed from the buffer
//! it was read from but the names in a [`Relation`], which are kept.
//!
//! ```text
//! CopyData ──▶ Frame ──▶ Message ──▶ Tuple ──▶ Value
//!                 ◀── StandbyStatus
//! ```
//!
//! | tag | message | protocol | Postgres |
//! |---|---|---|---|
//! | `B` | [`Message::Begin`] | 1 | 10 |
//! | `C` | [`Message::Commit`] | 1 | 10 |
//! | `O` | [`Message::Origin`] | 1 | 10 |
//! | `R` | [`Message::Relation`] | 1 | 10 |
//! | `Y` | [`Message::Type`] | 1 | 10 |
//! | `I` | [`Message::Insert`] | 1 | 10 |
//! | `U` | [`Message::Update`] | 1 | 10 |
//! | `D` | [`Message::Delete`] | 1 | 10 |
//! | `T` | [`Message::Truncate`] | 1 | 11 |
//! | `M` | [`Message::Message`] | 1 | 14 |
//! | `S` | [`AnyMessage::StreamStart`] | 2 | 14 |
//! | `E` | [`AnyMessage::StreamStop`] | 2 | 14 |
//! | `c` | [`AnyMessage::StreamCommit`] | 2 | 14 |
//! | `A` | [`AnyMessage::StreamAbort`] | 2 | 14; LSN and time with 4 from 16 |
//! | `b` | [`AnyMessage::BeginPrepare`] | 3 | 15 |
//! | `P` | [`AnyMessage::Prepare`] | 3 | 15 |
//! | `K` | [`AnyMessage::CommitPrepared`] | 3 | 15 |
//! | `r` | [`AnyMessage::RollbackPrepared`] | 3 | 15 |
//! | `p` | [`AnyMessage::StreamPrepare`] | 3 | 15 |
//!
//! [`Message::decode`] reads protocol version 1 and refuses the rest;
//! [`AnyMessage::decode`] reads all. [`encode`] writes all.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>
//! and <https://www.postgresql.org/docs/current/protocol-replication.html>.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod any;
#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod captures;
mod cursor;
pub mod encode;
mod error;
mod frame;
mod lsn;
#[cfg(test)]
mod malformed;
mod message;
mod relation;
#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod round_trip;
mod tuple;

pub use any::{AnyMessage, Prepared};
pub use error::Error;
pub use frame::{Frame, StandbyStatus};
pub use lsn::{InvalidLsn, Lsn};
pub use message::Message;
pub use relation::{Column, Relation, Relations, ReplicaIdentity};
pub use tuple::{Tuple, Value, Values};
