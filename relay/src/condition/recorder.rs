//! Writes the conditions to `relay.condition`, for `relay status`.

use super::{Condition, Conditions};
use crate::dead_letter::escape;
use crate::publish::Retry;
use dsn::Dsn;
use std::time::Duration;

/// The kind of the condition that the list itself cannot be written.
const KIND: &str = "conditions";

/// An attempt that takes so long waits for a lock, or for a server that does not answer.
const LIMIT: Duration = Duration::from_secs(10);

const TABLE: &str = "relay.condition";
const CURE: &str = "run `relay init` of this version, or grant the relay's role SELECT, INSERT, UPDATE and DELETE on relay.condition";

/// Why the list could not be written.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("no connection")]
    Connect(#[from] dsn::Error),
    #[error("the server refused the rows")]
    Query(#[from] tokio_postgres::Error),
    #[error("the server has not answered for {LIMIT:?}; a lock on relay.condition can be why")]
    Late,
}

/// Writes the list in place of the rows of this slot, now and after each change, for as long as it
/// is polled. Only the relay that has the slot may run it, because a standby knows nothing.
pub async fn record(conditions: Conditions, dsn: Dsn, slot: String) {
    // None: rows of an earlier process may stand there.
    let mut written: Option<u64> = None;
    let mut retry = Retry::default();
    loop {
        let (changes, rows) = {
            let state = conditions.lock();
            let rows = state.conditions.iter().map(|(key, c)| (key.clone(), c.clone()));
            (state.changes, rows.collect::<Vec<_>>())
        };
        if written == Some(changes) {
            conditions.changed.notified().await;
            continue;
        }
        let tried = tokio::time::timeout(LIMIT, try_record(&dsn, &slot, &rows)).await;
        match tried.unwrap_or(Err(RecordError::Late)) {
            Ok(()) => {
                written = Some(changes);
                retry.achieved();
                conditions.clear(KIND, TABLE);
            }
            Err(error) => {
                let found = format!(
                    "expected to write the conditions of this relay to {TABLE}, found: {}; `relay status` does not know them",
                    dsn::causes(&error)
                );
                conditions.set(KIND, TABLE, Condition::notice(found, CURE));
                tokio::time::sleep(retry.next(fastrand::f64())).await;
            }
        }
    }
}

async fn try_record(
    dsn: &Dsn,
    slot: &str,
    rows: &[((&'static str, String), Condition)],
) -> Result<(), RecordError> {
    const SQL: &str = "
        with said as (
          select * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
            as said (kind, subject, severity, found, cure)
        ), gone as (
          delete from relay.condition c where slot = $1
            and not exists (select from said s where s.kind = c.kind and s.subject = c.subject)
        )
        insert into relay.condition as c (slot, kind, subject, severity, found, cure)
        select $1, kind, subject, severity, found, cure from said
        on conflict (slot, kind, subject) do update set
          since = case when c.severity = excluded.severity then c.since else now() end,
          severity = excluded.severity, found = excluded.found, cure = excluded.cure";
    let (client, driver) = dsn.connect("relay conditions").await?;
    let written_as = async |form: fn(&str) -> String| {
        let column = |text: for<'a> fn(&'a ((&'static str, String), Condition)) -> &'a str| {
            rows.iter().map(|row| form(text(row))).collect::<Vec<String>>()
        };
        let columns = [
            column(|((kind, _), _)| kind),
            column(|((_, subject), _)| subject),
            column(|(_, c)| c.severity.as_str()),
            column(|(_, c)| &c.found),
            column(|(_, c)| &c.cure),
        ];
        let [kinds, subjects, severities, founds, cures] = &columns;
        client.execute(SQL, &[&slot, kinds, subjects, severities, founds, cures]).await
    };
    let mut written = written_as(str::to_owned).await;
    // A character that the database's encoding has not, or no text at all: escaped then.
    let is_of_the_text = |error: &tokio_postgres::Error| {
        error.code().is_some_and(|code| code.code().starts_with("22"))
    };
    if written.as_ref().is_err_and(is_of_the_text) {
        written = written_as(|text| escape(text.as_bytes())).await;
    }
    drop(client);
    driver.abort();
    written?;
    Ok(())
}
