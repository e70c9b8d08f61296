//! Each write that a running relay needs in its database, tried and rolled back.

use crate::dead_letter::TABLE as DEAD_LETTER;
use dsn::causes;
use tokio_postgres::Client;

/// One write, as a running relay does it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Write {
    /// What is written to.
    pub to: &'static str,
    /// Statements that leave nothing once they are rolled back.
    sql: &'static str,
    /// What to do when they are refused.
    pub cure: &'static str,
}

/// All of them, in the order in which they are tried.
pub const WRITES: &[Write] = &[
    Write {
        to: DEAD_LETTER,
        sql: "insert into relay.dead_letter
            (event_id, destination, key, event_type, reason, error_code, attempts, position, body, attributes,
             content, head)
            values (null, '', '', '', '', null, 0, 'relay check', '', '{}', null, null)
            on conflict do nothing",
        cure: "grant the relay's role USAGE on the schema relay and SELECT and INSERT on relay.dead_letter",
    },
    Write {
        to: "relay.condition",
        sql: "insert into relay.condition as c (slot, kind, subject, severity, found, cure)
            values ('', 'relay check', '', 'notice', '', '')
            on conflict (slot, kind, subject) do update set since = c.since;
            delete from relay.condition where slot = '' and kind = 'relay check'",
        cure: "run `relay init` of this version, or grant the relay's role SELECT, INSERT, UPDATE and DELETE on relay.condition",
    },
    Write {
        to: "the log (pg_logical_emit_message)",
        sql: "select pg_catalog.pg_logical_emit_message(true, 'relay.heartbeat', '')",
        cure: "grant the relay's role EXECUTE on pg_logical_emit_message(boolean, text, text)",
    },
];

/// A write that the server refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The write.
    pub write: Write,
    /// The server's words.
    pub found: String,
}

/// Tries each write in a transaction of its own that is rolled back; returns those that were
/// refused. A lock is waited for no longer than two seconds.
///
/// # Errors
/// When the connection is lost.
pub async fn refused(client: &Client) -> Result<Vec<Refused>, tokio_postgres::Error> {
    let mut refused = Vec::new();
    for write in WRITES {
        let sql = format!("begin read write; set local lock_timeout = '2s'; {}", write.sql);
        let tried = client.batch_execute(&sql).await;
        client.batch_execute("rollback").await?;
        if let Err(error) = tried {
            refused.push(Refused { write: *write, found: causes(&error) });
        }
    }
    Ok(refused)
}
