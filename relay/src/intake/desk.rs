//! Where one change is sorted: into events to send, and those to set aside.

use super::recent_ids::{RecentIds, Seen};
use super::{Described, Taken};
use crate::change::{Change, Reading, events};
use crate::dead_letter::DeadLetter;
use crate::ledger::TransactionId;
use crate::outbox::{EMIT_PREFIX, OutboxError, OutboxEvent};
use crate::publish::{LARGEST_MESSAGE, Outgoing, Sealed};
use crate::redrive::{REDRIVE_PREFIX, Redriven};
use crate::route::Routes;
use crate::seal::seal;
use crate::table::Capture;
use crate::transaction::{Place, Step};
use envelope::{Format, Position};
use std::collections::HashMap;

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
                    taken.push(self.outbox(OutboxEvent::emitted(content)));
                } else if prefix == REDRIVE_PREFIX {
                    taken.push(self.redriven(content));
                }
            }
            Step::Inserted { relation, row, .. } => match self.tables.get(&relation.oid) {
                Some(Described::Outbox(columns)) => taken.push(self.outbox(columns.read(&row))),
                Some(Described::Captured(capture)) => {
                    self.table(capture, Change::Inserted(row), taken);
                }
                None => {}
            },
            Step::Updated { relation, old, row, .. } => {
                if let Some(Described::Captured(capture)) = self.tables.get(&relation.oid) {
                    self.table(capture, Change::Updated(old, row), taken);
                }
            }
            Step::Deleted { relation, old, .. } => {
                if let Some(Described::Captured(capture)) = self.tables.get(&relation.oid) {
                    self.table(capture, Change::Deleted(old), taken);
                }
            }
            Step::Truncated { relations, cascade, restart_identity, .. } => {
                for (part, oid) in relations.iter().enumerate() {
                    if let Some(Described::Captured(capture)) = self.tables.get(oid) {
                        let change = Change::Truncated { part, cascade, restart_identity };
                        self.table(capture, change, taken);
                    }
                }
            }
            Step::Begin { .. } | Step::Commit { .. } | Step::Described { .. } | Step::Nothing => {}
        }
    }

    fn outbox(&mut self, event: Result<OutboxEvent<'_>, OutboxError>) -> Taken {
        match event {
            Ok(event) => match self.recent_ids.see(&event, self.place.position) {
                Seen::Fine => self.route(&event),
                Seen::OfAnother(first) => self.second_of_its_id(&event, first),
            },
            Err(error) => self.set_aside(None, String::new(), error.to_string()),
        }
    }

    fn table(&self, capture: &Capture, change: Change<'_>, taken: &mut Vec<Taken>) {
        // Judged before it is written as JSON, which is seldom shorter by half.
        let largest = self.routes.largest(&capture.aggregate_type);
        let rows = self.bytes <= largest.saturating_mul(2);
        match events(self.reading, capture, self.place, change, rows) {
            Ok(events) if !rows => taken.extend(events.iter().map(|event| {
                self.set_aside(
                    Some(&event.as_outbox(capture)),
                    String::new(),
                    too_large(self.bytes, largest),
                )
            })),
            Ok(events) => {
                taken.extend(events.iter().map(|event| self.route(&event.as_outbox(capture))));
            }
            Err(error) => {
                let reason = format!("a change of the table {}: {error}", capture.table);
                taken.push(self.set_aside(None, String::new(), reason));
            }
        }
    }

    /// An event to its destination.
    fn route(&self, event: &OutboxEvent<'_>) -> Taken {
        let bytes = event.data.len() + event.metadata.len();
        let largest = self.routes.largest(&event.aggregate_type);
        if bytes > largest {
            // Judged before it is copied: the row may be larger than all that may be in flight.
            return self.set_aside(Some(event), String::new(), too_large(bytes, largest));
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

    /// An event under the id of another: a broker or a consumer would drop it without a word.
    fn second_of_its_id(&self, event: &OutboxEvent<'_>, first: Position) -> Taken {
        let reason = format!(
            "expected an event_id of its own, found that of the event at {first}, which says something else; leave event_id to its default, and write the event again"
        );
        if event.data.len() + event.metadata.len() > self.routes.largest(&event.aggregate_type) {
            return self.set_aside(Some(event), String::new(), reason);
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
            body: sealed.body,
            attributes: sealed.attributes,
        };
        Taken::SetAside(self.transaction, Box::new(letter))
    }

    /// A dead letter that is to be sent again, to the destination that it was meant for.
    fn redriven(&self, content: &[u8]) -> Taken {
        let letter = match Redriven::read(content) {
            Ok(letter) => letter,
            Err(reason) => {
                let body = String::from_utf8_lossy(content).into_owned();
                return self.set_aside(None, body, reason.to_string());
            }
        };
        let Some(destination) = self.routes.redriven(&letter.destination, letter.aggregate_type())
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

    fn set_aside(&self, event: Option<&OutboxEvent<'_>>, body: String, reason: String) -> Taken {
        let letter = DeadLetter {
            event_id: event.map(|e| e.event_id),
            destination: "(none)".to_owned(),
            key: event.map(OutboxEvent::ordering_key).unwrap_or_default(),
            event_type: event.map(|e| e.event_type.clone().into_owned()).unwrap_or_default(),
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
