//! What the server says of a slot, whatever its version, and whether the relay can read from it.

use super::{Finding, Problem};
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
#[serde(default)]
pub struct SlotState {
    /// The output plugin; a physical slot has none.
    pub plugin: Option<String>,
    /// Whether it goes with the session that made it.
    pub temporary: bool,
    /// The process that reads from it, or makes it.
    pub active_pid: Option<i32>,
    /// What the reader calls itself.
    pub application: Option<String>,
    /// What this session calls itself.
    pub own_application: Option<String>,
    /// The database that was asked.
    pub here: Option<String>,
    /// Whether the server that was asked is a standby.
    pub in_recovery: bool,
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
                'application', a.application_name, 'own_application', current_setting('application_name'),
                'here', current_database(), 'in_recovery', pg_is_in_recovery(),
                'behind', greatest(pg_wal_lsn_diff(now.lsn, s.confirmed_flush_lsn), 0),
                'retained', greatest(pg_wal_lsn_diff(now.lsn, s.restart_lsn), 0)))::text
            from pg_replication_slots as s
            cross join (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as lsn) as now
            left join pg_stat_activity as a on a.pid = s.active_pid
            left join pg_stat_replication as r on r.pid = s.active_pid
            where s.slot_name = $1";
        let row = client.query_opt(SQL, &[&name]).await?;
        Ok(row.map(|row| serde_json::from_str(row.get(0)).unwrap_or_default()))
    }

    /// Whether the relay can read from it; if so, in what state it is.
    ///
    /// # Errors
    /// With what it is instead, and the cure.
    pub fn judge(&self, name: &str) -> Finding {
        self.judge_kind(name)?;
        if self.in_recovery && self.synced == Some(true) {
            return Err(Problem::new(
                format!("expected the slot {name} of the primary, found a standby's copy of it, which can be read only after a promotion"),
                "point DATABASE_URL to the primary, or name all hosts with target_session_attrs=read-write",
            )
            .may_pass());
        }
        if let Some(trouble @ Trouble::Lost { .. }) = self.trouble() {
            return Err(Problem::new(
                self.describe(&trouble, name),
                format!(
                    "run `relay drop --yes` and `relay init` (or SELECT pg_drop_replication_slot('{name}'))"
                ),
            ));
        }
        if let Some(problem) = self.in_the_making(name) {
            return Err(problem);
        }
        self.judge_reader(name)?;
        let kept = ByteSize::b(self.retained.unwrap_or(0));
        Ok(match &self.reader {
            Some(reader) => format!("slot {name} is there, in use by {reader}, {kept} of log kept"),
            None => format!("slot {name} is there and free, {kept} of log kept"),
        })
    }

    /// What it is from the moment that it was made.
    fn judge_kind(&self, name: &str) -> Result<(), Problem> {
        const ANOTHER: &str = "set RELAY_SLOT to another name, and run `relay init`";
        if self.plugin.as_deref() != Some("pgoutput") {
            let found = self.plugin.as_deref().unwrap_or("a physical one");
            return Err(Problem::new(
                format!("expected the slot {name} to use pgoutput, found {found}"),
                ANOTHER,
            ));
        }
        if self.database != self.here {
            return Err(Problem::new(
                format!(
                    "expected the slot {name} in this database, found it in {}",
                    self.database.as_deref().unwrap_or("another")
                ),
                "set RELAY_SLOT to a name of its own for each database, and run `relay init`",
            ));
        }
        if self.temporary {
            return Err(Problem::new(
                format!(
                    "expected a slot {name} that lasts, found a temporary one, which goes with {}",
                    self.reader.as_deref().unwrap_or("its session")
                ),
                ANOTHER,
            ));
        }
        if self.two_phase == Some(true) {
            return Err(Problem::new(
                format!(
                    "expected the slot {name} to send prepared transactions once they are committed, found two_phase = true, which sends them before"
                ),
                format!(
                    "run `relay drop --yes` and `relay init` once the relay has confirmed all (`relay status`); from PostgreSQL 18 on, with no relay running, psql 'replication=database …' -c 'ALTER_REPLICATION_SLOT {name} (TWO_PHASE false)' keeps the slot"
                ),
            ));
        }
        Ok(())
    }

    /// Whether a session is still making it: a slot is made only when the transactions that ran
    /// before have ended.
    #[must_use]
    pub fn in_the_making(&self, name: &str) -> Option<Problem> {
        if self.confirmed_flush_lsn.is_some() {
            return None;
        }
        let maker = self.reader.as_deref().unwrap_or("no one");
        let cure = match self.active_pid {
            Some(process) => format!(
                "wait for it, or end it with SELECT pg_terminate_backend({process}) and run `relay init` again"
            ),
            None => "run `relay drop --yes` and `relay init`".to_owned(),
        };
        Some(Problem::new(
            format!(
                "expected a slot {name} that is made, found that {maker} is still making it: it waits for transactions that began before"
            ),
            cure,
        ))
    }

    /// Whether its reader is a relay; `None` where no one reads.
    fn judge_reader(&self, name: &str) -> Result<(), Problem> {
        let (Some(reader), Some(application)) = (&self.reader, &self.application) else {
            return Ok(());
        };
        let own = self.own_application.as_ref() == Some(application);
        if own || application.is_empty() || application.starts_with("relay") {
            return Ok(());
        }
        Err(Problem::new(
            format!("expected the slot {name} to be free or read by a relay, found {reader} reading from it: what that program confirms the relay never sees"),
            "end that program and set another slot there, or set RELAY_SLOT to another name and run `relay init`; where it is a relay of yours, give both the same application_name",
        )
        .by_itself())
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
                    Some("rows_removed") => {
                        "the primary removed catalogue rows that it needed (hot_standby_feedback was off)"
                            .to_owned()
                    }
                    Some(other) => format!("the server says {other}"),
                };
                format!(
                    "the slot {name} is lost: {reason}. Run `relay drop --yes` and `relay init`; rows that were not published still stand in relay.outbox, but what relay.emit and captured tables wrote since the confirmed position is not sent. Then raise the limit"
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

    #[test]
    fn what_a_slot_can_be_besides_the_relays_is_refused_with_the_cure() {
        let well = r#""plugin": "pgoutput", "database": "shop", "here": "shop", "wal_status": "reserved",
            "confirmed_flush_lsn": "0/1", "own_application": "relay check""#;
        let cases = [
            (r#""plugin": "test_decoding""#, "found test_decoding", "RELAY_SLOT"),
            (r#""plugin": null"#, "found a physical one", "RELAY_SLOT"),
            (r#""database": "other""#, "found it in other", "RELAY_SLOT"),
            (r#""temporary": true"#, "a temporary one", "RELAY_SLOT"),
            (r#""two_phase": true"#, "two_phase = true", "TWO_PHASE false"),
            (r#""in_recovery": true, "synced": true"#, "a standby's copy", "primary"),
            (r#""wal_status": "lost""#, "max_slot_wal_keep_size", "relay drop --yes"),
            (
                r#""invalidation_reason": "idle_timeout""#,
                "idle_replication_slot_timeout",
                "relay init",
            ),
            (r#""invalidation_reason": "wal_level_insufficient""#, "wal_level", "relay init"),
            (r#""invalidation_reason": "rows_removed""#, "hot_standby_feedback", "relay init"),
            (r#""conflicting": true"#, "is lost", "relay init"),
            (
                r#""confirmed_flush_lsn": null, "active_pid": 7, "reader": "process 7 (relay init, ?)""#,
                "process 7 (relay init, ?) is still making it",
                "pg_terminate_backend(7)",
            ),
            (
                r#""application": "pg_recvlogical", "reader": "process 7 (pg_recvlogical, streaming)""#,
                "read by a relay, found process 7",
                "end that program",
            ),
        ];
        assert!(state(&format!("{{{well}}}")).judge("relay").is_ok());
        for (other, found, cure) in cases {
            // The later of two members of one name counts.
            let both: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&format!("{{{well}, {other}}}")).unwrap();
            let state: SlotState = serde_json::from_value(both.into()).unwrap();
            let problem = state.judge("relay").unwrap_err();
            assert!(problem.found.contains(found), "{other}: {problem}");
            assert!(problem.cure.contains(cure), "{other}: {problem}");
        }
        for ours in [
            r#""application": "relay", "reader": "process 7 (relay, streaming)""#,
            r#""application": "shop", "own_application": "shop", "reader": "process 7 (shop, streaming)""#,
            r#""synced": true, "failover": true"#,
        ] {
            let both: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&format!("{{{well}, {ours}}}")).unwrap();
            let state: SlotState = serde_json::from_value(both.into()).unwrap();
            assert!(state.judge("relay").is_ok(), "{ours}");
        }
    }
}
