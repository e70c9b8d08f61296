//! Events that are kept in a table with a reason, until an operator decides: dead letters in the
//! source database, parked events in the read model.

use serde::Serialize;
use std::time::SystemTime;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Row};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The server refused it, or did not answer.
    #[error("{cure}")]
    Query {
        /// What to do.
        cure: &'static str,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A row is not as this version writes it.
    #[error(
        "expected {table} as this version of the relay makes it; run `relay init` of this version"
    )]
    Shape {
        /// The table.
        table: &'static str,
        /// What does not fit.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// Which events are meant: those that all of the given filters let through.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Their numbers; empty means any.
    pub ids: Vec<i64>,
    /// The topic or queue of a dead letter, the projection of a parked event.
    pub place: Option<String>,
    /// Their event type.
    pub event_type: Option<String>,
    /// The ordering key of a dead letter, the aggregate's id of a parked event.
    pub key: Option<String>,
    /// Kept at this time or later.
    pub since: Option<SystemTime>,
    /// Kept at this time or earlier.
    pub until: Option<SystemTime>,
}

/// A table of kept events. Each has a number (`id`) and an `event_type`.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub(super) name: &'static str,
    /// The columns of `Filter::key`, `Filter::place` and of when the event was kept.
    pub(super) key: &'static str,
    pub(super) place: &'static str,
    pub(super) since: &'static str,
    /// The columns of a list, and those that one event has more.
    pub(super) columns: &'static str,
    pub(super) more: &'static str,
    /// What to do when the table cannot be used.
    pub(super) cure: &'static str,
}

/// An event of such a table.
pub trait Kept: Serialize + Sized {
    /// Its table.
    const TABLE: Table;

    /// Its number.
    fn id(&self) -> i64;

    /// The event of a row that has the table's columns.
    ///
    /// # Errors
    /// When a column is missing or of another type.
    fn of_row(row: &Row) -> Result<Self, tokio_postgres::Error>;
}

/// The newest of the events that are meant.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The newest last.
    pub events: Vec<T>,
    /// How many older ones there are.
    pub older: u64,
}

/// At most `limit` events, the newest.
///
/// # Errors
/// When the table cannot be read.
pub async fn list<T: Kept>(
    client: &Client,
    filter: &Filter,
    limit: u32,
) -> Result<Listed<T>, AdminError> {
    let Table { name, columns, .. } = T::TABLE;
    let sql = |condition: &str| {
        format!(
            "select id, {columns}, null::text as attributes, null::text as body, null::bytea as content,
               count(*) over () as all_of_them
             from {name} where {condition} order by id desc limit {limit}"
        )
    };
    let mut rows = query(client, T::TABLE, filter, sql).await?;
    rows.reverse();
    let all: i64 = match rows.first() {
        Some(row) => row.try_get("all_of_them").map_err(|source| shape::<T>(source))?,
        None => 0,
    };
    let events = rows.iter().map(T::of_row).collect::<Result<Vec<_>, _>>();
    let events = events.map_err(|source| shape::<T>(source))?;
    let older = u64::try_from(all).unwrap_or(0).saturating_sub(events.len() as u64);
    Ok(Listed { events, older })
}

/// One event with all that is kept of it.
///
/// # Errors
/// When the table cannot be read.
pub async fn get<T: Kept>(client: &Client, id: i64) -> Result<Option<T>, AdminError> {
    let Table { name, columns, more, cure, .. } = T::TABLE;
    let sql = format!("select id, {columns}, {more} from {name} where id = $1");
    let row = client.query_opt(&sql, &[&id]).await;
    let row = row.map_err(|source| AdminError::Query { cure, source })?;
    row.as_ref().map(T::of_row).transpose().map_err(|source| shape::<T>(source))
}

/// The numbers of the events that are meant.
///
/// # Errors
/// When the table cannot be read.
pub async fn ids<T: Kept>(client: &Client, filter: &Filter) -> Result<Vec<i64>, AdminError> {
    let name = T::TABLE.name;
    let sql = |condition: &str| format!("select id from {name} where {condition} order by id");
    let rows = query(client, T::TABLE, filter, sql).await?;
    let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
    ids.map_err(|source| shape::<T>(source))
}

/// Deletes these events; returns how many there were.
///
/// # Errors
/// When the table cannot be written.
pub async fn drop<T: Kept>(client: &Client, ids: &[i64]) -> Result<u64, AdminError> {
    let Table { name, cure, .. } = T::TABLE;
    let sql = format!("delete from {name} where id = any ($1)");
    client.execute(&sql, &[&ids]).await.map_err(|source| AdminError::Query { cure, source })
}

/// Runs a query with the condition of the filter in it.
async fn query(
    client: &Client,
    table: Table,
    filter: &Filter,
    sql: impl FnOnce(&str) -> String,
) -> Result<Vec<Row>, AdminError> {
    let Table { key, place, since: kept_at, cure, .. } = table;
    let condition = format!(
        "(cardinality($1::bigint[]) = 0 or id = any ($1))
         and ($2::text is null or {place} = $2) and ($3::text is null or event_type = $3)
         and ($4::text is null or {key} = $4)
         and ($5::timestamptz is null or {kept_at} >= $5)
         and ($6::timestamptz is null or {kept_at} <= $6)"
    );
    let Filter { ids, place, event_type, key, since, until } = filter;
    let rows = client.query(&sql(&condition), &[ids, place, event_type, key, since, until]).await;
    rows.map_err(|source| AdminError::Query { cure, source })
}

fn shape<T: Kept>(source: tokio_postgres::Error) -> AdminError {
    AdminError::Shape { table: T::TABLE.name, source }
}

/// Bytes as text; those that are no UTF-8 are written `\xff`.
pub(super) fn any_text(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A text of a database whose encoding is not checked: bytes that are no UTF-8 are written `\xff`.
struct AnyText(String);

impl<'a> FromSql<'a> for AnyText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(any_text(raw)))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TEXT | Type::VARCHAR | Type::NAME)
    }
}

/// The text of a column.
pub(super) fn text(row: &Row, column: &str) -> Result<String, tokio_postgres::Error> {
    row.try_get::<_, AnyText>(column).map(|text| text.0)
}

/// The text of a column that may be null.
pub(super) fn some_text(row: &Row, column: &str) -> Result<Option<String>, tokio_postgres::Error> {
    row.try_get::<_, Option<AnyText>>(column).map(|text| text.map(|text| text.0))
}
