//! The outbox workload: rows of about 580 bytes, in a backlog or at a steady pace.

use anyhow::{Context, Result};
use local::postgres::Postgres;
use relay::migrate::{Side, migrate};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// The publication that every client reads.
pub(crate) const PUBLICATION: &str = "bench";

/// How many ordering keys the events have, where a benchmark does not say otherwise.
pub(crate) const KEYS: u32 = 10_000;

/// Writers of rows: many at once in transactions of a given size, or so many a second.
///
/// They run in the server, so that the load costs as little beside the clients as it can.
const PROCEDURES: &str = "
create procedure public.fill(total int, in_one int, keys int) language plpgsql as $$
begin
  for n in 1 .. total loop
    insert into relay.outbox
      (aggregate_type, aggregate_id, aggregate_version, event_type, correlation_id, data, metadata)
    values ('order', 'order-' || (n * 7919::bigint) % keys, n, 'order.changed', relay.uuid_v7(),
      json_build_object('id', n, 'status', 'paid', 'note', repeat('a note on the order ', 12)),
      '{\"user_id\": \"u-4711\"}');
    if n % in_one = 0 then commit; end if;
  end loop;
end $$;

create procedure public.pace(per_second int, seconds int, keys int, first int) language plpgsql as $$
declare
  began timestamptz := clock_timestamp();
  every interval := interval '1 second' / per_second;
  early double precision;
begin
  for n in 1 .. per_second * seconds loop
    early := extract(epoch from began + n * every - clock_timestamp());
    if early > 0 then perform pg_sleep(early); end if;
    insert into relay.outbox
      (aggregate_type, aggregate_id, aggregate_version, event_type, correlation_id, data, metadata)
    values ('order', 'order-' || (first + n * 7919::bigint) % keys, n, 'order.changed', relay.uuid_v7(),
      json_build_object('id', n, 'status', 'paid', 'note', repeat('a note on the order ', 12)),
      '{\"user_id\": \"u-4711\"}');
    commit;
  end loop;
end $$;";

/// A server with an outbox and its publication, on a disk that is waited for.
pub(crate) struct Source {
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    pub(crate) client: Client,
}

impl Source {
    pub(crate) async fn start() -> Result<Self> {
        let settings = [
            ("fsync", "on"),
            ("max_wal_size", "8GB"),
            ("checkpoint_timeout", "30min"),
            ("autovacuum", "off"),
        ];
        let postgres = Postgres::start(&settings).await?;
        let database = postgres.create_database().await?;
        let client = postgres.connect(&database).await?;
        migrate(&client, Side::Source).await.context("make the outbox")?;
        client.batch_execute(PROCEDURES).await?;
        let publication = format!(
            "create publication {PUBLICATION} for table relay.outbox
             with (publish = 'insert', publish_via_partition_root = true)"
        );
        client.batch_execute(&publication).await?;
        Ok(Self { postgres, database, client })
    }

    pub(crate) fn url(&self) -> String {
        self.postgres.url(&self.database)
    }

    /// Writes a backlog behind a fresh slot, and returns the end of the log.
    pub(crate) async fn backlog(
        &self,
        slot: &str,
        rows: u32,
        in_one: u32,
        keys: u32,
    ) -> Result<String> {
        self.make_slot(slot).await?;
        let writer = self.postgres.connect(&self.database).await?;
        writer.batch_execute("set synchronous_commit = off").await?;
        writer.batch_execute(&format!("call public.fill({rows}, {in_one}, {keys})")).await?;
        // A checkpoint now is none in the middle of a measurement.
        self.client.batch_execute("checkpoint").await?;
        let end = self.client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?;
        // So that a client that stops behind this position has something to read there.
        let past = "select pg_logical_emit_message(true, 'bench', 'the end')";
        self.client.batch_execute(past).await?;
        Ok(end.get(0))
    }

    pub(crate) async fn make_slot(&self, slot: &str) -> Result<()> {
        let made = "select pg_create_logical_replication_slot($1, 'pgoutput')::text";
        self.client.query_one(made, &[&slot]).await.context("make a slot")?;
        Ok(())
    }

    pub(crate) async fn copy_slot(&self, from: &str, to: &str) -> Result<()> {
        let copied = "select pg_copy_logical_replication_slot($1, $2)::text";
        self.client.query_one(copied, &[&from, &to]).await.context("copy a slot")?;
        Ok(())
    }

    /// Drops a slot as soon as no one reads from it.
    pub(crate) async fn drop_slot(&self, slot: &str) -> Result<()> {
        let free = "select pg_drop_replication_slot(slot_name) from pg_replication_slots
                    where slot_name = $1 and active_pid is null";
        while self.client.query(free, &[&slot]).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Writes so many 1-row transactions a second, over as many connections as that takes.
    pub(crate) async fn pace(&self, per_second: u32, seconds: u32, keys: u32) -> Result<()> {
        let mut writers = JoinSet::new();
        for connection in 0..connections(per_second) {
            let writer = self.postgres.connect(&self.database).await?;
            let own = per_second / connections(per_second);
            // Each begins at another key, or all would write to one at the same time.
            let first = keys / connections(per_second) * connection;
            writers.spawn(async move {
                let pace = format!("call public.pace({own}, {seconds}, {keys}, {first})");
                writer.batch_execute(&pace).await
            });
        }
        while let Some(done) = writers.join_next().await {
            done??;
        }
        Ok(())
    }
}

/// One connection commits some 2,500 times a second on a disk that is waited for.
pub(crate) fn connections(per_second: u32) -> u32 {
    (per_second / 1250).max(1)
}
