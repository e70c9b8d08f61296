//! Frames to entries: the pure stages put together, from bytes to what is sent.
//!
//! Knows: the transaction that is being read, the tables, the routes, the ledger.
//! Must not know: sockets, AWS, time. After a reconnect it passes over what this
//! process took before.

use crate::change::Reading;
use crate::dead_letter::DeadLetter;
use crate::ledger::{Begun, Ledger, LedgerError, TransactionId};
use crate::outbox::{Columns, EMIT_PREFIX, SCHEMA, TABLE};
use crate::publish::Outgoing;
use crate::redrive::REDRIVE_PREFIX;
use crate::route::Routes;
use crate::secret::{OUR_PREFIXES, SECRET_PREFIX, Secrets};
use crate::table::{Capture, PrimaryKeys, TableRule};
use crate::transaction::{Assembler, Place, Step, TransactionError};
use crate::value::{Numbers, Types};
use desk::Desk;
use pgoutput::{Frame, Message, Relation};
use recent_ids::RecentIds;
use std::collections::HashMap;

mod desk;
mod recent_ids;

/// What came out of a frame.
#[derive(Debug)]
pub enum Taken {
    /// An event to send.
    Send(Outgoing),
    /// An event that can never be sent.
    SetAside(TransactionId, Box<DeadLetter>),
    /// Types that the next changes have and no one knows; until [`Intake::types`] is told of
    /// them no further frame may be taken.
    Ask(Vec<u32>),
    /// A table that events come from has another name now; they go on coming.
    Renamed {
        /// `schema.name`, as the rule has it.
        expected: String,
        /// `schema.name`, as it is.
        found: String,
    },
    /// There is a new key of this id or a greater one, which the next messages are signed with;
    /// until [`Intake::set_secrets`] was told of it no further frame may be taken.
    AskSecrets(u32),
}

/// Messages under our prefixes that were passed over, because no function that may write such
/// messages had signed them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Forged {
    /// How many, since the process began.
    pub count: u64,
    /// Where the last one stands, and its transaction.
    pub last: Option<Place>,
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
    Taking(TransactionId, u64),
}

/// What the stream says of a table that events come from.
#[derive(Debug)]
enum Described {
    Outbox(Columns),
    Captured(Box<Capture>),
}

/// The state of the reading side.
#[derive(Debug)]
pub struct Intake {
    ledger: Ledger,
    assembler: Assembler,
    /// By the oid of each description.
    tables: HashMap<u32, Described>,
    open: Open,
    routes: Routes,
    source: String,
    rules: Vec<TableRule>,
    primary_keys: PrimaryKeys,
    /// The oid of the outbox and of each captured table, by the name it is expected under.
    oids: HashMap<(String, String), u32>,
    reading: Reading,
    recent_ids: RecentIds,
    secrets: Secrets,
    forged: Forged,
}

impl Intake {
    /// An intake that sends events of this `source` along these routes, from the outbox and
    /// from the tables that the rules name.
    #[must_use]
    pub fn new(routes: Routes, source: String, rules: Vec<TableRule>, numbers: Numbers) -> Self {
        Self {
            ledger: Ledger::default(),
            assembler: Assembler::default(),
            tables: HashMap::new(),
            open: Open::Nothing,
            routes,
            source,
            rules,
            primary_keys: PrimaryKeys::new(),
            oids: HashMap::new(),
            reading: Reading { types: Types::default(), numbers, origin: String::new() },
            recent_ids: RecentIds::default(),
            secrets: Secrets::default(),
            forged: Forged::default(),
        }
    }

    /// The ledger, to settle events with and to confirm from.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Takes note that the stream begins anew, on a new connection.
    ///
    /// `origin` is the server's system identifier and the database, joined by a slash; `epoch` the
    /// history that the slot began.
    pub fn reconnected(
        &mut self,
        origin: String,
        epoch: u64,
        primary_keys: PrimaryKeys,
        secrets: Secrets,
    ) {
        self.secrets = secrets;
        self.assembler = Assembler::new(epoch);
        self.tables.clear();
        self.open = Open::Nothing;
        self.primary_keys = primary_keys;
        // Types may have changed in the meantime; they are asked for again.
        self.reading = Reading { types: Types::default(), origin, ..self.reading };
    }

    /// Takes note of which table the catalogue has under each expected name.
    pub fn knows(&mut self, oids: HashMap<(String, String), u32>) {
        self.oids.extend(oids);
    }

    /// The types that columns have, to put in what the catalogue says.
    pub fn types(&mut self) -> &mut Types {
        &mut self.reading.types
    }

    /// Replaces the keys that messages may be signed with.
    pub fn set_secrets(&mut self, secrets: Secrets) {
        self.secrets = secrets;
    }

    /// The messages that were passed over.
    #[must_use]
    pub fn forged(&self) -> Forged {
        self.forged
    }

    /// Takes one frame, and appends what came out of it to `taken`.
    ///
    /// # Errors
    /// When the stream cannot be read on; nothing of the frame was taken.
    pub fn take(&mut self, frame: Frame<'_>, taken: &mut Vec<Taken>) -> Result<(), IntakeError> {
        let data = match frame {
            Frame::Keepalive { end, .. } => {
                self.ledger.received(end);
                return Ok(());
            }
            Frame::XLogData { data, .. } => data,
        };
        let change = match self.assembler.step(Message::decode(data)?)? {
            Step::Begin { commit_lsn } => {
                self.open = match self.ledger.begin(commit_lsn)? {
                    Begun::Take { id, from } => Open::Taking(id, from),
                    Begun::Skip => Open::Skipped,
                };
                return Ok(());
            }
            Step::Commit { end_lsn, commit_time } => {
                if let Open::Taking(id, _) = std::mem::take(&mut self.open) {
                    self.ledger.end(id, end_lsn, commit_time);
                }
                return Ok(());
            }
            Step::Described { relation } => {
                let renamed = expected_name(relation, &self.rules, &mut self.oids);
                if let Some(as_expected) = &renamed {
                    let name = |r: &Relation| format!("{}.{}", r.schema, r.name);
                    let (expected, found) = (name(as_expected), name(relation));
                    taken.push(Taken::Renamed { expected, found });
                }
                let relation = renamed.as_ref().unwrap_or(relation);
                let described = describe(relation, &self.rules, &self.primary_keys);
                let (oid, unknown) = (relation.oid, unknown_types(relation, &self.reading.types));
                match described {
                    Some(Described::Captured(capture)) => {
                        self.tables.insert(oid, Described::Captured(capture));
                        taken.extend((!unknown.is_empty()).then_some(Taken::Ask(unknown)));
                    }
                    Some(outbox @ Described::Outbox(_)) => {
                        self.tables.insert(oid, outbox);
                    }
                    None => {
                        self.tables.remove(&oid);
                    }
                }
                return Ok(());
            }
            Step::Nothing => return Ok(()),
            change => change,
        };
        let (Some(place), Open::Taking(id, from)) = (change.place(), &self.open) else {
            return Ok(());
        };
        let (id, from) = (*id, *from);
        let ordinal = place.position.ordinal;
        if ordinal < from {
            return Ok(());
        }
        let change = match change {
            Step::Emitted { place, lsn, prefix, content } if prefix.starts_with(OUR_PREFIXES) => {
                let verified = self.secrets.verified(place.xid, lsn, prefix, content);
                let is_known = matches!(prefix, EMIT_PREFIX | REDRIVE_PREFIX);
                match verified {
                    Some(content) if is_known => Step::Emitted { place, lsn, prefix, content },
                    other => {
                        if other.is_none() && is_known {
                            self.forged.count += 1;
                            self.forged.last = Some(place);
                        }
                        let newest = other.filter(|_| prefix == SECRET_PREFIX).and_then(number);
                        let ask = newest.filter(|newest| *newest > self.secrets.newest());
                        taken.extend(ask.map(Taken::AskSecrets));
                        self.ledger.take(id, ordinal, 0);
                        return Ok(());
                    }
                }
            }
            change => change,
        };
        let mut desk = Desk {
            transaction: id,
            place,
            bytes: data.len(),
            routes: &self.routes,
            source: &self.source,
            tables: &self.tables,
            reading: &self.reading,
            recent_ids: &mut self.recent_ids,
        };
        let before = taken.len();
        desk.sort(change, taken);
        self.ledger.take(id, ordinal, taken.len() - before);
        Ok(())
    }
}

/// The description under the name that is expected, for a table that was renamed. A table that
/// has an expected name is the one that is meant from then on, and an older one is not.
fn expected_name(
    relation: &Relation,
    rules: &[TableRule],
    oids: &mut HashMap<(String, String), u32>,
) -> Option<Relation> {
    let of_rule = |r: &TableRule| r.schema == relation.schema && r.name == relation.name;
    if (relation.schema == SCHEMA && relation.name == TABLE) || rules.iter().any(of_rule) {
        oids.insert((relation.schema.clone(), relation.name.clone()), relation.oid);
        return None;
    }
    let ((schema, name), _) = oids.iter().find(|(_, oid)| **oid == relation.oid)?;
    Some(Relation { schema: schema.clone(), name: name.clone(), ..relation.clone() })
}

/// What a table is to the relay, if anything.
fn describe(
    relation: &Relation,
    rules: &[TableRule],
    primary_keys: &PrimaryKeys,
) -> Option<Described> {
    if relation.schema == SCHEMA && relation.name == TABLE {
        return Some(Described::Outbox(Columns::of(relation)));
    }
    let rule = rules.iter().find(|r| r.schema == relation.schema && r.name == relation.name);
    let Some(rule) = rule else {
        tracing::debug!(
            schema = relation.schema,
            table = relation.name,
            "a table is published and no [[table]] names it: its changes are passed over"
        );
        return None;
    };
    let capture = Capture::of(rule, relation, primary_keys);
    if capture.other_key {
        tracing::warn!(
            table = capture.table, key = ?rule.key,
            "expected the configured key among the table's columns, found that one is missing; its primary key is used"
        );
    }
    Some(Described::Captured(Box::new(capture)))
}

/// The id of a key, as `relay.rotate_secret` writes it.
fn number(content: &[u8]) -> Option<u32> {
    std::str::from_utf8(content).ok()?.parse().ok()
}

fn unknown_types(relation: &Relation, types: &Types) -> Vec<u32> {
    let oids = relation.columns.iter().map(|column| column.type_oid);
    oids.filter(|oid| !types.contains(*oid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::tests::{relation, tuple};
    use crate::config::Destinations;
    use crate::secret::Secret;
    use envelope::Position;
    use pgoutput::{ReplicaIdentity, Tuple, encode};
    use proptest::prelude::*;

    fn intake() -> Intake {
        let destinations = Destinations {
            addresses: Vec::new(),
            settings: Vec::new(),
            default: Some(0),
            by_type: [].into(),
        };
        let rule = TableRule {
            schema: "public".to_owned(),
            name: "item".to_owned(),
            aggregate_type: "item".to_owned(),
            key: Vec::new(),
        };
        let mut intake = Intake::new(
            Routes::new(&destinations),
            "test".to_owned(),
            vec![rule],
            Numbers::default(),
        );
        intake.reconnected("7/shop".to_owned(), 9, PrimaryKeys::new(), unsigned());
        intake
    }

    /// Keys beside which messages need no signature.
    fn unsigned() -> Secrets {
        Secrets::new(vec![Secret::new(1, b"", b"", Some(u64::MAX.into()))])
    }

    fn content(id: u128) -> String {
        format!(
            r#"{{"event_id":"{}","recorded_at":"2026-01-15T10:30:00Z","aggregate_type":"order","aggregate_id":"o{id}","event_type":"order.created","event_version":"1.0","data":{{}},"metadata":{{}}}}"#,
            uuid::Uuid::from_u128(id)
        )
    }

    /// The stream of transactions of these sizes, as encoded messages: events, a message for
    /// someone else, and updates that change a row's key, in turns.
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
                if change % 3 == 1 {
                    let (old, new) = (id.to_string(), (id + 1000).to_string());
                    let (old, new) = (tuple(&[Some(&old), None]), tuple(&[Some(&new), Some("x")]));
                    messages.push(encoded(&Message::Relation(item())));
                    messages.push(encoded(&Message::Update {
                        relation: 1,
                        key: Some(Tuple::decode(&old).unwrap()),
                        old: None,
                        new: Tuple::decode(&new).unwrap(),
                    }));
                    continue;
                }
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

    fn item() -> Relation {
        relation("item", ReplicaIdentity::Default, &[("id", true), ("note", false)])
    }

    fn take(intake: &mut Intake, data: &[u8]) -> Vec<(String, Position)> {
        let frame = Frame::XLogData { start: 0.into(), end: 0.into(), clock: 0, data };
        let mut taken = Vec::new();
        intake.take(frame, &mut taken).unwrap();
        let sent = taken.into_iter().map(|taken| match taken {
            Taken::Send(entry) => (entry.event.body, entry.position),
            other => panic!("expected an event to send, found {other:?}"),
        });
        sent.collect()
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
            let expected: Vec<_> = stream.iter().flatten().flat_map(|m| take(&mut whole, m)).collect();

            let mut intake = intake();
            let mut found = Vec::new();
            for cut in cuts.into_iter().map(Some).chain([None]) {
                intake.reconnected("7/shop".to_owned(), 9, PrimaryKeys::new(), unsigned());
                // Nothing was settled, so the server sends all of it again, up to the cut.
                let messages = stream.iter().flatten().take(cut.unwrap_or(usize::MAX));
                found.extend(messages.flat_map(|m| take(&mut intake, m)));
            }
            let ids: std::collections::HashSet<_> = expected.iter().map(|(body, _)| &body[..50]).collect();
            prop_assert_eq!(ids.len(), expected.len(), "each event has its own id");
            prop_assert_eq!(found, expected);
        }
    }
}
