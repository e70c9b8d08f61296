//! `relay init`: what the relay needs in the database.

use super::{read_model, source};
use anyhow::{Context, bail};
use dsn::Dsn;
use relay::config::Config;
use relay::migrate::{Side, migrate};
use relay::slot::{Preconditions, SlotState};
use relay::table::TableRule;
use tokio_postgres::Client;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Prepare a read model instead: the inbox and its companions, in READ_MODEL_URL.
    #[arg(long)]
    read_model: bool,
}

pub(crate) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<bool> {
    if arguments.read_model {
        let dsn = read_model().await?;
        let (mut client, _driver) = dsn.connect("relay init").await?;
        apply(&mut client, Side::ReadModel, &dsn).await?;
        return Ok(true);
    }
    let dsn = source(config).await?;
    let (mut client, _driver) = dsn.connect("relay init").await?;
    let wanted = Preconditions {
        client: &client,
        slot: &config.postgres.slot,
        publication: &config.postgres.publication,
    };
    // Before anything is made: a slot cannot be had without these.
    for finding in [
        wanted.version().await,
        wanted.wal_level().await,
        wanted.encoding().await,
        wanted.role().await,
    ] {
        println!("ok    {}", finding?);
    }
    apply(&mut client, Side::Source, &dsn).await?;
    publication(&client, &config.postgres.publication, &config.tables()?).await?;
    slot(&client, &config.postgres.slot, config.postgres.failover).await?;
    Ok(true)
}

async fn apply(client: &mut Client, side: Side, dsn: &Dsn) -> anyhow::Result<()> {
    let applied = migrate(client, side).await?;
    if applied.is_empty() {
        println!("ok    the schema relay is up to date in {dsn}");
    }
    for name in applied {
        println!("made  {name} in {dsn}");
    }
    Ok(())
}

async fn publication(client: &Client, name: &str, tables: &[TableRule]) -> anyhow::Result<()> {
    let quoted = name.replace('"', "\"\"");
    let wanted = Preconditions { client, slot: "", publication: name };
    if wanted.publication().await.is_err() {
        // The outbox alone is only ever inserted into; of a table every change counts.
        let publish = if tables.is_empty() { "insert" } else { "insert, update, delete, truncate" };
        let tables: String = tables.iter().map(|table| format!(", {}", table.quoted())).collect();
        let sql = format!(
            "create publication \"{quoted}\" for table relay.outbox{tables} with (publish = '{publish}', publish_via_partition_root = true)"
        );
        client.batch_execute(&sql).await.with_context(|| {
            format!("the publication {name} cannot be made; the role must own relay.outbox and have CREATE on the database")
        })?;
        println!("made  publication {name}");
        return Ok(());
    }
    if wanted.published().await.is_err() {
        let listed = client
            .query_opt("select from pg_publication_tables where pubname = $1 and schemaname = 'relay' and tablename like 'outbox%'", &[&name])
            .await?;
        if listed.is_none() {
            add(client, name, "relay.outbox").await?;
        }
    }
    for table in tables {
        let listed = client
            .query_opt("select from pg_publication_tables where pubname = $1 and schemaname = $2 and tablename = $3", &[&name, &table.schema, &table.name])
            .await?;
        if listed.is_none() && wanted.table(table).await.is_err() {
            add(client, name, &table.quoted()).await?;
        }
    }
    println!("ok    {}", wanted.published().await?);
    println!("ok    {}", wanted.columns().await?);
    for table in tables {
        println!("ok    {}", wanted.table(table).await?);
    }
    Ok(())
}

async fn add(client: &Client, publication: &str, table: &str) -> anyhow::Result<()> {
    let quoted = publication.replace('"', "\"\"");
    let sql = format!("alter publication \"{quoted}\" add table {table}");
    client.batch_execute(&sql).await.with_context(|| {
        format!("{table} cannot be added to the publication {publication}; the role must own both")
    })?;
    println!("made  {table} a table of publication {publication}");
    Ok(())
}

async fn slot(client: &Client, name: &str, failover: bool) -> anyhow::Result<()> {
    let wanted = Preconditions { client, slot: name, publication: "" };
    if let Some(state) = SlotState::read(client, name).await? {
        println!("ok    {}", wanted.slot().await?);
        if failover && state.failover != Some(true) {
            bail!(
                "expected the slot {name} to be kept for a failover, found that it is not; from PostgreSQL 17 on run, while no relay reads from it: psql 'replication=database …' -c 'ALTER_REPLICATION_SLOT {name} (FAILOVER)'"
            );
        }
        return Ok(());
    }
    let knows_failover = client
        .query_one("select current_setting('server_version_num')::int >= 170000", &[])
        .await?;
    if failover && !knows_failover.get::<_, bool>(0) {
        bail!(
            "expected PostgreSQL 17 or later for postgres.failover, found an earlier one; leave RELAY_FAILOVER out"
        );
    }
    // Not temporary, without two-phase commits.
    let sql = if failover {
        "select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)"
    } else {
        "select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')"
    };
    let made = client.query_one(sql, &[&name]).await;
    match made {
        Ok(row) => println!("made  slot {name} at {}", row.get::<_, String>(0)),
        Err(error) => {
            let said =
                error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
            bail!(
                "the slot {name} cannot be made: {said}; free one with pg_drop_replication_slot, or raise max_replication_slots"
            );
        }
    }
    Ok(())
}
