//! Dead letters: events that could not be sent.

use super::kept::{AdminError, Kept, Table, any_text, some_text, text};
use serde::Serialize;
use tokio_postgres::{Client, Row};

/// A row of `relay.dead_letter`. The names of the fields are those of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// When it was kept, in RFC 3339.
    pub failed_at: String,
    /// The event's id; `None` where no event could be read.
    pub event_id: Option<String>,
    /// The event's type.
    pub event_type: String,
    /// The ordering key.
    pub key: String,
    /// The topic or queue that it was for.
    pub destination: String,
    /// The broker's code, where the broker refused it.
    pub error_code: Option<String>,
    /// How often it was sent.
    pub attempts: i32,
    /// Its place in the write-ahead log.
    pub position: String,
    /// Why it cannot be sent.
    pub reason: String,
    /// Whether there is an event to send again.
    pub can_be_redriven: bool,
    /// The message attributes, a JSON object; not in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<String>,
    /// The body as it would have been sent; not in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Kept for DeadLetter {
    const TABLE: Table = Table {
        name: "relay.dead_letter",
        key: "key",
        place: "destination",
        since: "first_failed_at",
        columns: "to_char(first_failed_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
              as failed_at, event_id::text, event_type, key, destination, error_code, attempts,
            position, reason, event_id is not null and body <> '' as can_be_redriven",
        more: "attributes::text, body, content",
        cure: "relay.dead_letter cannot be used; run `relay init` of this version, or grant what is missing",
    };

    fn id(&self) -> i64 {
        self.id
    }

    fn of_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            failed_at: text(row, "failed_at")?,
            event_id: some_text(row, "event_id")?,
            event_type: text(row, "event_type")?,
            key: text(row, "key")?,
            destination: text(row, "destination")?,
            error_code: some_text(row, "error_code")?,
            attempts: row.try_get("attempts")?,
            position: text(row, "position")?,
            reason: text(row, "reason")?,
            can_be_redriven: row.try_get("can_be_redriven")?,
            attributes: some_text(row, "attributes")?,
            body: readable(row)?,
        })
    }
}

/// The body as it was, where `content` has its bytes and `body` holds them escaped.
fn readable(row: &Row) -> Result<Option<String>, tokio_postgres::Error> {
    match row.try_get::<_, Option<&[u8]>>("content")? {
        Some(content) => Ok(Some(any_text(content))),
        None => some_text(row, "body"),
    }
}

/// How many letters go in one transaction.
const AT_ONCE: usize = 1000;

/// Puts letters back into the log, for the running relay to send; returns how many could be.
/// `progress` is told how many are through after each transaction.
///
/// # Errors
/// When the server refuses; letters of transactions before that are through.
pub async fn redrive(
    client: &Client,
    ids: &[i64],
    mut progress: impl FnMut(usize),
) -> Result<usize, AdminError> {
    let cure = DeadLetter::TABLE.cure;
    let mut redriven = 0;
    for letters in ids.chunks(AT_ONCE) {
        let row = client.query_one("select relay.redrive($1)", &[&letters]).await;
        let row = row.map_err(|source| AdminError::Query { cure, source })?;
        redriven += usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        progress(redriven);
    }
    Ok(redriven)
}
