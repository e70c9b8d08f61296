//! The published contract: what one event looks like on the wire.
//!
//! Knows: the JSON of the formats, the message attributes, the group
//! and deduplication ids, the position of an event in the stream.
//! Must not know: Postgres, AWS, sockets, clocks. It is shared by the relay,
//! which writes envelopes, and by consumers, which read them.
//!
//! ```text
//! outbox row ──▶ Envelope (borrowed) ──write──▶ JSON body ──read──▶ Event (owned)
//!                    └──▶ attributes, group id, deduplication id
//! ```
//!
//! An envelope is written in one of the formats of [`Format`]; an [`Event`] is read from the
//! default one.
//!
//! `data` and `metadata` cross both ways as raw JSON: they are never parsed
//! and written again, so every number and every escape arrives as it was.

mod attributes;
mod claim_check;
mod cloudevents;
mod event;
mod format;
mod key;
mod metadata;
mod position;
mod write;

pub use attributes::{Attribute, MAX_ATTRIBUTES, group_id};
pub use claim_check::{ClaimCheck, SIZE_ATTRIBUTE, split_cloudevent};
pub use event::{Event, EventError, tenant_of};
pub use format::Format;
pub use key::ordering_key;
pub use position::{InvalidPosition, Position};
pub use write::{Envelope, as_sent, write_text};

/// The event type that `relay check` sends to prove the permission to publish.
///
/// A consumer takes it from the queue and does nothing else with it.
pub const PROBE_EVENT_TYPE: &str = "relay.check";
