//! `relay init`: what the relay needs in the database.

use super::{source, with_pass_file};
use anyhow::{Context, bail};
use dsn::Dsn;
use relay::config::Config;
use relay::migrate::{Side, migrate};
use relay::slot::Preconditions;
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
        let url = std::env::var("READ_MODEL_URL").context(
            "expected READ_MODEL_URL, the connection string of the read model; found nothing",
        )?;
        let dsn: Dsn = url.parse().context("READ_MODEL_URL cannot be used")?;
        let dsn = with_pass_file(dsn);
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
    for finding in [wanted.version().await, wanted.wal_level().await, wanted.role().await] {
        println!("ok    {}", finding?);
    }
    apply(&mut client, Side::Source, &dsn).await?;
    publication(&client, &config.postgres.publication, &config.tables()?).await?;
    slot(&client, &config.postgres.slot).await?;
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
        let tables: String =
            tables.iter().map(|table| format!(", {}", quoted_name(table))).collect();
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
            let sql = format!("alter publication \"{quoted}\" add table relay.outbox");
            client.batch_execute(&sql).await.with_context(|| {
                format!("relay.outbox cannot be added to the publication {name}")
            })?;
            println!("made  relay.outbox a table of publication {name}");
        }
    }
    println!("ok    {}", wanted.published().await?);
    println!("ok    {}", wanted.columns().await?);
    Ok(())
}

fn quoted_name(table: &TableRule) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

async fn slot(client: &Client, name: &str) -> anyhow::Result<()> {
    let wanted = Preconditions { client, slot: name, publication: "" };
    let exists =
        client.query_opt("select from pg_replication_slots where slot_name = $1", &[&name]).await?;
    if exists.is_some() {
        println!("ok    {}", wanted.slot().await?);
        return Ok(());
    }
    let made = client
        .query_one(
            "select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')",
            &[&name],
        )
        .await;
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
