//! `relay init`: what the relay needs in the database.
//!
//! In this order: the schema, the publication, the slot last. A slot that is older than its
//! publication could not be read before PostgreSQL 18, and a slot that no one reads from keeps log.

mod publication;
mod slot;
mod waiting;

use super::{read_model, source};
use crate::out::out;
use dsn::Dsn;
use relay::config::Config;
use relay::migrate::{MigrateError, Side, migrate_and_tell, plan};
use relay::slot::{Preconditions, Problem, session};
use tokio_postgres::Client;
use waiting::Waiting;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
  relay init                                  make the schema, the publication and the slot\n  \
  RELAY_TABLES=public.customers relay init    later: publish a table too\n  \
  relay init --dry-run > init.sql             only print the SQL\n  \
  relay init --read-model                     the inbox and its companions, in READ_MODEL_URL")]
pub(crate) struct Arguments {
    /// Prepare a read model instead: the inbox and its companions, in READ_MODEL_URL.
    #[arg(long)]
    read_model: bool,
    /// Print the SQL and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take the tables that are not configured any more out of the publication.
    #[arg(long, conflicts_with = "read_model")]
    remove_tables: bool,
    /// Bring a publication up to date that `relay init` did not make, from now on too.
    #[arg(long, conflicts_with = "read_model")]
    adopt_publication: bool,
}

pub(crate) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<bool> {
    if arguments.read_model {
        let dsn = read_model().await?;
        let (client, _driver) = dsn.connect("relay init").await?;
        apply(&client, Side::ReadModel, &dsn, arguments.dry_run).await?;
        return Ok(true);
    }
    let tables = config.tables()?;
    let dsn = source(config).await?;
    let (client, _driver) = dsn.connect("relay init").await?;
    let wanted = Preconditions {
        client: &client,
        slot: &config.postgres.slot,
        publication: &config.postgres.publication,
    };
    let say = |found: String| {
        if arguments.dry_run { out!("-- ok    {found}") } else { out!("ok    {found}") }
    };
    // Before anything is made: a slot cannot be had without these.
    say(wanted.version().await?);
    say(wanted.wal_level().await?);
    say(wanted.encoding().await?);
    say(wanted.role().await?);
    say(wanted.writable().await?);
    say(session(&dsn).await?);
    apply(&client, Side::Source, &dsn, arguments.dry_run).await?;
    let options = publication::Options {
        remove: arguments.remove_tables,
        adopt: arguments.adopt_publication,
        dry_run: arguments.dry_run,
    };
    publication::bring_up_to_date(&dsn, &client, &wanted, &tables, options).await?;
    let (name, failover) = (&config.postgres.slot, config.postgres.failover);
    if arguments.dry_run {
        return slot::plan(&client, name, failover).await.map(|()| true);
    }
    slot::make(&dsn, &client, &wanted, failover).await?;
    Ok(true)
}

async fn apply(client: &Client, side: Side, dsn: &Dsn, dry_run: bool) -> anyhow::Result<()> {
    let refused = |error: MigrateError| {
        let privilege = "run this with a role that owns the schema relay, or, the first time, with one that has CREATE on the database: GRANT CREATE ON DATABASE … TO …";
        match error.refused() {
            Some(said) => {
                anyhow::Error::new(Problem::refused_or(&error.to_string(), said, privilege))
            }
            None => error.into(),
        }
    };
    if dry_run {
        for statement in plan(client, side).await.map_err(refused)? {
            crate::out::text(&format!("{statement};"));
        }
        return Ok(());
    }
    let waiting = Waiting::new(dsn, "the schema relay");
    let applied = migrate_and_tell(client, side, |process| waiting.tell(process)).await;
    let applied = applied.map_err(refused)?;
    if applied.is_empty() {
        out!("ok    the schema relay is up to date in {dsn}");
    }
    for name in applied {
        out!("made  {name} in {dsn}");
    }
    Ok(())
}
