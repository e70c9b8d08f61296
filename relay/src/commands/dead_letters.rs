//! `relay dead-letters`: what could not be sent, why, and what becomes of it.

use super::kept::{self, Filters, Listing, Shown, counted, or_none};
use super::source;
use crate::out::{self, out};
use clap::{Args, Subcommand};
use relay::admin::Filter;
use relay::admin::dead_letters::{DeadLetter, redrive};
use relay::config::Config;
use std::time::{Duration, SystemTime};
use tokio_postgres::Client;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
  relay dead-letters list --type order.paid --since 2h\n  \
  relay dead-letters show 17\n  \
  relay dead-letters redrive 17 18\n  \
  relay dead-letters redrive --destination arn:aws:sns:eu-west-1:123456789012:orders.fifo\n  \
  relay dead-letters drop --until 30days --yes")]
pub(crate) enum Verb {
    /// List them, newest last.
    #[command(after_help = "Examples:\n  \
  relay dead-letters list --type order.paid --since 2h\n  \
  relay dead-letters list --json | jq -r .reason")]
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one with all that is kept of it, its body too.
    #[command(after_help = "Examples:\n  \
  relay dead-letters show 17\n  \
  relay dead-letters show 17 --json | jq -r .body")]
    Show {
        /// Its number in the list.
        id: i64,
        /// As a JSON object, its body a JSON string.
        #[arg(long)]
        json: bool,
    },
    /// Send them again, with their ids, after what was committed until now.
    #[command(after_help = "Examples:\n  \
  relay dead-letters redrive 17 18\n  \
  relay dead-letters redrive --all")]
    Redrive {
        #[command(flatten)]
        which: Which,
    },
    /// Give them up.
    #[command(after_help = "Examples:\n  \
  relay dead-letters drop --until 30days        say how many\n  \
  relay dead-letters drop --until 30days --yes  drop them")]
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
    fn filter(self) -> (Filter, bool) {
        self.filters.at(self.destination)
    }
}

pub(crate) async fn run(config: &Config, verb: Verb) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let (client, _driver) = dsn.connect("relay dead-letters").await?;
    match verb {
        Verb::List { which, listing } => {
            kept::list::<DeadLetter>(&client, &which.filter(), listing).await
        }
        Verb::Show { id, json } => kept::show::<DeadLetter>(&client, id, json).await,
        Verb::Redrive { which } => redriven(&client, &which.filter()).await,
        Verb::Drop { which, yes } => kept::drop::<DeadLetter>(&client, &which.filter(), yes).await,
    }
}

impl Shown for DeadLetter {
    const NOUN: &'static str = "dead letter";
    const COMMAND: &'static str = "relay dead-letters";
    const EXAMPLE: &'static str = "--type";

    fn lines(&self) -> Vec<String> {
        let code = self.error_code.as_ref().map(|code| format!("  {code}")).unwrap_or_default();
        let Self { id, failed_at, event_type, key, destination, attempts, reason, .. } = self;
        vec![
            format!(
                "{id}  {failed_at}  {event_type}  key {key}  to {destination}  after {attempts} tries{code}"
            ),
            format!("    {reason}"),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("id", self.id.to_string()),
            ("failed_at", self.failed_at.clone()),
            ("event_id", or_none(self.event_id.as_deref())),
            ("event_type", self.event_type.clone()),
            ("key", self.key.clone()),
            ("destination", self.destination.clone()),
            ("error_code", or_none(self.error_code.as_deref())),
            ("attempts", self.attempts.to_string()),
            ("position", self.position.clone()),
            ("reason", self.reason.clone()),
            ("can_be_redriven", self.can_be_redriven.to_string()),
            ("attributes", or_none(self.attributes.as_deref())),
        ]
    }

    fn body(&self) -> Option<&str> {
        self.body.as_deref()
    }
}

async fn redriven(client: &Client, which: &(Filter, bool)) -> anyhow::Result<bool> {
    let (ids, there) = kept::meant::<DeadLetter>(client, which).await?;
    let mut said = SystemTime::now();
    let count = redrive(client, &ids, |done| {
        if said.elapsed().is_ok_and(|time| time > Duration::from_secs(2)) {
            out::error(&format!("{done} of {} …", ids.len()));
            said = SystemTime::now();
        }
    });
    let count = count.await?;
    out!("redrove {}; the running relay sends them", counted::<DeadLetter>(count));
    let left = ids.len() - count;
    if left > 0 {
        out!(
            "{} cannot be redriven: there was no event to be read, or its body is not kept here (see `relay dead-letters show`)",
            counted::<DeadLetter>(left)
        );
    }
    Ok(there && left == 0)
}
