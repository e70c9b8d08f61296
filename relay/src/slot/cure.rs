//! From what the server refused to what to do: one table, by SQLSTATE.
//!
//! `relay init`, `check` and `run` print the same cure for the same refusal. The server's message
//! only refines it: it may be in another language.

use super::Problem;
use crate::wire::{ServerError, WireError, is_passing};

/// A SQLSTATE or the beginning of one, a part of the message or nothing, and the cure.
/// The first row that fits counts.
const CURES: &[(&str, &str, &str)] = &[
    (
        "25006",
        "",
        "this server or this role takes no writes: point DATABASE_URL to the primary (several hosts: target_session_attrs=read-write), or, where default_transaction_read_only is set for the role or the database, run ALTER ROLE … RESET default_transaction_read_only",
    ),
    (
        "0A000",
        "recovery",
        "this server is a standby: point DATABASE_URL to the primary, or name all hosts with target_session_attrs=read-write",
    ),
    (
        "55000",
        "recovery",
        "this server is a standby: point DATABASE_URL to the primary, or name all hosts with target_session_attrs=read-write",
    ),
    (
        "55000",
        "FOR ALL TABLES",
        "a publication FOR ALL TABLES has every table already; correct its options with ALTER PUBLICATION … SET",
    ),
    (
        "55000",
        "replica identity",
        "give the table a primary key, or run ALTER TABLE … REPLICA IDENTITY FULL",
    ),
    (
        "55000",
        "replication slot",
        "the slot cannot be read any more: run `relay drop --yes` and `relay init`; rows that were not published still stand in relay.outbox, but what relay.emit and captured tables wrote since the confirmed position is not sent",
    ),
    (
        "55000",
        "wal_level",
        "run ALTER SYSTEM SET wal_level = 'logical' and restart the server; on RDS and Aurora set rds.logical_replication = 1 in the parameter group and reboot",
    ),
    (
        "42501",
        "",
        "grant the role what the server names, or run this command as the owner of the objects",
    ),
    (
        "53300",
        "max_wal_senders",
        "every wal sender is taken: raise max_wal_senders and restart the server, or end a replication client (SELECT * FROM pg_stat_replication)",
    ),
    (
        "53300",
        "",
        "every connection is taken: raise max_connections or the role's CONNECTION LIMIT, or end idle sessions",
    ),
    (
        "53400",
        "",
        "every replication slot is taken: drop one that no one needs (SELECT slot_name, active FROM pg_replication_slots; SELECT pg_drop_replication_slot('…')), or raise max_replication_slots and restart the server",
    ),
    ("53100", "", "the server's disk is full: free space, then run this again"),
    ("53", "", "the server has not the means for it now: see its log, then run this again"),
    (
        "57014",
        "",
        "a time limit of the server ended it: set statement_timeout = 0 for this command (options=-c statement_timeout=0 in DATABASE_URL, or ALTER ROLE … SET statement_timeout = 0), and end what it waits for",
    ),
    (
        "55P03",
        "",
        "another session holds the lock that this needs: let it end (SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity), or raise lock_timeout, then run this again",
    ),
    ("40", "", "another session was in the way: run this again"),
    (
        "55006",
        "",
        "another session uses it: end that one first (SELECT active_pid FROM pg_replication_slots)",
    ),
    ("3D000", "", "name a database that is there in DATABASE_URL"),
    ("28", "", "check the user and the password in DATABASE_URL, and the server's pg_hba.conf"),
    (
        "08P01",
        "",
        "DATABASE_URL leads to a pooler (pgbouncer, RDS Proxy) or to something else that has no replication: name the server itself",
    ),
    ("42883", "", "the schema relay is older than this relay: run `relay init`"),
    ("42703", "", "the schema relay is older than this relay: run `relay init`"),
    (
        "42P01",
        "",
        "correct the table's name, or run `relay init` where it is one of the schema relay",
    ),
    ("3F000", "", "correct the schema's name, or run `relay init` where it is relay"),
    ("42710", "", "another session made it at the same time: run this again"),
    ("42P07", "", "another session made it at the same time: run this again"),
    ("42704", "", "run `relay init`, or correct the name"),
    ("42P10", "", "let the column list and the row filter leave the replica identity whole"),
    (
        "22023",
        "",
        "see the server's words: the object or the option is not of a kind that can be published",
    ),
    ("42P17", "", "see the server's words: the object is not of a kind that can be published"),
    ("58P01", "", "the server has no plugin pgoutput: install its usual libraries"),
    ("58", "", "the server's machine failed at it: see the server's log"),
    ("57", "", "the server is stopping or starting: wait until it is up, then run this again"),
    ("08", "", "check the way to the server, and its log"),
];

/// The cure of a refusal.
pub(crate) fn cure(sqlstate: &str, message: &str) -> &'static str {
    let fits = |(state, words, _): &&(&str, &str, &str)| {
        sqlstate.starts_with(state) && message.contains(words)
    };
    CURES.iter().find(fits).map_or("see the server's log for what it refused, and why", |row| row.2)
}

impl Problem {
    /// What the server did not do, with the cure that its SQLSTATE asks for.
    ///
    /// `doing` is what was being done, such as "the publication relay cannot be made".
    #[must_use]
    pub fn refused(doing: &str, error: &tokio_postgres::Error) -> Self {
        let found = format!("{doing}: {}", dsn::causes(error));
        let Some(refused) = error.as_db_error() else {
            let cause = std::error::Error::source(error);
            let lost = error.is_closed()
                || cause.is_some_and(|e| e.downcast_ref::<std::io::Error>().is_some());
            return Self::new(found, "check the way to the server and its log").passing_if(lost);
        };
        let code = refused.code().code();
        Self::new(found, cure(code, refused.message())).passing_if(is_passing(code))
    }

    /// The same with another cure where the role lacks a privilege.
    #[must_use]
    pub fn refused_or(
        doing: &str,
        error: &tokio_postgres::Error,
        privilege: impl Into<String>,
    ) -> Self {
        let problem = Self::refused(doing, error);
        let lacks = error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE);
        if lacks { Self { cure: privilege.into(), ..problem } } else { problem }
    }

    /// The same of a replication session.
    #[must_use]
    pub(crate) fn of_session(doing: &str, error: &WireError) -> Self {
        let found = format!("{doing}: {}", dsn::causes(error));
        let cure = match refusal(error) {
            Some(said) if said.code == "42501" => {
                "run ALTER ROLE … REPLICATION for the role in DATABASE_URL; on RDS and Aurora GRANT rds_replication TO it"
            }
            Some(said) => cure(&said.code, &said.message),
            None => match error {
                WireError::Login { .. } => {
                    "check the user and the password in DATABASE_URL, and that pg_hba.conf lets the role in"
                }
                _ => "check DATABASE_URL, and that the server runs and lets this machine in",
            },
        };
        Self::new(found, cure).passing_if(error.is_transient())
    }

    fn passing_if(self, passes: bool) -> Self {
        if passes { self.by_itself() } else { self }
    }
}

/// What a server said, of the first that said something.
fn refusal(error: &WireError) -> Option<&ServerError> {
    match error {
        WireError::Server(said) => Some(said),
        WireError::Servers { errors } => errors.iter().find_map(refusal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_own_cure() {
        let cases = [
            ("25006", "cannot execute CREATE SCHEMA in a read-only transaction", "primary"),
            ("0A000", "cannot be executed during recovery", "standby"),
            ("0A000", "something else", "server's log"),
            (
                "53300",
                "number of requested standby connections exceeds max_wal_senders",
                "max_wal_senders",
            ),
            ("53300", "sorry, too many clients already", "max_connections"),
            ("53400", "all replication slots are in use", "max_replication_slots"),
            ("57014", "canceling statement due to statement timeout", "statement_timeout = 0"),
            ("55P03", "canceling statement due to lock timeout", "pg_blocking_pids"),
            ("57P03", "the database system is starting up", "wait until it is up"),
            ("28P01", "password authentication failed", "password"),
            ("3D000", "database \"x\" does not exist", "DATABASE_URL"),
            ("08P01", "unsupported startup parameter: replication", "pooler"),
            ("40P01", "deadlock detected", "run this again"),
            ("XX000", "cache lookup failed", "server's log"),
        ];
        for (code, message, wanted) in cases {
            let cure = cure(code, message);
            assert!(cure.contains(wanted), "{code} {message}: {cure}");
        }
    }

    #[test]
    fn no_row_of_the_table_is_hidden_by_an_earlier_one() {
        for (at, (code, words, _)) in CURES.iter().enumerate() {
            let hidden = CURES[..at]
                .iter()
                .find(|(other, said, _)| code.starts_with(other) && words.contains(said));
            assert_eq!(hidden, None, "{code} {words}");
        }
    }
}
