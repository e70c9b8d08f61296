//! An outbox row, or an emitted message, to the event it holds.
//!
//! Knows: the columns of `relay.outbox` and the JSON of `relay.emit`. Must not
//! know: where the event goes. Borrows everything from the buffer.

use crate::bounds;
use pgoutput::{Relation, Tuple, Value};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use uuid::Uuid;

/// The schema of the outbox table.
pub const SCHEMA: &str = "relay";

/// The name of the outbox table.
pub const TABLE: &str = "outbox";

/// The prefix under which `relay.emit` writes its messages.
pub const EMIT_PREFIX: &str = "relay.event";

/// An event as its author wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxEvent<'a> {
    /// Its identity.
    pub event_id: Uuid,
    /// When its transaction began, RFC 3339.
    pub recorded_at: Cow<'a, str>,
    /// The kind of thing it happened to.
    pub aggregate_type: Cow<'a, str>,
    /// Which one.
    pub aggregate_id: Cow<'a, str>,
    /// The aggregate's version after it.
    pub aggregate_version: Option<i64>,
    /// What happened.
    pub event_type: Cow<'a, str>,
    /// The version of the shape of `data`.
    pub event_version: Cow<'a, str>,
    /// Whose event it is.
    pub tenant_id: Option<Cow<'a, str>>,
    /// The business operation that it is part of.
    pub correlation_id: Option<Cow<'a, str>>,
    /// What caused it.
    pub causation_id: Option<Cow<'a, str>>,
    /// The payload, raw JSON.
    pub data: &'a str,
    /// A raw JSON object.
    pub metadata: &'a str,
}

/// Why a row holds no event. The reason of a dead letter.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OutboxError {
    /// A column that must have a value has none.
    #[error("expected a value in {column}, found null")]
    Null {
        /// The column.
        column: &'static str,
    },
    /// The row was written while the table had no such column, or the publication left it out.
    #[error(
        "expected the column {column} of relay.outbox, found none of that name when the row was written; a table that is not up to date needs `relay init`, a publication with a column list needs `relay check`"
    )]
    Missing {
        /// The column.
        column: &'static str,
    },
    /// A value is of another kind than it must be.
    #[error("expected {column} to be {expected}")]
    Value {
        /// The column.
        column: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A message under our prefix that `relay.emit` did not write.
    #[error("expected a message written by relay.emit, found another under its prefix: {reason}")]
    Emitted {
        /// What is wrong with it.
        reason: String,
    },
}

/// The columns that an event is made of.
pub(crate) const COLUMNS: [&str; 12] = [
    "event_id",
    "recorded_at",
    "aggregate_type",
    "aggregate_id",
    "aggregate_version",
    "event_type",
    "event_version",
    "tenant_id",
    "correlation_id",
    "causation_id",
    "data",
    "metadata",
];

/// The columns of `COLUMNS` that may be null, and so may be missing.
const NULLABLE: [&str; 4] = ["aggregate_version", "tenant_id", "correlation_id", "causation_id"];

/// Which column of a relation is which, found once for each description of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Columns {
    /// For each column of the relation its place in `COLUMNS`.
    roles: Vec<Option<usize>>,
    /// The first column that must have a value and is not there.
    missing: Option<&'static str>,
}

impl Columns {
    /// Finds the outbox's columns in a relation.
    ///
    /// The log describes the table as it was when a row was written, so a column may be missing:
    /// one that may be null reads as null then.
    #[must_use]
    pub fn of(relation: &Relation) -> Self {
        let is_there = |name: &&str| relation.columns.iter().any(|c| c.name == **name);
        let missing = COLUMNS.iter().find(|name| !is_there(name) && !NULLABLE.contains(name));
        let role = |c: &pgoutput::Column| COLUMNS.iter().position(|name| *name == c.name);
        Self { roles: relation.columns.iter().map(role).collect(), missing: missing.copied() }
    }

    /// The ordering key and the event type of a row that holds no event, as far as they can be
    /// read. The key is empty where the row has no `aggregate_id`.
    #[must_use]
    pub fn key_and_type(&self, row: &Tuple<'_>) -> [String; 2] {
        let names = ["tenant_id", "aggregate_type", "aggregate_id", "event_type"];
        let [tenant, kind, id, event_type] = names.map(|name| {
            let mut values = self.roles.iter().zip(row.values());
            let value = values.find(|(role, _)| role.is_some_and(|role| COLUMNS[role] == name));
            match value {
                Some((_, Value::Text(bytes))) => String::from_utf8_lossy(bytes).into_owned(),
                _ => String::new(),
            }
        });
        let tenant = (!tenant.is_empty()).then_some(tenant.as_str());
        let key = if id.is_empty() { id } else { envelope::ordering_key(tenant, &kind, &id) };
        [key, event_type]
    }

    /// Reads the event of a row.
    ///
    /// # Errors
    /// When a value is missing, null or not what it must be.
    pub fn read<'a>(&self, row: &Tuple<'a>) -> Result<OutboxEvent<'a>, OutboxError> {
        if let Some(column) = self.missing {
            return Err(OutboxError::Missing { column });
        }
        let mut texts: [Option<&'a str>; COLUMNS.len()] = [None; COLUMNS.len()];
        for (role, value) in self.roles.iter().zip(row.values()) {
            if let (Some(role), Value::Text(bytes)) = (role, value) {
                let utf8 = std::str::from_utf8(bytes);
                texts[*role] = Some(utf8.map_err(|_| OutboxError::Value {
                    column: COLUMNS[*role],
                    expected: "UTF-8 text",
                })?);
            }
        }
        let there = |at: usize| texts[at].ok_or(OutboxError::Null { column: COLUMNS[at] });
        let event = OutboxEvent {
            event_id: uuid(there(0)?)?,
            recorded_at: rfc3339(there(1)?).into(),
            aggregate_type: there(2)?.into(),
            aggregate_id: there(3)?.into(),
            aggregate_version: texts[4].map(version).transpose()?,
            event_type: there(5)?.into(),
            event_version: there(6)?.into(),
            tenant_id: texts[7].map(Cow::Borrowed),
            correlation_id: texts[8].map(Cow::Borrowed),
            causation_id: texts[9].map(Cow::Borrowed),
            data: there(10)?,
            metadata: there(11)?,
        };
        event.check()
    }
}

/// What `relay.emit` writes.
#[derive(Deserialize)]
struct Emitted<'a> {
    event_id: Uuid,
    #[serde(borrow)]
    recorded_at: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
    aggregate_version: Option<i64>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    event_version: Cow<'a, str>,
    #[serde(borrow)]
    tenant_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    causation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
}

impl<'a> OutboxEvent<'a> {
    /// Reads the event of a message that `relay.emit` wrote.
    ///
    /// # Errors
    /// When something else wrote it, or a value is not what it must be.
    pub fn emitted(content: &'a [u8]) -> Result<Self, OutboxError> {
        let text = std::str::from_utf8(content)
            .map_err(|_| OutboxError::Emitted { reason: "it is not UTF-8".to_owned() })?;
        let event: Emitted<'a> = serde_json::from_str(text)
            // Only the kind and the place: serde's own words can quote the payload.
            .map_err(|e| OutboxError::Emitted {
                reason: format!("{:?} at column {}", e.classify(), e.column()),
            })?;
        Self {
            event_id: event.event_id,
            recorded_at: event.recorded_at,
            aggregate_type: event.aggregate_type,
            aggregate_id: event.aggregate_id,
            aggregate_version: event.aggregate_version,
            event_type: event.event_type,
            event_version: event.event_version,
            tenant_id: event.tenant_id,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            data: event.data.get(),
            metadata: event.metadata.get(),
        }
        .check()
    }

    /// The key that it is kept in order by: tenant, type and id of its aggregate.
    #[must_use]
    pub fn ordering_key(&self) -> String {
        envelope::ordering_key(self.tenant_id.as_deref(), &self.aggregate_type, &self.aggregate_id)
    }

    /// Whose event it is: the column says so, and where it is empty the top level of the metadata,
    /// which consumers read it from. Attribute, body and ordering key then agree.
    fn with_tenant(self) -> Self {
        let tenant_id = self.tenant_id.filter(|tenant| !tenant.is_empty());
        Self { tenant_id: tenant_id.or_else(|| envelope::tenant_of(self.metadata)), ..self }
    }

    /// What the table's constraints say, for rows that got around them.
    fn check(self) -> Result<Self, OutboxError> {
        let this = self.with_tenant();
        let refused = |column, expected| Err(OutboxError::Value { column, expected });
        if !(1..=bounds::KEY).contains(&this.aggregate_id.len()) {
            return refused("aggregate_id", "a key of 1 to 1024 bytes");
        }
        if !bounds::is_name(&this.event_type) {
            return refused(
                "event_type",
                "a name of 1 to 255 bytes without spaces, such as order.created",
            );
        }
        if !bounds::is_name(&this.aggregate_type) {
            return refused(
                "aggregate_type",
                "a name of 1 to 255 bytes without spaces, such as order",
            );
        }
        if this.tenant_id.as_ref().is_some_and(|tenant| !bounds::fits(tenant, bounds::TENANT)) {
            return refused("tenant_id", "at most 128 bytes, or null");
        }
        if this.event_version.is_empty() || !bounds::fits(&this.event_version, bounds::VERSION) {
            return refused("event_version", "a version of 1 to 255 bytes, such as 1.0");
        }
        let references =
            [("correlation_id", &this.correlation_id), ("causation_id", &this.causation_id)];
        for (column, reference) in references {
            if reference.as_ref().is_some_and(|text| !bounds::fits(text, bounds::REFERENCE)) {
                return refused(column, "at most 1024 bytes, or null");
            }
        }
        if !bounds::fits(this.metadata, bounds::METADATA) {
            return refused("metadata", "a JSON object of at most 65536 bytes");
        }
        if !bounds::is_time(&this.recorded_at) {
            return refused("recorded_at", "a time from 0001-01-02 to 9999-12-30 in UTC");
        }
        if !this.metadata.trim_ascii_start().starts_with('{') {
            return refused("metadata", "a JSON object");
        }
        Ok(this)
    }
}

fn uuid(text: &str) -> Result<Uuid, OutboxError> {
    Uuid::try_parse(text).map_err(|_| OutboxError::Value { column: "event_id", expected: "a UUID" })
}

fn version(text: &str) -> Result<i64, OutboxError> {
    text.parse()
        .map_err(|_| OutboxError::Value { column: "aggregate_version", expected: "a whole number" })
}

/// Postgres's `2026-01-15 10:30:00.123+00` (ISO, UTC) as RFC 3339.
fn rfc3339(text: &str) -> String {
    let mut rfc = text.strip_suffix("+00").unwrap_or(text).replacen(' ', "T", 1);
    rfc.push('Z');
    rfc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_become_rfc_3339() {
        assert_eq!(rfc3339("2026-01-15 10:30:00.123456+00"), "2026-01-15T10:30:00.123456Z");
        assert_eq!(rfc3339("2026-01-15 10:30:00+00"), "2026-01-15T10:30:00Z");
    }

    #[test]
    fn an_emitted_event_reads_with_its_payload_untouched() {
        let content = br#"{"event_id":"01930000-0000-7000-8000-000000000001","recorded_at":"2026-01-15T10:30:00Z","aggregate_type":"order","aggregate_id":"a\"b","aggregate_version":null,"event_type":"order.created","event_version":"1.0","tenant_id":null,"correlation_id":"c","causation_id":null,"data":{"x": 1e999, "y":"\ud800"},"metadata":{}}"#;
        let event = OutboxEvent::emitted(content).unwrap();
        assert_eq!(event.aggregate_id, "a\"b");
        assert_eq!(event.data, r#"{"x": 1e999, "y":"\ud800"}"#);
    }

    #[test]
    fn the_tenant_is_the_columns_or_else_that_of_the_metadatas_top_level() {
        let tenant = |column: &str, metadata: &str| {
            let content = format!(
                r#"{{"event_id":"01930000-0000-7000-8000-000000000001","recorded_at":"2026-01-15T10:30:00Z","aggregate_type":"order","aggregate_id":"1/2","event_type":"order.created","event_version":"1.0","tenant_id":{column},"data":1,"metadata":{metadata}}}"#
            );
            let event = OutboxEvent::emitted(content.as_bytes()).unwrap();
            (event.tenant_id.as_deref().map(str::to_owned), event.ordering_key())
        };
        let acme = || (Some("acme".to_owned()), "acme/order/1%2F2".to_owned());
        let none = || (None, "/order/1%2F2".to_owned());
        assert_eq!(tenant("\"acme\"", "{}"), acme());
        assert_eq!(tenant("\"acme\"", r#"{"tenant_id":"other"}"#), acme());
        assert_eq!(tenant("\"\"", r#"{"tenant\u005fid":"acme"}"#), acme());
        assert_eq!(tenant("null", r#"{"tenant_id":"acme"}"#), acme());
        assert_eq!(tenant("null", r#"{"actor":{"tenant_id":"acme"}}"#), none());
        assert_eq!(tenant("\"\"", r#"{"tenant_id":""}"#), none());
    }

    #[test]
    fn a_foreign_message_is_refused_without_quoting_it() {
        let error = OutboxEvent::emitted(b"{\"event_id\":\"my secret\"}").unwrap_err().to_string();
        assert!(error.contains("relay.emit") && !error.contains("my secret"), "{error}");
    }
}
