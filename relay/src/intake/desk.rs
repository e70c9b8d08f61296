//! Where one change is sorted: into events to send, and those to set aside.

use super::recent_ids::{RecentIds, Seen};
use super::{Described, Taken};
use crate::change::{Change, Reading, events};
use crate::dead_letter::DeadLetter;
use crate::ledger::TransactionId;
use crate::outbox::{Columns, EMIT_PREFIX, OutboxEvent};
use crate::publish::{LARGEST_MESSAGE, Outgoing, Sealed};
use crate::raw_row::write_raw_row;
use crate::redrive::{REDRIVE_PREFIX, Redriven};
use crate::route::Routes;
use crate::seal::seal;
use crate::table::Capture;
use crate::transaction::{Image, Place, Step};
use envelope::{Format, Position};
use pgoutput::{Column, Relation, Tuple};
use std::collections::HashMap;
use uuid::Uuid;

/// Where one change is sorted: into events to send, and those to set aside.
pub(super) struct Desk<'a> {
    pub(super) transaction: TransactionId,
    pub(super) place: Place,
    /// The size of the change as it came.
    pub(super) bytes: usize,
    pub(super) routes: &'a Routes,
    pub(super) source: &'a str,
    pub(super) tables: &'a HashMap<u32, Described>,
    pub(super) reading: &'a Reading,
    pub(super) recent_ids: &'a mut RecentIds,
}

impl Desk<'_> {
    /// Appends what a change is to `taken`.
    pub(super) fn sort(&mut self, change: Step<'_>, taken: &mut Vec<Taken>) {
        match change {
            Step::Emitted { prefix, content, .. } => {
                if prefix == EMIT_PREFIX {
                    taken.push(self.emitted(content));
                } else if prefix == REDRIVE_PREFIX {
                    taken.push(self.redriven(content));
                }
            }
            Step::Inserted { relation, row, .. } => match self.tables.get(&relation.oid) {
                Some(Described::Outbox(columns)) => {
                    taken.push(self.outbox(columns, relation, row));
                }
                Some(Described::Captured(capture)) => {
                    self.table(capture, &relation.columns, Change::Inserted(row), taken);
                }
                None => {}
            },
            Step::Updated { relation, old, row, .. } => {
                if let Some(Described::Captured(capture)) = self.tables.get(&relation.oid) {
                    self.table(capture, &relation.columns, Change::Updated(old, row), taken);
                }
            }
            Step::Deleted { relation, old, .. } => {
                if let Some(Described::Captured(capture)) = self.tables.get(&relation.oid) {
                    self.table(capture, &relation.columns, Change::Deleted(old), taken);
                }
            }
            Step::Truncated { relations, cascade, restart_identity, .. } => {
                for (part, oid) in relations.iter().enumerate() {
                    if let Some(Described::Captured(capture)) = self.tables.get(oid) {
                        let change = Change::Truncated { part, cascade, restart_identity };
                        self.table(capture, &[], change, taken);
                    }
                }
            }
            Step::Begin { .. } | Step::Commit { .. } | Step::Described { .. } | Step::Nothing => {}
        }
    }

    fn outbox(&mut self, columns: &Columns, relation: &Relation, row: Tuple<'_>) -> Taken {
        match columns.read(&row) {
            Ok(event) => self.first_of_its_id(&event, &[]),
            Err(error) => {
                let mut body = Vec::new();
                write_raw_row(&mut body, &relation.columns, row, |_| true);
                let [key, event_type] = columns.key_and_type(&row);
                self.no_event(key, event_type, body, error.to_string())
            }
        }
    }

    fn emitted(&mut self, content: &[u8]) -> Taken {
        match OutboxEvent::emitted(content) {
            Ok(event) => self.first_of_its_id(&event, content),
            Err(error) => {
                self.no_event(String::new(), String::new(), content.to_vec(), error.to_string())
            }
        }
    }

    fn table(
        &self,
        capture: &Capture,
        columns: &[Column],
        change: Change<'_>,
        taken: &mut Vec<Taken>,
    ) {
        // Judged before it is written as JSON, which is seldom shorter by half.
        let largest = self.routes.largest(&capture.aggregate_type);
        let rows = self.bytes <= largest.saturating_mul(2);
        match events(self.reading, capture, self.place, change, rows) {
            Ok(events) if !rows => taken.extend(events.iter().map(|event| {
                self.not_kept(&event.as_outbox(capture), too_large(self.bytes, largest))
            })),
            Ok(events) => {
                taken.extend(events.iter().map(|event| self.route(&event.as_outbox(capture), &[])));
            }
            Err(error) => {
                let reason = format!("a change of the table {}: {error}", capture.table);
                let told = Told::of(capture, columns, change);
                taken.push(self.no_event(told.key, told.event_type, told.body, reason));
            }
        }
    }

    /// An event to its destination. `message` is what it was read from, where no row of it stands
    /// in a table.
    fn route(&self, event: &OutboxEvent<'_>, message: &[u8]) -> Taken {
        let bytes = event.data.len() + event.metadata.len();
        let largest = self.routes.largest(&event.aggregate_type);
        if bytes > largest && !message.is_empty() {
            let reason = format!(
                "expected an event of at most {largest} bytes, found {bytes}; what relay.emit wrote is kept here"
            );
            return self.message_alone(event, message, reason);
        }
        if bytes > largest {
            // Judged before it is copied: the row may be larger than all that may be in flight.
            return self.not_kept(event, too_large(bytes, largest));
        }
        let Some(destination) = self.routes.destination(&event.aggregate_type) else {
            let reason = format!(
                "expected a route for the aggregate type {:?}, found none; set publish.to or add a [[route]]",
                event.aggregate_type
            );
            let sealed = self.seal(event, Format::default());
            return self.without_route(sealed, reason);
        };
        Taken::Send(Outgoing {
            transaction: self.transaction,
            destination,
            position: self.place.position,
            attempts: 0,
            alone: false,
            event: self.seal(event, self.routes.format(destination)),
        })
    }

    /// An event to its destination, unless another one has its id.
    fn first_of_its_id(&mut self, event: &OutboxEvent<'_>, message: &[u8]) -> Taken {
        match self.recent_ids.see(event, self.place.position) {
            Seen::Fine => self.route(event, message),
            Seen::OfAnother(first) => self.second_of_its_id(event, message, first),
        }
    }

    /// An event under the id of another: a broker or a consumer would drop it without a word.
    fn second_of_its_id(&self, event: &OutboxEvent<'_>, message: &[u8], first: Position) -> Taken {
        let reason = format!(
            "expected an event_id of its own, found that of the event at {first}, which says something else; leave event_id to its default, and write the event again"
        );
        if event.data.len() + event.metadata.len() > self.routes.largest(&event.aggregate_type) {
            return match message {
                [] => self.not_kept(event, reason),
                message => self.message_alone(event, message, reason),
            };
        }
        self.without_route(self.seal(event, Format::default()), reason)
    }

    /// An event that nothing says the way of; sealed, so that it can be redriven when there is one.
    fn without_route(&self, sealed: Sealed, reason: String) -> Taken {
        let letter = DeadLetter {
            event_id: Some(sealed.event_id),
            destination: "(none)".to_owned(),
            key: sealed.key,
            event_type: sealed.event_type,
            reason,
            error_code: None,
            attempts: 0,
            position: self.place.position,
            body: sealed.body.into_bytes(),
            attributes: sealed.attributes,
        };
        Taken::SetAside(self.transaction, Box::new(letter))
    }

    /// A dead letter that is to be sent again, to the destination that it was meant for.
    fn redriven(&self, content: &[u8]) -> Taken {
        let letter = match Redriven::read(content) {
            Ok(letter) => letter,
            Err(reason) => {
                let (none, body) = (String::new(), content.to_vec());
                return self.no_event(none.clone(), none, body, reason.to_string());
            }
        };
        let Some(destination) = self.routes.redriven(letter.destination(), letter.aggregate_type())
        else {
            return Taken::SetAside(self.transaction, Box::new(letter.without_way(self.place)));
        };
        Taken::Send(Outgoing {
            transaction: self.transaction,
            destination,
            position: self.place.position,
            attempts: 0,
            alone: false,
            event: letter.seal(),
        })
    }

    fn seal(&self, event: &OutboxEvent<'_>, format: Format) -> Sealed {
        seal(event, self.place.position, self.source, format)
    }

    /// An event that is too large to be kept: its row stands in its own table.
    fn not_kept(&self, event: &OutboxEvent<'_>, reason: String) -> Taken {
        let (key, kind) = (event.ordering_key(), event.event_type.to_string());
        self.letter(Some(event.event_id), key, kind, Vec::new(), reason)
    }

    /// An event that is too large to be sent, and stands in no table: what it was read from is kept.
    fn message_alone(&self, event: &OutboxEvent<'_>, message: &[u8], reason: String) -> Taken {
        let (key, kind) = (event.ordering_key(), event.event_type.to_string());
        self.no_event(key, kind, message.to_vec(), reason)
    }

    /// A row or message that holds no event, kept as it came. Without an id: it cannot be redriven.
    fn no_event(&self, key: String, event_type: String, body: Vec<u8>, reason: String) -> Taken {
        self.letter(None, key, event_type, body, reason)
    }

    fn letter(
        &self,
        event_id: Option<Uuid>,
        key: String,
        event_type: String,
        body: Vec<u8>,
        reason: String,
    ) -> Taken {
        let letter = DeadLetter {
            event_id,
            destination: "(none)".to_owned(),
            key,
            event_type,
            reason,
            error_code: None,
            attempts: 0,
            position: self.place.position,
            body,
            attributes: Vec::new(),
        };
        Taken::SetAside(self.transaction, Box::new(letter))
    }
}

/// What a dead letter tells of a change that makes no event.
struct Told {
    key: String,
    event_type: String,
    /// All that the server sent: `before` and `after`, as far as it sent them.
    body: Vec<u8>,
}

impl Told {
    fn of(capture: &Capture, columns: &[Column], change: Change<'_>) -> Self {
        let (verb, before, after) = match change {
            Change::Inserted(row) => ("created", None, Some(Image::Row(row))),
            Change::Updated(old, row) => ("updated", old, Some(Image::Row(row))),
            Change::Deleted(old) => ("deleted", old, None),
            Change::Truncated { .. } => ("truncated", None, None),
        };
        let mut body = Vec::new();
        for (name, image) in [(&b"{\"before\":"[..], before), (b",\"after\":", after)] {
            body.extend(name);
            match image {
                Some(Image::Row(row)) => {
                    write_raw_row(&mut body, columns, row, |_| true);
                }
                // The others are null here, whatever they were.
                Some(Image::Key(row)) => {
                    write_raw_row(&mut body, columns, row, |column| column.key);
                }
                None => body.extend(b"null"),
            }
        }
        body.push(b'}');
        Self {
            key: capture.told_key(columns, after.or(before)),
            event_type: format!("{}.{verb}", capture.aggregate_type),
            body,
        }
    }
}

fn too_large(bytes: usize, largest: usize) -> String {
    let what = if largest > LARGEST_MESSAGE {
        "claim_check.largest"
    } else {
        "the most that any topic or queue takes"
    };
    format!(
        "expected an event of at most {largest} bytes, {what}, found {bytes}; its body is not kept here: the row is in its own table"
    )
}
