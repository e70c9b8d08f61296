//! `relay dead-letters`: what could not be sent, why, and what becomes of it.

use super::set_aside::{self, Filters, Listing, Table};
use super::source;
use anyhow::Context;
use clap::{Args, Subcommand};
use relay::config::Config;
use std::time::{Duration, SystemTime};
use tokio_postgres::{Client, Row};

const LETTERS: Table = Table {
    name: "relay.dead_letter",
    key: "key",
    place: "destination",
    since: "first_failed_at",
    noun: "dead letter",
    command: "relay dead-letters",
    example: "--type",
    cure: "relay.dead_letter cannot be used; run `relay init` of this version, or grant what is missing",
    width: 16,
};

/// How many letters go in one transaction.
const AT_ONCE: usize = 1000;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
  relay dead-letters list --type order.paid --since 2h\n  \
  relay dead-letters show 17\n  \
  relay dead-letters redrive 17 18\n  \
  relay dead-letters redrive --destination arn:aws:sns:eu-west-1:123456789012:orders.fifo\n  \
  relay dead-letters drop --until 30days --yes")]
pub(crate) enum Verb {
    /// List them, newest last.
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one with all that is kept of it, its body too.
    Show {
        /// Its number in the list.
        id: i64,
    },
    /// Send them again, with their ids, after what was committed until now.
    Redrive {
        #[command(flatten)]
        which: Which,
    },
    /// Give them up.
    Drop {
        #[command(flatten)]
        which: Which,
        /// Drop them; without this, only say how many would be.
        #[arg(long)]
        yes: bool,
    },
}

/// Which letters are meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    filters: Filters,
    /// Those for this topic or queue.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "all")]
    destination: Option<String>,
}

impl Which {
    fn by_place(&self) -> set_aside::Which<'_> {
        set_aside::Which { filters: &self.filters, place: self.destination.as_ref() }
    }
}

pub(crate) async fn run(config: &Config, verb: Verb) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let (client, _driver) = dsn.connect("relay dead-letters").await?;
    match verb {
        Verb::List { which, listing } => {
            let columns =
                "to_char(first_failed_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
                as failed_at, event_id::text, event_type, key, destination, error_code, attempts,
              position, reason, event_id is not null and body <> '' as can_be_redriven";
            LETTERS.list(&client, &which.by_place(), &listing, columns, [as_line, as_json]).await
        }
        Verb::Show { id } => {
            let columns = "first_failed_at::text, event_id::text, event_type, key, destination,
              error_code, attempts::text, position, reason, attributes::text, body";
            LETTERS.show(&client, id, columns).await
        }
        Verb::Redrive { which } => {
            redrive(&client, &LETTERS.meant(&client, &which.by_place()).await?).await
        }
        Verb::Drop { which, yes } => LETTERS.drop(&client, &which.by_place(), yes).await,
    }
}

fn as_line(row: &Row) -> String {
    let code: Option<&str> = row.get("error_code");
    let text = |name: &str| row.get::<_, &str>(name);
    let id: i64 = row.get("id");
    format!(
        "{id}  {}  {}  key {}  to {}  after {} tries{}\n    {}",
        text("failed_at"),
        text("event_type"),
        text("key"),
        text("destination"),
        row.get::<_, i32>("attempts"),
        code.map(|code| format!("  {code}")).unwrap_or_default(),
        text("reason")
    )
}

fn as_json(row: &Row) -> String {
    let text = |name: &str| row.get::<_, Option<&str>>(name);
    serde_json::json!({
        "id": row.get::<_, i64>("id"), "failed_at": text("failed_at"), "event_id": text("event_id"),
        "event_type": text("event_type"), "key": text("key"), "destination": text("destination"),
        "error_code": text("error_code"), "attempts": row.get::<_, i32>("attempts"),
        "position": text("position"), "reason": text("reason"),
        "can_be_redriven": row.get::<_, bool>("can_be_redriven"),
    })
    .to_string()
}

async fn redrive(client: &Client, ids: &[i64]) -> anyhow::Result<bool> {
    let mut redriven = 0;
    let mut said = SystemTime::now();
    for letters in ids.chunks(AT_ONCE) {
        let row = client
            .query_one("select relay.redrive($1)", &[&letters])
            .await
            .context(LETTERS.cure)?;
        redriven += usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        if said.elapsed().is_ok_and(|time| time > Duration::from_secs(2)) {
            eprintln!("{redriven} of {} …", ids.len());
            said = SystemTime::now();
        }
    }
    println!("redrove {}; the running relay sends them", LETTERS.counted(redriven));
    let left = ids.len() - redriven;
    if left > 0 {
        println!(
            "{} cannot be redriven: there was no event to be read, or its body is not kept here (see `relay dead-letters show`)",
            LETTERS.counted(left)
        );
    }
    Ok(left == 0)
}
