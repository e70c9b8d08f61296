//! Says what a statement of `relay init` waits for, over a connection of its own.

use crate::out::out;
use dsn::Dsn;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(500);
/// After so long it is said.
const AT_FIRST: Duration = Duration::from_secs(2);
/// And said again, when nothing has changed.
const AGAIN: Duration = Duration::from_secs(30);

/// A statement that may wait for others.
#[derive(Debug)]
pub(super) struct Waiting {
    dsn: Dsn,
    what: &'static str,
    /// What it was seen to wait for last.
    seen: Mutex<Option<String>>,
}

impl Waiting {
    pub(super) fn new(dsn: &Dsn, what: &'static str) -> Self {
        Self { dsn: dsn.clone(), what, seen: Mutex::new(None) }
    }

    /// What it waited for when it was looked at last.
    pub(super) async fn seen(&self) -> Option<String> {
        self.seen.lock().await.clone()
    }

    /// Looks for as long as it is polled, and says after 2 s what the process waits for.
    pub(super) async fn tell(&self, process: i32) {
        let began = Instant::now();
        let mut client: Option<Client> = None;
        let mut said: Option<(String, Instant)> = None;
        loop {
            tokio::time::sleep(EVERY).await;
            let open = match client.take() {
                Some(open) if !open.is_closed() => open,
                _ => match self.dsn.connect("relay init waiting").await {
                    Ok((open, _)) => open,
                    Err(_) => continue,
                },
            };
            let found = blockers(&open, process).await.unwrap_or_default();
            client = Some(open);
            let Some((who, words)) = found else { continue };
            *self.seen.lock().await = Some(words.clone());
            let known =
                said.as_ref().is_some_and(|(before, at)| *before == who && at.elapsed() < AGAIN);
            if began.elapsed() >= AT_FIRST && !known {
                out!("wait  {} waits for {words}", self.what);
                said = Some((who, Instant::now()));
            }
        }
    }
}

/// Who is waited for, and the same in words that change with the time.
async fn blockers(
    client: &Client,
    process: i32,
) -> Result<Option<(String, String)>, tokio_postgres::Error> {
    // A prepared transaction has no process: pg_blocking_pids tells 0 of it. The query itself is not
    // printed: it may hold data.
    let sql = format!(
        "with waits as (select * from pg_locks where pid = {process} and not granted),
         held as (
           select h.pid, h.virtualtransaction from pg_locks as h join waits as w
             on h.granted and h.locktype = w.locktype
             and row(h.database, h.relation, h.transactionid, h.classid, h.objid, h.objsubid)
               is not distinct from row(w.database, w.relation, w.transactionid, w.classid, w.objid, w.objsubid)
         )
         select 'process ' || a.pid,
           format('process %s (%s, role %s, database %s%s)%s; SELECT pg_terminate_backend(%s) ends it', a.pid,
             coalesce(nullif(a.application_name, ''), 'without a name'), a.usename, coalesce(a.datname, 'none'),
             coalesce(', ' || a.state, ''),
             coalesce(format(', in a transaction that began %s ago', date_trunc('second', clock_timestamp() - a.xact_start)), ''), a.pid)
         from pg_stat_activity as a where a.pid = any (pg_blocking_pids({process}))
         union all
         select 'prepared ' || p.gid,
           format('the prepared transaction %L of %s in %s, prepared %s ago; COMMIT PREPARED %L or ROLLBACK PREPARED %L in that database ends it',
             p.gid, p.owner, p.database, date_trunc('second', clock_timestamp() - p.prepared), p.gid, p.gid)
         from pg_prepared_xacts as p
         where p.transaction in (
           select x.transactionid from pg_locks as x join held as h on h.virtualtransaction = x.virtualtransaction
           where h.pid is null and x.pid is null and x.granted and x.locktype = 'transactionid')
         order by 1"
    );
    let rows = client.simple_query(&sql).await?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
        _ => None,
    };
    let (who, words): (Vec<_>, Vec<_>) = rows.iter().filter_map(row).unzip();
    Ok((!who.is_empty()).then(|| (who.join(", "), words.join(", and for "))))
}
