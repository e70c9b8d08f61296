//! `relay parked`: what projections refused, why, and what becomes of it.

use super::kept::{self, Filters, Listing, Shown, counted};
use super::read_model;
use crate::out::out;
use clap::{Args, Subcommand};
use relay::admin::Filter;
use relay::admin::parked::{Parked, replay};
use tokio_postgres::Client;

#[derive(Debug, Subcommand)]
#[command(
    after_help = "They stand in the read model: READ_MODEL_URL is its connection string. READ_MODEL_LOGIN=aws-iam\nshows it a token of AWS IAM in place of a password.\n\n\
Examples:\n  \
  relay parked list --projection order_summary --since 2h\n  \
  relay parked show 17\n  \
  relay parked replay 17 18\n  \
  relay parked replay --projection order_summary\n  \
  relay parked drop --until 30days --yes"
)]
pub(crate) enum Verb {
    /// List them, newest last.
    #[command(after_help = "Examples:\n  \
  relay parked list --projection order_summary --since 2h\n  \
  relay parked list --json | jq -r .reason")]
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one with all that is kept of it, its body too.
    #[command(after_help = "Examples:\n  \
  relay parked show 17\n  \
  relay parked show 17 --json | jq -r .body")]
    Show {
        /// Its number in the list.
        id: i64,
        /// As a JSON object, its body a JSON string.
        #[arg(long)]
        json: bool,
    },
    /// Have their function handle them again: with its next delivery, or when it is invoked
    /// without records.
    #[command(after_help = "Examples:\n  \
  relay parked replay 17 18\n  \
  relay parked replay --projection order_summary")]
    Replay {
        #[command(flatten)]
        which: Which,
    },
    /// Give them up.
    #[command(after_help = "Examples:\n  \
  relay parked drop --until 30days        say how many\n  \
  relay parked drop --until 30days --yes  drop them")]
    Drop {
        #[command(flatten)]
        which: Which,
        /// Drop them; without this, only say how many would be.
        #[arg(long)]
        yes: bool,
    },
}

/// Which of them are meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    filters: Filters,
    /// Those of this projection.
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    projection: Option<String>,
}

impl Which {
    fn filter(self) -> (Filter, bool) {
        self.filters.at(self.projection)
    }
}

pub(crate) async fn run(verb: Verb) -> anyhow::Result<bool> {
    let (client, _driver) = read_model().await?.connect("relay parked").await?;
    // In one transaction, whose end undoes the setting: a pooler may stand before a read model, and
    // would hand a session's own setting to its next client.
    client.batch_execute("begin; set local search_path = pg_catalog, pg_temp").await?;
    let well = run_in(&client, verb).await?;
    client.batch_execute("commit").await?;
    Ok(well)
}

async fn run_in(client: &Client, verb: Verb) -> anyhow::Result<bool> {
    match verb {
        Verb::List { which, listing } => {
            kept::list::<Parked>(client, &which.filter(), listing).await
        }
        Verb::Show { id, json } => kept::show::<Parked>(client, id, json).await,
        Verb::Replay { which } => {
            let (ids, there) = kept::meant::<Parked>(client, &which.filter()).await?;
            let asked = replay(client, &ids).await?;
            out!(
                "asked for the replay of {}; the function handles them with its next delivery, or at once when it is invoked with {{}}",
                counted::<Parked>(usize::try_from(asked).unwrap_or_default())
            );
            Ok(there)
        }
        Verb::Drop { which, yes } => kept::drop::<Parked>(client, &which.filter(), yes).await,
    }
}

impl Shown for Parked {
    const NOUN: &'static str = "parked event";
    const COMMAND: &'static str = "relay parked";
    const EXAMPLE: &'static str = "--projection";

    fn lines(&self) -> Vec<String> {
        let replays = match (self.replays, self.replay_requested) {
            (_, true) => "  to be replayed".to_owned(),
            (0, false) => String::new(),
            (times, false) => format!("  replayed {times} times in vain"),
        };
        let Self { id, parked_at, projection, event_type, .. } = self;
        let Self { aggregate_type, aggregate_id, reason, .. } = self;
        vec![
            format!(
                "{id}  {parked_at}  {projection}  {event_type}  {aggregate_type} {aggregate_id}{replays}"
            ),
            format!("    {reason}"),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("id", self.id.to_string()),
            ("parked_at", self.parked_at.clone()),
            ("projection", self.projection.clone()),
            ("event_id", self.event_id.clone()),
            ("event_type", self.event_type.clone()),
            ("aggregate_type", self.aggregate_type.clone()),
            ("aggregate_id", self.aggregate_id.clone()),
            ("reason", self.reason.clone()),
            ("replays", self.replays.to_string()),
            ("replay_requested", self.replay_requested.to_string()),
        ]
    }

    fn body(&self) -> Option<&str> {
        self.body.as_deref()
    }
}
