//! Frames to entries: the pure stages put together, from bytes to what is sent.
//!
//! Knows: the transaction that is being read, the routes, the ledger. Must not
//! know: sockets, AWS, time. After a reconnect it passes over what this process
//! took before.

use crate::dead_letter::DeadLetter;
use crate::ledger::{Begun, Ledger, LedgerError, TransactionId};
use crate::outbox::{Columns, EMIT_PREFIX, MissingColumn, OutboxError, OutboxEvent, SCHEMA, TABLE};
use crate::publish::Outgoing;
use crate::route::Routes;
use crate::seal::seal;
use crate::transaction::{Assembler, Step, TransactionError};
use envelope::Position;
use pgoutput::{Frame, Message};
use std::collections::HashMap;

/// What came out of one frame.
#[derive(Debug)]
pub enum Taken {
    /// An event to send.
    Send(Outgoing),
    /// An event that can never be sent.
    SetAside(TransactionId, Box<DeadLetter>),
}

/// A stream that cannot be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntakeError {
    /// The bytes are not what the protocol says.
    #[error("the stream cannot be decoded")]
    Decode(#[from] pgoutput::Error),
    /// The messages do not fit together.
    #[error("the stream contradicts itself")]
    Transaction(#[from] TransactionError),
    /// The transactions do not fit what was read before.
    #[error("the server's history is not the one that was read before")]
    Ledger(#[from] LedgerError),
    /// The outbox table is not one.
    #[error(transparent)]
    Outbox(#[from] MissingColumn),
}

/// Where the reading stands in the stream.
#[derive(Debug, Default)]
enum Open {
    /// Between transactions.
    #[default]
    Nothing,
    /// In one whose events were taken before.
    Skipped,
    /// In one whose changes are taken from this ordinal on.
    Taking(TransactionId, u32),
}

/// The state of the reading side.
#[derive(Debug)]
pub struct Intake {
    ledger: Ledger,
    assembler: Assembler,
    /// The outbox's columns, by the oid of each description of it.
    outbox: HashMap<u32, Columns>,
    open: Open,
    routes: Routes,
    source: String,
}

impl Intake {
    /// An intake that sends events of this `source` along these routes.
    #[must_use]
    pub fn new(routes: Routes, source: String) -> Self {
        Self {
            ledger: Ledger::default(),
            assembler: Assembler::default(),
            outbox: HashMap::new(),
            open: Open::Nothing,
            routes,
            source,
        }
    }

    /// The ledger, to settle events with and to confirm from.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Takes note that the stream begins anew, on a new connection.
    pub fn reconnected(&mut self) {
        self.assembler = Assembler::default();
        self.outbox.clear();
        self.open = Open::Nothing;
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// When the stream cannot be read on; nothing of the frame was taken.
    pub fn take(&mut self, frame: Frame<'_>) -> Result<Option<Taken>, IntakeError> {
        let data = match frame {
            Frame::Keepalive { end, .. } => {
                self.ledger.received(end);
                return Ok(None);
            }
            Frame::XLogData { data, .. } => data,
        };
        let read = match self.assembler.step(Message::decode(data)?)? {
            Step::Begin { commit_lsn } => {
                self.open = match self.ledger.begin(commit_lsn)? {
                    Begun::Take { id, from } => Open::Taking(id, from),
                    Begun::Skip => Open::Skipped,
                };
                return Ok(None);
            }
            Step::Commit { end_lsn, commit_time } => {
                if let Open::Taking(id, _) = std::mem::take(&mut self.open) {
                    self.ledger.end(id, end_lsn, commit_time);
                }
                return Ok(None);
            }
            Step::Described { relation } => {
                if relation.schema == SCHEMA && relation.name == TABLE {
                    self.outbox.insert(relation.oid, Columns::of(relation)?);
                }
                return Ok(None);
            }
            Step::Inserted { position, relation, row } => {
                (position, self.outbox.get(&relation.oid).map(|columns| columns.read(&row)))
            }
            Step::Emitted { position, prefix, content } => {
                (position, (prefix == EMIT_PREFIX).then(|| OutboxEvent::emitted(content)))
            }
            Step::Other { position } => (position, None),
            Step::Nothing => return Ok(None),
        };
        let (position, event) = read;
        let Open::Taking(id, from) = self.open else {
            return Ok(None);
        };
        if position.ordinal < from {
            return Ok(None);
        }
        let taken = event.map(|event| route(&self.routes, &self.source, id, position, event));
        self.ledger.take(id, position.ordinal, u32::from(taken.is_some()));
        Ok(taken)
    }
}

fn route(
    routes: &Routes,
    source: &str,
    transaction: TransactionId,
    position: Position,
    event: Result<OutboxEvent<'_>, OutboxError>,
) -> Taken {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            return set_aside(transaction, position, None, String::new(), &error.to_string());
        }
    };
    let Some(destination) = routes.destination(&event.aggregate_type) else {
        let reason = format!(
            "expected a route for the aggregate type {:?}, found none; set publish.to or add a [[route]]",
            event.aggregate_type
        );
        let body = seal(&event, position, source).body;
        return set_aside(transaction, position, Some(&event), body, &reason);
    };
    let event = seal(&event, position, source);
    Taken::Send(Outgoing { transaction, destination, position, attempts: 0, alone: false, event })
}

fn set_aside(
    transaction: TransactionId,
    position: Position,
    event: Option<&OutboxEvent<'_>>,
    body: String,
    reason: &str,
) -> Taken {
    let letter = DeadLetter {
        event_id: event.map(|e| e.event_id),
        destination: "(none)".to_owned(),
        key: event.map(|e| e.aggregate_id.clone().into_owned()).unwrap_or_default(),
        event_type: event.map(|e| e.event_type.clone().into_owned()).unwrap_or_default(),
        reason: reason.to_owned(),
        error_code: None,
        attempts: 0,
        position,
        body,
    };
    Taken::SetAside(transaction, Box::new(letter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Destinations;
    use pgoutput::encode;
    use proptest::prelude::*;

    fn intake() -> Intake {
        let destinations =
            Destinations { addresses: Vec::new(), default: Some(0), by_type: [].into() };
        Intake::new(Routes::new(&destinations), "test".to_owned())
    }

    fn content(id: u128) -> String {
        format!(
            r#"{{"event_id":"{}","recorded_at":"2026-01-15T10:30:00Z","aggregate_type":"order","aggregate_id":"o{id}","event_type":"order.created","event_version":"1.0","data":{{}},"metadata":{{}}}}"#,
            uuid::Uuid::from_u128(id)
        )
    }

    /// The stream of transactions of these sizes, as encoded messages; every third change is
    /// one that no one reads.
    fn stream(sizes: &[u32]) -> Vec<Vec<Vec<u8>>> {
        let mut id = 0;
        let encoded = |message: &Message<'_>| {
            let mut out = Vec::new();
            encode::message(message, &mut out).unwrap();
            out
        };
        let transactions = (1_u64..).zip(sizes).map(|(n, size)| {
            let (commit_lsn, end_lsn) = ((n * 100).into(), (n * 100 + 100).into());
            let mut messages =
                vec![encoded(&Message::Begin { commit_lsn, commit_time: 0, xid: 1 })];
            for change in 0..*size {
                id += 1;
                let content = content(id);
                let prefix = if change % 3 == 2 { "someone else" } else { EMIT_PREFIX };
                messages.push(encoded(&Message::Message {
                    transactional: true,
                    lsn: commit_lsn,
                    prefix,
                    content: content.as_bytes(),
                }));
            }
            messages.push(encoded(&Message::Commit { commit_lsn, end_lsn, commit_time: 0 }));
            messages
        });
        transactions.collect()
    }

    fn take(intake: &mut Intake, data: &[u8]) -> Option<(String, Position)> {
        let frame = Frame::XLogData { start: 0.into(), end: 0.into(), clock: 0, data };
        match intake.take(frame).unwrap() {
            Some(Taken::Send(entry)) => Some((entry.event.body, entry.position)),
            Some(other) => panic!("expected an event to send, found {other:?}"),
            None => None,
        }
    }

    proptest! {
        /// However often the connection is cut, this process takes each event once, in the
        /// same order, at the same place, as the same bytes.
        #[test]
        fn a_stream_that_is_cut_anywhere_gives_the_same_events_once(
            sizes in proptest::collection::vec(0_u32..6, 1..6),
            cuts in proptest::collection::vec(0_usize..20, 0..4),
        ) {
            let stream = stream(&sizes);
            let mut whole = intake();
            let expected: Vec<_> = stream.iter().flatten().filter_map(|m| take(&mut whole, m)).collect();

            let mut intake = intake();
            let mut found = Vec::new();
            for cut in cuts.into_iter().map(Some).chain([None]) {
                intake.reconnected();
                // Nothing was settled, so the server sends all of it again, up to the cut.
                let messages = stream.iter().flatten().take(cut.unwrap_or(usize::MAX));
                found.extend(messages.filter_map(|m| take(&mut intake, m)));
            }
            prop_assert_eq!(found, expected);
        }
    }
}
