//! The Postgres that can be lost, and what it says was committed.

use crate::judge::Committed;
use anyhow::{Context, Result, ensure};
use local::postgres::Postgres;
use std::collections::HashMap;
use std::time::Duration;
use tokio_postgres::Client;

/// Where events go by their kind: the default destination, and the route's.
pub(crate) const KINDS: [&str; 2] = ["order", "item"];

/// Of each kind so many keys,
pub(crate) const KEYS: u64 = 60;

/// the first of which are written to all the time.
pub(crate) const HOT: u64 = 3;

/// How long an orderly stop may take: a walsender holds it up until the relay has confirmed
/// all of the log, and the broker may not let it.
const STOP: Duration = Duration::from_secs(5);

/// A server, its database, and a connection that is made again when it is lost.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    client: Option<Client>,
}

impl Source {
    pub(crate) async fn start(sender_timeout: Duration) -> Result<Self> {
        let timeout = format!("{}ms", sender_timeout.as_millis());
        let settings = [("wal_sender_timeout", timeout.as_str()), ("deadlock_timeout", "50ms")];
        let postgres = Postgres::start(&settings).await?;
        let database = postgres.create_database().await?;
        Ok(Self { postgres, database, client: None })
    }

    pub(crate) async fn client(&mut self) -> Result<&Client> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.postgres.connect(&self.database).await?,
        };
        Ok(self.client.insert(client))
    }

    /// Makes the judge's tables and its own slot; `relay init` has made the relay's.
    pub(crate) async fn prepare(&mut self) -> Result<()> {
        let client = self.client().await?;
        client
            .batch_execute(include_str!("source.sql"))
            .await
            .context("make the judge's tables")?;
        let keys = format!(
            "insert into counter (kind, key) select kind, 'k' || n
             from unnest(array['{}', '{}']) as kind, generate_series(0, {}) as n",
            KINDS[0],
            KINDS[1],
            KEYS - 1
        );
        client.batch_execute(&keys).await?;
        let slot = "select pg_create_logical_replication_slot('judge', 'pgoutput')::text";
        client.query_one(slot, &[]).await.context("make the judge's slot")?;
        Ok(())
    }

    /// Stops the server in order where that is to be had, or else at once.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        match tokio::time::timeout(STOP, self.postgres.stop()).await {
            Ok(stopped) => stopped,
            Err(_) => self.postgres.crash().await,
        }
    }

    /// Ends the walsender of the relay's slot.
    pub(crate) async fn terminate_walsender(&mut self) -> Result<()> {
        let sql = "select pg_terminate_backend(active_pid) from pg_replication_slots
                   where slot_name = 'relay' and active_pid is not null";
        self.client().await?.execute(sql, &[]).await?;
        Ok(())
    }

    /// What the relay's slot has confirmed, and whether someone reads from it.
    pub(crate) async fn slot(&mut self) -> Result<(u64, bool)> {
        let sql = "select pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::bigint, active
                   from pg_replication_slots where slot_name = 'relay'";
        let row = self.client().await?.query_one(sql, &[]).await?;
        Ok((u64::try_from(row.get::<_, i64>(0))?, row.get(1)))
    }

    /// The number of the newest dead letter; 0 before the first.
    pub(crate) async fn newest_letter(&mut self) -> Result<i64> {
        let sql = "select coalesce(max(id), 0) from relay.dead_letter";
        Ok(self.client().await?.query_one(sql, &[]).await?.get(0))
    }

    /// The dead letters: event and number.
    pub(crate) async fn letters(&mut self) -> Result<HashMap<uuid::Uuid, i64>> {
        let sql = "select event_id, min(id) from relay.dead_letter
                   where event_id is not null group by event_id";
        let rows = self.client().await?.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Every event that was committed, with the LSN of its commit record as the server's own
    /// decoding of a second slot gives it, in the order of commits.
    pub(crate) async fn committed(&mut self) -> Result<Vec<Committed>> {
        // A commit that is waited for: what others did not wait for is in the log before it.
        let flush = "select pg_logical_emit_message(true, 'judge', 'the end')::text";
        self.client().await?.query_one(flush, &[]).await?;
        // Begin: 'B', the commit record's LSN, its time, the transaction's 32-bit id
        // (Logical Replication Message Formats in Postgres's manual).
        let sql = "select ('x' || encode(substr(data, 2, 8), 'hex'))::bit(64)::bigint,
                          ('x' || encode(substr(data, 18, 4), 'hex'))::bit(32)::bigint
                   from pg_logical_slot_get_binary_changes('judge', null, null,
                     'proto_version', '1', 'publication_names', 'relay', 'messages', 'true')
                   where get_byte(data, 0) = ascii('B')";
        let begins = self.client().await?.query(sql, &[]).await.context("read the judge's slot")?;
        let mut commits = HashMap::new();
        for begin in &begins {
            commits.insert(begin.get::<_, i64>(1), u64::try_from(begin.get::<_, i64>(0))?);
        }
        let sql =
            "select event_id, xid::text::bigint % 4294967296, kind, key, n, digest from journal";
        let rows = self.client().await?.query(sql, &[]).await?;
        let mut committed = Vec::with_capacity(rows.len());
        for row in &rows {
            let xid: i64 = row.get(1);
            let commit_lsn = *commits
                .get(&xid)
                .with_context(|| format!("expected transaction {xid} in the judge's slot"))?;
            committed.push(Committed {
                id: row.get(0),
                kind: row.get(2),
                key: row.get(3),
                n: row.get(4),
                digest: row.get(5),
                commit_lsn,
            });
        }
        committed.sort_by(|a, b| {
            (a.commit_lsn, &a.kind, &a.key, a.n).cmp(&(b.commit_lsn, &b.kind, &b.key, b.n))
        });
        self.truth_is_in_order(&committed)?;
        Ok(committed)
    }

    /// The suite's own premise: the numbers of a key count up from 1 in commit order.
    fn truth_is_in_order(&self, committed: &[Committed]) -> Result<()> {
        let mut last = HashMap::new();
        for event in committed {
            let before = last.insert((&event.kind, &event.key), event.n).unwrap_or(0);
            ensure!(
                event.n == before + 1,
                "the suite's own numbers are wrong: {event:?} after {before}"
            );
        }
        Ok(())
    }
}
