//! `relay drop`: the slot, and the publication, when a relay is given up.

use super::source;
use crate::out::out;
use anyhow::bail;
use bytesize::ByteSize;
use relay::config::Config;
use relay::slot::SlotState;
use tokio_postgres::Client;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
  relay drop                      say what would be dropped, and what is lost with it\n  \
  relay drop --yes                drop the slot\n  \
  relay drop --yes --publication  the publication too; tables are never touched")]
pub(crate) struct Arguments {
    /// Drop it; without this, only say what would be.
    #[arg(long)]
    yes: bool,
    /// The publication too.
    #[arg(long)]
    publication: bool,
}

pub(crate) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let (client, _driver) = dsn.connect("relay drop").await?;
    slot(&client, &config.postgres.slot, arguments.yes).await?;
    if arguments.publication {
        publication(&client, &config.postgres.publication, arguments.yes).await?;
    }
    if !arguments.yes {
        out!("nothing was dropped; --yes drops it");
    }
    Ok(true)
}

async fn slot(client: &Client, name: &str, yes: bool) -> anyhow::Result<()> {
    let Some(state) = SlotState::read(client, name).await? else {
        out!("ok    there is no slot {name}");
        return Ok(());
    };
    if let Some(reader) = &state.reader {
        bail!(
            "expected the slot {name} to be free, found {reader} reading from it; stop that relay first"
        );
    }
    let behind = ByteSize::b(state.behind.unwrap_or(0));
    if !yes {
        out!(
            "would drop slot {name}: {behind} of log behind it are not confirmed, and events in them would never be published"
        );
        return Ok(());
    }
    client.execute("select pg_drop_replication_slot($1)", &[&name]).await?;
    out!("gone  slot {name}, with {behind} of log that were not confirmed");
    Ok(())
}

async fn publication(client: &Client, name: &str, yes: bool) -> anyhow::Result<()> {
    let there = client.query_opt("select from pg_publication where pubname = $1", &[&name]).await?;
    match (there, yes) {
        (None, _) => out!("ok    there is no publication {name}"),
        (Some(_), false) => out!("would drop publication {name}"),
        (Some(_), true) => {
            let quoted = name.replace('"', "\"\"");
            client.batch_execute(&format!("drop publication \"{quoted}\"")).await?;
            out!("gone  publication {name}");
        }
    }
    Ok(())
}
