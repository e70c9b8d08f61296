//! The Postgres that can be lost, and what it says was committed.

use crate::judge::{Committed, Letter, Redriven};
use crate::plan::Encoding;
use anyhow::{Context, Result, ensure};
use local::postgres::Postgres;
use std::collections::HashMap;
use std::time::Duration;
use tokio_postgres::{Client, Row};

/// Where events go by their kind: the default destination, and the route's.
pub(crate) const KINDS: [&str; 2] = ["order", "item"];

/// Of each kind so many keys,
pub(crate) const KEYS: u64 = 60;

/// the first of which are written to all the time.
pub(crate) const HOT: u64 = 3;

/// How long an orderly stop may take. The relay gives its session back within a second or two; a
/// server that waits for whoever is connected (`smart`) waits for a look of the relay's watch too.
pub(crate) const STOP: Duration = Duration::from_secs(30);

/// The captured table, and its aggregate type.
pub(crate) const MARK: &str = "mark";

/// The connection string of the relay's role.
pub(crate) fn as_relay(url: &str) -> String {
    url.replace("postgres:postgres@", "relay:relay@")
}

/// A server, its database, and a connection that is made again when it is lost.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    client: Option<Client>,
}

impl Source {
    pub(crate) async fn start(sender_timeout: Duration, encoding: Encoding) -> Result<Self> {
        let timeout = format!("{}ms", sender_timeout.as_millis());
        let settings = [("wal_sender_timeout", timeout.as_str()), ("deadlock_timeout", "50ms")];
        let postgres = Postgres::start(&settings).await?;
        let database = "source".to_owned();
        let encoding = encoding.name();
        let create = format!(
            "create database {database} encoding '{encoding}' locale 'C' template template0"
        );
        postgres.connect("postgres").await?.batch_execute(&create).await?;
        let mut source = Self { postgres, database, client: None };
        let client = source.client().await?;
        let before = include_str!("before.sql");
        client.batch_execute(before).await.context("make the roles and the captured table")?;
        client.batch_execute("grant create on database source to relay").await?;
        Ok(source)
    }

    /// Lets go of its connection.
    pub(crate) fn disconnect(&mut self) {
        self.client = None;
    }

    pub(crate) async fn execute(&mut self, sql: &str) -> Result<()> {
        let done = self.client().await?.batch_execute(sql).await;
        done.with_context(|| sql.to_owned())
    }

    /// The server's version.
    pub(crate) async fn version(&mut self) -> Result<i32> {
        let sql = "select current_setting('server_version_num')::int / 10000";
        Ok(self.client().await?.query_one(sql, &[]).await?.get(0))
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

    /// Stops the server in order; says whether it stopped in time. If not, it is stopped at once.
    pub(crate) async fn stop(&mut self, smart: bool) -> Result<bool> {
        self.disconnect();
        let stop = async {
            if smart { self.postgres.stop_smart().await } else { self.postgres.stop().await }
        };
        match tokio::time::timeout(STOP, stop).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(_)) | Err(_) => {
                self.postgres.crash().await?;
                Ok(false)
            }
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
        let sql = "select greatest((select max(id) from relay.dead_letter), (select max(letter) from redriven), 0)";
        Ok(self.client().await?.query_one(sql, &[]).await?.get(0))
    }

    /// The dead letters, with those that were redriven.
    pub(crate) async fn letters(&mut self) -> Result<Vec<Letter>> {
        let sql = "select event_id, id, error_code, false from relay.dead_letter
                   where event_id is not null
                   union all
                   select j.event_id, d.id, d.error_code, false
                   from relay.dead_letter d join journal j on position(j.marker in d.content) > 0
                   where d.event_id is null
                   union all select event_id, letter, error_code, true from redriven";
        let rows = self.client().await?.query(sql, &[]).await?;
        let letter = |row: &Row| Letter {
            id: row.get(0),
            number: row.get(1),
            code: row.get(2),
            redriven: row.get(3),
        };
        Ok(rows.iter().map(letter).collect())
    }

    /// Every event that was committed, in the order of commits, and every letter that was
    /// redriven, with the LSN of the commit record as the server's own decoding of a second
    /// slot gives it.
    pub(crate) async fn committed(&mut self) -> Result<(Vec<Committed>, Vec<Redriven>)> {
        // A commit that is waited for: what others did not wait for is in the log before it.
        let flush = "select pg_logical_emit_message(true, 'judge', 'the end')::text";
        self.client().await?.query_one(flush, &[]).await?;
        // Begin: 'B', the commit record's LSN, its time, the transaction's 32-bit id
        // (Logical Replication Message Formats in Postgres's manual).
        let sql = "select ('x' || encode(substr(data, 2, 8), 'hex'))::bit(64)::bigint,
                          ('x' || encode(substr(data, 18, 4), 'hex'))::bit(32)::bigint
                   from pg_logical_slot_get_binary_changes('judge', null, null,
                     'proto_version', '1', 'publication_names', 'judge')
                   where get_byte(data, 0) = ascii('B')";
        let begins = self.client().await?.query(sql, &[]).await.context("read the judge's slot")?;
        let mut commits = HashMap::new();
        for begin in &begins {
            commits.insert(begin.get::<_, i64>(1), u64::try_from(begin.get::<_, i64>(0))?);
        }
        let commit_of = |row: &Row| {
            let xid: i64 = row.get(1);
            let found = commits.get(&xid).copied();
            found.with_context(|| format!("expected transaction {xid} in the judge's slot"))
        };
        let sql = "select event_id, xid::text::bigint % 4294967296, letter from redriven";
        let rows = self.client().await?.query(sql, &[]).await?;
        let mut redriven = Vec::with_capacity(rows.len());
        for row in &rows {
            let (id, letter, commit_lsn) = (row.get(0), row.get(2), commit_of(row)?);
            redriven.push(Redriven { id, letter, commit_lsn });
        }
        let sql =
            "select event_id, xid::text::bigint % 4294967296, kind, key, n, digest, bytes, owed,
            marker is null from journal";
        let rows = self.client().await?.query(sql, &[]).await?;
        let mut committed = Vec::with_capacity(rows.len());
        for row in &rows {
            let commit_lsn = commit_of(row)?;
            committed.push(Committed {
                id: row.get(0),
                kind: row.get(2),
                key: row.get(3),
                n: row.get(4),
                digest: row.get(5),
                bytes: usize::try_from(row.get::<_, i32>(6))?,
                owed: row.get(7),
                is_text: row.get(8),
                commit_lsn,
            });
        }
        committed.sort_by(|a, b| {
            (a.commit_lsn, &a.kind, &a.key, a.n).cmp(&(b.commit_lsn, &b.kind, &b.key, b.n))
        });
        self.truth_is_in_order(&committed)?;
        Ok((committed, redriven))
    }

    /// The rows of the captured table, and those of them that are dead letters.
    pub(crate) async fn marks(&mut self) -> Result<(Vec<String>, Vec<String>)> {
        let marks = "select id::text from mark";
        let letters = format!(
            "select regexp_replace(key, '^.*/', '') from relay.dead_letter
             where attributes ->> 'aggregate_type' = '{MARK}'"
        );
        let client = self.client().await?;
        let mut found = Vec::new();
        for sql in [marks, letters.as_str()] {
            let rows = client.query(sql, &[]).await?;
            found.push(rows.iter().map(|row| row.get(0)).collect());
        }
        let letters = found.pop().unwrap_or_default();
        Ok((found.pop().unwrap_or_default(), letters))
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
