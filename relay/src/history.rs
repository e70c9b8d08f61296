//! The epoch of a slot: which history of the log its events are part of.
//!
//! Knows: `relay.slot_epoch` (sql/source/V9__history.sql). Must not know: the stream, positions.

use crate::slot::Problem;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// The epoch of a slot, begun now where it has none or the server is another; `made_anew` says that
/// the slot was made just now, and always begins one.
///
/// # Errors
/// When the server does not answer, or the role may not use `relay.history`.
pub async fn epoch(client: &Client, slot: &str, made_anew: bool) -> Result<u64, Problem> {
    const SQL: &str = "select relay.slot_epoch($1::text::name, $2)";
    let answer = client.query_one(SQL, &[&slot, &made_anew]).await;
    let row = answer.map_err(|error| {
        let old = [
            SqlState::UNDEFINED_FUNCTION,
            SqlState::UNDEFINED_TABLE,
            SqlState::INVALID_SCHEMA_NAME,
        ];
        if old.iter().any(|code| error.code() == Some(code)) {
            return Problem::new(
                "expected the function relay.slot_epoch, found none: the tables are of an earlier version",
                "run `relay init` of this version",
            )
            .may_pass();
        }
        if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            let found = dsn::causes(&error);
            return Problem::new(
                format!("expected the relay's role to know and begin epochs, found: {found}"),
                "run GRANT SELECT, INSERT, UPDATE ON relay.history, and GRANT EXECUTE ON FUNCTION relay.slot_epoch(name, boolean), TO the relay's role",
            )
            .may_pass();
        }
        Problem::query(&error)
    })?;
    let epoch: i64 = row.get(0);
    u64::try_from(epoch).map_err(|_| {
        Problem::new(
            format!("expected an epoch of 0 or more in relay.history, found {epoch}"),
            "drop the slot and run `relay init`",
        )
    })
}
