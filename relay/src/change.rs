//! A change of a table to the events it is.
//!
//! Knows: what a row was and is, and how that reads as JSON. Must not know:
//! where an event goes. The same change gives the same events, with the same
//! ids, however often it is read.
//!
//! | change | event | `before` | `after` |
//! |---|---|---|---|
//! | insert | `created` | null | the row |
//! | update | `updated` | null; its old key columns when they changed; the row under replica identity full | the row |
//! | update that changes the ordering key | `deleted` under the old key, then `created` under the new | as above | the row |
//! | delete | `deleted` | its key columns; the row under replica identity full | null |
//! | truncate | `truncated`, one for each table | null | null |

use crate::outbox::OutboxEvent;
use crate::table::{Capture, KeyError};
use crate::transaction::{Image, Place};
use crate::value::{Numbers, Types, ValueError, write_json};
use pgoutput::{Tuple, Value};
use std::borrow::Cow;
use std::fmt::Write as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// The namespace of the ids of table changes: a version 5 UUID of its own.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d2c_5a30_9f6e_5c1b_8e55_2f6a_6f1d_7c11);

/// Seconds from 1970-01-01 to 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// What was done to one table.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A row is new.
    Inserted(Tuple<'a>),
    /// A row is another.
    Updated(Option<Image<'a>>, Tuple<'a>),
    /// A row is gone.
    Deleted(Option<Image<'a>>),
    /// All rows are gone.
    Truncated {
        /// Its place among the tables that were emptied at once.
        part: usize,
        /// Whether tables that refer to it were emptied too.
        cascade: bool,
        /// Whether its sequences began anew.
        restart_identity: bool,
    },
}

/// How a change reads as events, beside the table it is of.
#[derive(Debug)]
pub struct Reading {
    /// The types of columns.
    pub types: Types,
    /// How numbers are written.
    pub numbers: Numbers,
    /// The system identifier and the database, joined by a slash: part of each event's identity.
    pub origin: String,
}

/// A change that makes no event. The reason of a dead letter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Its key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A value cannot be written as JSON.
    #[error("expected a value that can be written as JSON in the column {column}: {source}")]
    Value {
        /// The column.
        column: String,
        /// Why not.
        source: ValueError,
    },
}

/// One event of a change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableEvent {
    /// Its identity.
    pub event_id: Uuid,
    /// `<aggregate type>.created`, and so on.
    pub event_type: String,
    /// The row it is of, in the form of [`Capture`]'s key.
    pub aggregate_id: String,
    /// `before` and `after`.
    pub data: String,
    /// The table, the transaction, and the columns that are left out.
    pub metadata: String,
    /// When its transaction committed, RFC 3339.
    pub timestamp: String,
}

impl TableEvent {
    /// The same, as an outbox would hold it.
    #[must_use]
    pub fn as_outbox<'a>(&'a self, capture: &'a Capture) -> OutboxEvent<'a> {
        OutboxEvent {
            event_id: self.event_id,
            recorded_at: Cow::Borrowed(&self.timestamp),
            aggregate_type: Cow::Borrowed(&capture.aggregate_type),
            aggregate_id: Cow::Borrowed(&self.aggregate_id),
            aggregate_version: None,
            event_type: Cow::Borrowed(&self.event_type),
            event_version: Cow::Borrowed("1.0"),
            tenant_id: None,
            correlation_id: None,
            causation_id: None,
            data: &self.data,
            metadata: &self.metadata,
        }
    }
}

/// The events of a change, one or two; without `rows` they say what happened to which row,
/// and leave out the rows themselves.
///
/// # Errors
/// When its key cannot be read, or a value cannot be written.
pub fn events(
    reading: &Reading,
    capture: &Capture,
    place: Place,
    change: Change<'_>,
    rows: bool,
) -> Result<Vec<TableEvent>, ChangeError> {
    let writer = Writer { reading, capture, place, rows };
    Ok(match change {
        Change::Inserted(row) => {
            let row = Image::Row(row);
            vec![writer.event(0, "created", capture.key(&[row])?, None, Some(row), None)?]
        }
        Change::Deleted(old) => {
            let key = capture.key(old.as_slice())?;
            vec![writer.event(0, "deleted", key, old, None, None)?]
        }
        Change::Updated(old, row) => writer.update(old, Image::Row(row))?,
        Change::Truncated { part, cascade, restart_identity } => {
            vec![writer.truncate(part, cascade, restart_identity)]
        }
    })
}

/// Writes the events of one change.
struct Writer<'a> {
    reading: &'a Reading,
    capture: &'a Capture,
    place: Place,
    rows: bool,
}

impl Writer<'_> {
    fn update(
        &self,
        old: Option<Image<'_>>,
        row: Image<'_>,
    ) -> Result<Vec<TableEvent>, ChangeError> {
        let key = match old {
            Some(old) => self.capture.key(&[row, old])?,
            None => self.capture.key(&[row])?,
        };
        // Where the old key is not told, it has not changed.
        let moved = old.and_then(|old| Some((old, self.capture.key(&[old]).ok()?)));
        match moved.filter(|(_, old_key)| *old_key != key) {
            None => Ok(vec![self.event(0, "updated", key, old, Some(row), old)?]),
            Some((old, old_key)) => Ok(vec![
                self.event(0, "deleted", old_key, Some(old), None, None)?,
                self.event(1, "created", key, None, Some(row), Some(old))?,
            ]),
        }
    }

    /// An event with these images; `fill` has the values that `after` leaves out.
    fn event(
        &self,
        part: usize,
        verb: &str,
        aggregate_id: String,
        before: Option<Image<'_>>,
        after: Option<Image<'_>>,
        fill: Option<Image<'_>>,
    ) -> Result<TableEvent, ChangeError> {
        let mut data = String::from("{\"before\":");
        let mut unchanged = Vec::new();
        self.row(&mut data, before, None, &mut unchanged)?;
        data.push_str(",\"after\":");
        self.row(&mut data, after, fill, &mut unchanged)?;
        data.push('}');
        Ok(self.sealed(part, verb, aggregate_id, data, &unchanged))
    }

    fn truncate(&self, part: usize, cascade: bool, restart_identity: bool) -> TableEvent {
        let data = format!(
            "{{\"before\":null,\"after\":null,\"cascade\":{cascade},\"restart_identity\":{restart_identity}}}"
        );
        self.sealed(part, "truncated", self.capture.table.clone(), data, &[])
    }

    fn sealed(
        &self,
        part: usize,
        verb: &str,
        aggregate_id: String,
        data: String,
        unchanged: &[&str],
    ) -> TableEvent {
        let mut metadata = String::from("{\"table\":");
        envelope::write_text(&mut metadata, &self.capture.table);
        let _ = write!(metadata, ",\"transaction\":{}", self.place.xid);
        for (at, column) in unchanged.iter().enumerate() {
            metadata.push_str(if at == 0 { ",\"unchanged\":[" } else { "," });
            envelope::write_text(&mut metadata, column);
        }
        metadata.push_str(if unchanged.is_empty() { "}" } else { "]}" });
        // One change makes at most a few events, and each its own id.
        let name = format!("{}/{}/{part}", self.reading.origin, self.place.position);
        TableEvent {
            event_id: Uuid::new_v5(&NAMESPACE, name.as_bytes()),
            event_type: format!("{}.{verb}", self.capture.aggregate_type),
            aggregate_id,
            data,
            metadata,
            timestamp: rfc3339(self.place.commit_time),
        }
    }

    /// Appends a row as a JSON object, or null; names what it has to leave out.
    fn row<'c>(
        &'c self,
        out: &mut String,
        image: Option<Image<'_>>,
        fill: Option<Image<'_>>,
        unchanged: &mut Vec<&'c str>,
    ) -> Result<(), ChangeError> {
        let Some(image) = image.filter(|_| self.rows) else {
            out.push_str("null");
            return Ok(());
        };
        let key_only = matches!(image, Image::Key(_));
        let mut known = match fill {
            Some(Image::Row(row)) => Some(row.values()),
            Some(Image::Key(_)) | None => None,
        };
        out.push('{');
        let mut separator = "";
        for (column, value) in self.capture.columns.iter().zip(image.tuple().values()) {
            let known = known.as_mut().and_then(Iterator::next);
            if key_only && !column.identity {
                continue;
            }
            let value = match known {
                Some(known) if value == Value::UnchangedToast => known,
                _ => value,
            };
            if value == Value::UnchangedToast {
                unchanged.push(&column.name);
                continue;
            }
            out.push_str(separator);
            separator = ",";
            out.push_str(&column.member);
            write_json(out, value, column.type_oid, &self.reading.types, self.reading.numbers)
                .map_err(|source| ChangeError::Value { column: column.name.clone(), source })?;
        }
        out.push('}');
        Ok(())
    }
}

/// Microseconds since 2000-01-01 as RFC 3339, with all of its six digits.
fn rfc3339(micros: i64) -> String {
    let nanos = (i128::from(micros) + i128::from(POSTGRES_EPOCH) * 1_000_000) * 1000;
    let time =
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::table::{PrimaryKeys, TableRule};
    use envelope::Position;
    use pgoutput::{Column, Relation, ReplicaIdentity};

    pub(crate) fn relation(
        name: &str,
        identity: ReplicaIdentity,
        columns: &[(&str, bool)],
    ) -> Relation {
        let column = |(name, key): &(&str, bool)| Column {
            key: *key,
            name: (*name).to_owned(),
            type_oid: 25,
            type_modifier: -1,
        };
        Relation {
            oid: 1,
            schema: "public".to_owned(),
            name: name.to_owned(),
            identity,
            columns: columns.iter().map(column).collect(),
        }
    }

    /// A tuple of texts and nulls; the text `toast` stands for one that was not sent.
    pub(crate) fn tuple(values: &[Option<&str>]) -> Vec<u8> {
        let mut out = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match value {
                None => out.push(b'n'),
                Some("toast") => out.push(b'u'),
                Some(text) => {
                    out.push(b't');
                    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
        out
    }

    /// The events of a change as (type, key, data, metadata).
    fn read(
        identity: ReplicaIdentity,
        change: Change<'_>,
    ) -> Vec<(String, String, String, String)> {
        let flags = identity == ReplicaIdentity::Full;
        let table = relation("item", identity, &[("id", true), ("note", flags), ("n", flags)]);
        let rule = TableRule {
            schema: "public".to_owned(),
            name: "item".to_owned(),
            aggregate_type: "item".to_owned(),
            key: vec!["id".to_owned()],
        };
        let capture = Capture::of(&rule, &table, &PrimaryKeys::new());
        let reading = Reading {
            types: Types::default(),
            numbers: Numbers::default(),
            origin: "7/shop".to_owned(),
        };
        let place = Place {
            position: Position { epoch: 3, commit_lsn: 9, ordinal: 2 },
            commit_time: 0,
            xid: 5,
        };
        let events = events(&reading, &capture, place, change, true).unwrap();
        let again = super::events(&reading, &capture, place, change, true).unwrap();
        assert_eq!(events, again);
        if let [first, second] = events.as_slice() {
            assert_ne!(first.event_id, second.event_id);
        }
        assert!(events.iter().all(|e| e.timestamp == "2000-01-01T00:00:00Z"));
        let text = |e: TableEvent| (e.event_type, e.aggregate_id, e.data, e.metadata);
        events.into_iter().map(text).collect()
    }

    const PLAIN: &str = r#"{"table":"public.item","transaction":5}"#;

    fn event(kind: &str, key: &str, data: &str) -> (String, String, String, String) {
        (kind.to_owned(), key.to_owned(), data.to_owned(), PLAIN.to_owned())
    }

    #[test]
    fn identity_default_tells_the_row_as_it_is_and_the_key_as_it_was() {
        let row = tuple(&[Some("1"), Some("a"), None]);
        let row = Tuple::decode(&row).unwrap();
        let key = tuple(&[Some("1"), None, None]);
        let key = Image::Key(Tuple::decode(&key).unwrap());
        let after = r#"{"id":"1","note":"a","n":null}"#;
        assert_eq!(
            read(ReplicaIdentity::Default, Change::Inserted(row)),
            [event("item.created", "1", &format!(r#"{{"before":null,"after":{after}}}"#))]
        );
        assert_eq!(
            read(ReplicaIdentity::Default, Change::Updated(None, row)),
            [event("item.updated", "1", &format!(r#"{{"before":null,"after":{after}}}"#))]
        );
        assert_eq!(
            read(ReplicaIdentity::Default, Change::Deleted(Some(key))),
            [event("item.deleted", "1", r#"{"before":{"id":"1"},"after":null}"#)]
        );
    }

    #[test]
    fn identity_full_tells_both_rows_and_fills_in_what_toast_leaves_out() {
        let old = tuple(&[Some("1"), Some("long"), Some("1")]);
        let old = Image::Row(Tuple::decode(&old).unwrap());
        let new = tuple(&[Some("1"), Some("toast"), Some("2")]);
        let new = Tuple::decode(&new).unwrap();
        assert_eq!(
            read(ReplicaIdentity::Full, Change::Updated(Some(old), new)),
            [event(
                "item.updated",
                "1",
                r#"{"before":{"id":"1","note":"long","n":"1"},"after":{"id":"1","note":"long","n":"2"}}"#
            )]
        );
    }

    #[test]
    fn an_unchanged_toast_column_is_left_out_and_named_never_null() {
        let new = tuple(&[Some("1"), Some("toast"), Some("2")]);
        let found =
            read(ReplicaIdentity::Default, Change::Updated(None, Tuple::decode(&new).unwrap()));
        assert_eq!(found[0].2, r#"{"before":null,"after":{"id":"1","n":"2"}}"#);
        assert_eq!(found[0].3, r#"{"table":"public.item","transaction":5,"unchanged":["note"]}"#);
    }

    #[test]
    fn a_changed_key_is_a_deletion_of_the_old_and_a_creation_of_the_new() {
        let key = tuple(&[Some("1"), None, None]);
        let key = Image::Key(Tuple::decode(&key).unwrap());
        let new = tuple(&[Some("2"), Some("a"), Some("3")]);
        assert_eq!(
            read(
                ReplicaIdentity::Default,
                Change::Updated(Some(key), Tuple::decode(&new).unwrap())
            ),
            [
                event("item.deleted", "1", r#"{"before":{"id":"1"},"after":null}"#),
                event(
                    "item.created",
                    "2",
                    r#"{"before":null,"after":{"id":"2","note":"a","n":"3"}}"#
                ),
            ]
        );
    }

    #[test]
    fn a_truncation_is_an_event_of_each_table() {
        let change = Change::Truncated { part: 1, cascade: true, restart_identity: false };
        assert_eq!(
            read(ReplicaIdentity::Default, change),
            [event(
                "item.truncated",
                "public.item",
                r#"{"before":null,"after":null,"cascade":true,"restart_identity":false}"#
            )]
        );
    }
}
