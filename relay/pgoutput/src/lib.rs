//! Postgres logical replication: bytes to messages, and the answers to them.
//!
//! Knows: the payload of CopyData on a replication connection, and the messages
//! of the `pgoutput` plugin, protocol version 1. Must not know: sockets, clocks,
//! what a table means to anyone. Everything is borrowed from the buffer it was
//! read from but the names in a [`Relation`], which are kept.
//!
//! ```text
//! CopyData ──▶ Frame ──▶ Message ──▶ Tuple ──▶ Value
//!                 ◀── StandbyStatus
//! ```
//!
//! | tag | message | since |
//! |---|---|---|
//! | `B` | [`Message::Begin`] | 10 |
//! | `C` | [`Message::Commit`] | 10 |
//! | `O` | [`Message::Origin`] | 10 |
//! | `R` | [`Message::Relation`] | 10 |
//! | `Y` | [`Message::Type`] | 10 |
//! | `I` | [`Message::Insert`] | 10 |
//! | `U` | [`Message::Update`] | 10 |
//! | `D` | [`Message::Delete`] | 10 |
//! | `T` | [`Message::Truncate`] | 11 |
//! | `M` | [`Message::Message`] | 14 |
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>
//! and <https://www.postgresql.org/docs/current/protocol-replication.html>.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod cursor;
mod error;
mod frame;
mod lsn;
mod message;
mod relation;
mod tuple;

pub use error::Error;
pub use frame::{Frame, StandbyStatus};
pub use lsn::{InvalidLsn, Lsn};
pub use message::Message;
pub use relation::{Column, Relation, Relations, ReplicaIdentity};
pub use tuple::{Tuple, Value, Values};
