//! Parked events: what projections refused.

use super::kept::{AdminError, Kept, Table, some_text, text};
use serde::Serialize;
use tokio_postgres::{Client, Row};

/// A row of `relay.parked`. The names of the fields are those of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Parked {
    /// Its number.
    pub id: i64,
    /// When it was parked, in RFC 3339.
    pub parked_at: String,
    /// The projection that refused it.
    pub projection: String,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// The aggregate's type.
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// Why it was refused.
    pub reason: String,
    /// How often it was replayed and refused again.
    pub replays: i32,
    /// Whether its replay was asked for and has not been tried yet.
    pub replay_requested: bool,
    /// The message as it came; not in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Kept for Parked {
    const TABLE: Table = Table {
        name: "relay.parked",
        key: "aggregate_id",
        place: "projection",
        since: "parked_at",
        columns: "to_char(parked_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
              as parked_at, projection, event_id::text, event_type, aggregate_type,
            aggregate_id, reason, replays, replay_requested_at is not null as replay_requested",
        more: "body",
        cure: "relay.parked cannot be used; run `relay init --read-model` of this version, or grant what is missing",
    };

    fn id(&self) -> i64 {
        self.id
    }

    fn of_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            parked_at: text(row, "parked_at")?,
            projection: text(row, "projection")?,
            event_id: text(row, "event_id")?,
            event_type: text(row, "event_type")?,
            aggregate_type: text(row, "aggregate_type")?,
            aggregate_id: text(row, "aggregate_id")?,
            reason: text(row, "reason")?,
            replays: row.try_get("replays")?,
            replay_requested: row.try_get("replay_requested")?,
            body: some_text(row, "body")?,
        })
    }
}

/// Asks the projections to handle these events again; returns how many were there.
///
/// # Errors
/// When the server refuses.
pub async fn replay(client: &Client, ids: &[i64]) -> Result<u64, AdminError> {
    let cure = Parked::TABLE.cure;
    let row = client.query_one("select relay.replay_parked($1)", &[&ids]).await;
    let row = row.map_err(|source| AdminError::Query { cure, source })?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}
