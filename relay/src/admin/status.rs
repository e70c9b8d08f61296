//! Whether events flow, and if not, why and what to do.

use super::AdminError;
use crate::slot::{SlotState, Trouble, alive};
use serde::Serialize;
use tokio_postgres::Client;

/// What is known of a relay from its database. The names of the fields are those of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether nothing is to be done.
    pub well: bool,
    /// One sentence: events flow, or why not and the cure.
    pub says: String,
    /// The slot's state; `None` where there is no slot of that name.
    pub slot: Option<Slot>,
    /// Rows of `relay.dead_letter`.
    pub dead_letters: Option<i64>,
    /// What the running relay wrote to `relay.condition`, the worst first.
    pub conditions: Vec<Written>,
}

/// The state of the slot, as far as the server and the role's rights tell.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The process that reads from it, with its application name.
    pub reader: Option<String>,
    /// The reader's state, such as `streaming`; `None` where the role may not see it.
    pub reader_state: Option<String>,
    /// Since when no one reads from it, where the server knows.
    pub inactive_since: Option<String>,
    /// The confirmed position.
    pub confirmed: Option<String>,
    /// Bytes of log behind the confirmed position.
    pub behind_bytes: Option<u64>,
    /// Bytes of log that the server keeps for it.
    pub retained_bytes: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes that can be written before it is in danger; `None` without a limit.
    pub safe_wal_bytes: Option<i64>,
    /// Why it can no longer be used.
    pub invalidation_reason: Option<String>,
    /// Whether standbys keep a copy.
    pub failover: Option<bool>,
}

/// A row of `relay.condition`, which the running relay wrote.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// What it is about.
    pub kind: String,
    /// Which one; empty where there is one only.
    pub subject: String,
    /// `losing`, `blocked`, `at-risk`, `partial` or `notice`.
    pub severity: String,
    /// When it began, in RFC 3339.
    pub since: String,
    /// What was expected and found.
    pub found: String,
    /// What to do.
    pub cure: String,
}

impl Status {
    /// Asks the database.
    ///
    /// # Errors
    /// When it does not answer, or the role may not read what it must.
    pub async fn read(client: &Client, name: &str) -> Result<Self, AdminError> {
        let slot = SlotState::read(client, name).await.map_err(|source| AdminError::Query {
            cure: "the server does not tell the state of the slot",
            source,
        })?;
        let Some(slot) = slot else {
            return Ok(Self {
                well: false,
                says: format!(
                    "Nothing flows: there is no slot {name}. Run `relay init`, or set RELAY_SLOT to the slot that is there."
                ),
                slot: None,
                dead_letters: None,
                conditions: Vec::new(),
            });
        };
        let dead_letters = dead_letters(client).await?;
        let conditions = Written::read(client, name).await?;
        let still = alive::stands_still(client, name).await.map_err(|source| {
            AdminError::Query { cure: "the server does not tell its sessions", source }
        })?;
        let (well, says) = match still.filter(|_| slot.reader.is_some()) {
            Some(still) => (false, format!("Nothing flows: {still}.")),
            None => verdict(&slot, name, dead_letters, &conditions),
        };
        let slot = Some(Slot::of(slot, name));
        Ok(Self { well, says, slot, dead_letters: Some(dead_letters), conditions })
    }
}

impl Slot {
    fn of(state: SlotState, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            reader: state.reader,
            reader_state: state.reader_state,
            inactive_since: state.inactive_since,
            confirmed: state.confirmed_flush_lsn,
            behind_bytes: state.behind,
            retained_bytes: state.retained,
            wal_status: state.wal_status,
            safe_wal_bytes: state.safe_wal_size,
            invalidation_reason: state.invalidation_reason,
            failover: state.failover,
        }
    }
}

async fn dead_letters(client: &Client) -> Result<i64, AdminError> {
    let row = client.query_one("select count(*) from relay.dead_letter", &[]).await;
    let row = row.map_err(|source| AdminError::Query {
        cure: "relay.dead_letter cannot be read; run `relay init`, or grant SELECT on it",
        source,
    })?;
    Ok(row.get(0))
}

impl Written {
    /// The worst first.
    async fn read(client: &Client, slot: &str) -> Result<Vec<Self>, AdminError> {
        const SQL: &str = "
            select kind, subject, severity, to_char(since at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
              found, cure
            from relay.condition where slot = $1
            order by array_position(array['losing', 'blocked', 'at-risk', 'partial', 'notice'], severity), since, kind, subject";
        let rows = client.query(SQL, &[&slot]).await.map_err(|source| AdminError::Query {
            cure: "relay.condition cannot be read; run `relay init`, or grant SELECT on it",
            source,
        })?;
        let read = rows.iter().map(|row| Self {
            kind: row.get(0),
            subject: row.get(1),
            severity: row.get(2),
            since: row.get(3),
            found: row.get(4),
            cure: row.get(5),
        });
        Ok(read.collect())
    }

    fn said(&self) -> String {
        format!("{}: {}", self.found, self.cure)
    }
}

/// Whether all is well, and what to say.
fn verdict(
    slot: &SlotState,
    name: &str,
    dead_letters: i64,
    conditions: &[Written],
) -> (bool, String) {
    let trouble = slot.trouble();
    match &trouble {
        Some(lost @ Trouble::Lost { .. }) => {
            return (false, format!("Nothing flows: {}.", slot.describe(lost, name)));
        }
        _ if slot.reader.is_none() => {
            // Written by the relay that reads from the slot when it can.
            let worst = conditions.first();
            if let Some(said) = worst.filter(|c| matches!(&*c.severity, "losing" | "blocked")) {
                return (false, format!("Nothing flows: {}.", said.said()));
            }
            return (
                false,
                format!(
                    "Nothing flows: no relay reads from the slot {name}. Start `relay run`; if it runs, its log says why it has no session."
                ),
            );
        }
        Some(trouble @ (Trouble::Unreserved | Trouble::Behind)) => {
            return (
                false,
                format!("Events flow slowly or not at all: {}.", slot.describe(trouble, name)),
            );
        }
        None => {}
    }
    let worst = conditions.first();
    match worst.map(|condition| condition.severity.as_str()) {
        Some("losing") => {
            return (false, format!("Changes are being lost: {}.", conditions[0].said()));
        }
        Some("at-risk") => {
            return (
                false,
                format!("Events flow until the next session: {}.", conditions[0].said()),
            );
        }
        Some("blocked") => {
            return (false, format!("Nothing flows: {}.", conditions[0].said()));
        }
        Some("partial") => {
            return (false, format!("Some events do not flow: {}.", conditions[0].said()));
        }
        _ => {}
    }
    if dead_letters > 0 {
        return (
            true,
            format!(
                "Events flow. {dead_letters} were set aside: `relay dead-letters list` says why."
            ),
        );
    }
    match worst {
        Some(notice) => (true, format!("Events flow. To know: {}.", notice.said())),
        None => (true, "Events flow.".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotState {
        SlotState {
            reader: Some("process 7".to_owned()),
            wal_status: Some("reserved".to_owned()),
            ..SlotState::default()
        }
    }

    #[test]
    fn each_state_has_its_sentence() {
        assert_eq!(verdict(&slot(), "relay", 0, &[]), (true, "Events flow.".to_owned()));
        assert!(verdict(&slot(), "relay", 3, &[]).1.contains("3 were set aside"));
        let lost = SlotState { wal_status: Some("lost".to_owned()), ..slot() };
        assert!(!verdict(&lost, "relay", 0, &[]).0);
        let alone = SlotState { reader: None, ..slot() };
        assert!(verdict(&alone, "relay", 0, &[]).1.contains("Start `relay run`"));
        let condition = |severity: &str| Written {
            kind: "destination".to_owned(),
            subject: "arn".to_owned(),
            severity: severity.to_owned(),
            since: String::new(),
            found: "events to arn do not flow".to_owned(),
            cure: "run `relay check`".to_owned(),
        };
        let (well, said) = verdict(&slot(), "relay", 0, &[condition("partial")]);
        assert!(!well && said.contains("to arn do not flow: run `relay check`"), "{said}");
        assert!(
            verdict(&slot(), "relay", 0, &[condition("blocked")]).1.starts_with("Nothing flows: ")
        );
        assert!(verdict(&slot(), "relay", 0, &[condition("notice")]).0);
        let behind = SlotState { behind: Some(crate::slot::MUCH + 1), ..slot() };
        assert!(verdict(&behind, "relay", 0, &[]).1.contains("relay check"));
    }
}
