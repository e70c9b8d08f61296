//! Writes the conditions to `relay.condition`, for `relay status`.

use super::{Condition, Conditions};
use crate::publish::backoff;
use dsn::Dsn;

/// Why the list could not be written.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("no connection")]
    Connect(#[from] dsn::Error),
    #[error("the server refused the rows")]
    Query(#[from] tokio_postgres::Error),
}

/// Writes the list in place of the rows of this slot, now and after each change, for as long as it
/// is polled. Only the relay that has the slot may run it, because a standby knows nothing.
pub async fn record(conditions: Conditions, dsn: Dsn, slot: String) {
    // None: rows of an earlier process may stand there.
    let mut written: Option<u64> = None;
    let mut attempt = 0;
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
        match try_record(&dsn, &slot, &rows).await {
            Ok(()) => (written, attempt) = (Some(changes), 0),
            Err(error) => {
                if attempt == 0 {
                    tracing::warn!(
                        error = dsn::causes(&error),
                        "the conditions of this relay cannot be written to relay.condition, so `relay status` does not know them; run `relay init` of this version, or grant the role INSERT, UPDATE, DELETE and SELECT on it"
                    );
                }
                tokio::time::sleep(backoff(attempt + 6, 0.5 + fastrand::f64() / 2.0)).await;
                attempt += 1;
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
    let column = |text: for<'a> fn(&'a ((&'static str, String), Condition)) -> &'a str| {
        rows.iter().map(text).collect::<Vec<&str>>()
    };
    let (client, driver) = dsn.connect("relay conditions").await?;
    let written = client
        .execute(
            SQL,
            &[
                &slot,
                &column(|((kind, _), _)| kind),
                &column(|((_, subject), _)| subject),
                &column(|(_, c)| c.severity.as_str()),
                &column(|(_, c)| &c.found),
                &column(|(_, c)| &c.cure),
            ],
        )
        .await;
    drop(client);
    driver.abort();
    written?;
    Ok(())
}
