//! What the server says of a slot, whatever its version.

use bytesize::ByteSize;
use pgoutput::Lsn;
use serde::Deserialize;
use tokio_postgres::Client;

/// More log than this behind a slot is worth a word.
pub const MUCH: u64 = 1 << 30;

/// The state of a slot. What a version does not know is `None`.
///
/// Source: <https://www.postgresql.org/docs/current/view-pg-replication-slots.html>.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct SlotState {
    /// The output plugin.
    pub plugin: Option<String>,
    /// The database it belongs to.
    pub database: Option<String>,
    /// The process that reads from it, and its application name.
    pub reader: Option<String>,
    /// The reader's state, such as `streaming`; `None` where the role may not see it, because only
    /// members of `pg_read_all_stats` may.
    pub reader_state: Option<String>,
    /// The position up to which events are confirmed.
    pub confirmed_flush_lsn: Option<String>,
    /// Bytes of log behind the confirmed position.
    pub behind: Option<u64>,
    /// Bytes of log that the server keeps for it.
    pub retained: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes that can still be written before it is in danger; `None` without a limit. It can be negative.
    pub safe_wal_size: Option<i64>,
    /// Why it can no longer be used, from 17 on.
    pub invalidation_reason: Option<String>,
    /// Whether it stands in the way of recovery on a standby, from 16 on.
    pub conflicting: Option<bool>,
    /// Since when no one reads from it, from 17 on.
    pub inactive_since: Option<String>,
    /// Whether standbys keep a copy, from 17 on.
    pub failover: Option<bool>,
    /// Whether it is such a copy, from 17 on.
    pub synced: Option<bool>,
    /// Whether prepared transactions are sent before they commit.
    pub two_phase: Option<bool>,
}

/// What is wrong with a slot, the worst first.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Trouble {
    /// Its log is gone, or the server gave it up.
    Lost {
        /// The server's reason, where it tells one.
        reason: Option<String>,
    },
    /// Its log goes with the next checkpoint.
    Unreserved,
    /// Much log is kept for it.
    Behind,
}

impl SlotState {
    /// Reads the state of a slot; `None` where there is none of that name.
    ///
    /// # Errors
    /// When the server does not tell.
    pub async fn read(client: &Client, name: &str) -> Result<Option<Self>, tokio_postgres::Error> {
        // By way of JSON, because each version has other columns.
        const SQL: &str = "select (to_jsonb(s) || jsonb_build_object(
                'reader', case when s.active_pid is not null then
                    format('process %s (%s)', s.active_pid, coalesce(nullif(a.application_name, ''), 'no name'))
                end,
                -- Its row shows a role without the right only the process's number.
                'reader_state', case when s.active_pid is not null and r.pid is null then 'connecting' else r.state end,
                'behind', greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn), 0),
                'retained', greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)))::text
            from pg_replication_slots as s
            left join pg_stat_activity as a on a.pid = s.active_pid
            left join pg_stat_replication as r on r.pid = s.active_pid
            where s.slot_name = $1";
        let row = client.query_opt(SQL, &[&name]).await?;
        Ok(row.map(|row| serde_json::from_str(row.get(0)).unwrap_or_default()))
    }

    /// The position up to which events are confirmed.
    #[must_use]
    pub fn confirmed(&self) -> Option<Lsn> {
        self.confirmed_flush_lsn.as_deref()?.parse().ok()
    }

    /// What is wrong with it, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        let reason = self.invalidation_reason.clone();
        match self.wal_status.as_deref() {
            Some("lost") | None => return Some(Trouble::Lost { reason }),
            Some(_) if reason.is_some() || self.conflicting == Some(true) => {
                return Some(Trouble::Lost { reason });
            }
            Some("unreserved") => return Some(Trouble::Unreserved),
            Some(_) => {}
        }
        (self.behind.unwrap_or(0) > MUCH).then_some(Trouble::Behind)
    }

    /// The trouble in words, with what to do.
    #[must_use]
    pub fn describe(&self, trouble: &Trouble, name: &str) -> String {
        match trouble {
            Trouble::Lost { reason } => {
                let reason = match reason.as_deref() {
                    Some("wal_removed") | None => {
                        "the server removed log that was not read (max_slot_wal_keep_size)"
                            .to_owned()
                    }
                    Some("idle_timeout") => {
                        "no one read from it for longer than idle_replication_slot_timeout"
                            .to_owned()
                    }
                    Some("wal_level_insufficient") => "wal_level was set below logical".to_owned(),
                    Some(other) => format!("the server says {other}"),
                };
                format!(
                    "the slot {name} is lost: {reason}. Run `relay drop --yes` and `relay init`; rows that were not published still stand in relay.outbox. Then raise the limit"
                )
            }
            Trouble::Unreserved => format!(
                "the slot {name} loses its log with the next checkpoint: {} are kept for it, more than max_slot_wal_keep_size. Raise that setting now (ALTER SYSTEM SET max_slot_wal_keep_size, SELECT pg_reload_conf()), and see why events do not flow: `relay check`",
                ByteSize::b(self.retained.unwrap_or(0))
            ),
            Trouble::Behind => format!(
                "{} of log wait behind the slot {name}. The relay's log says whether a destination refuses events; `relay check` tries each",
                ByteSize::b(self.behind.unwrap_or(0))
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(json: &str) -> SlotState {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_trouble_is_told_apart_with_the_cure() {
        let well = state(
            r#"{"wal_status": "reserved", "behind": 5, "retained": 7, "slot_name": "relay"}"#,
        );
        assert_eq!(well.trouble(), None);
        for (json, said) in [
            (r#"{"wal_status": "lost"}"#, "max_slot_wal_keep_size"),
            (
                r#"{"wal_status": "lost", "invalidation_reason": "idle_timeout"}"#,
                "idle_replication_slot_timeout",
            ),
            (r#"{"wal_status": "reserved", "conflicting": true}"#, "is lost"),
            (r#"{"wal_status": "unreserved", "retained": 1048576}"#, "next checkpoint: 1.0 MiB"),
            (r#"{"wal_status": "extended", "behind": 2147483648}"#, "2.0 GiB of log wait"),
        ] {
            let state = state(json);
            let said_of = state.describe(&state.trouble().unwrap(), "relay");
            assert!(said_of.contains(said), "{json}: {said_of}");
        }
    }
}
