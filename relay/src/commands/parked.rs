//! `relay parked`: what projections refused, why, and what becomes of it.

use super::read_model;
use super::set_aside::{self, Filters, Listing, Table};
use anyhow::Context;
use clap::{Args, Subcommand};
use tokio_postgres::Row;

const PARKED: Table = Table {
    name: "relay.parked",
    key: "aggregate_id",
    place: "projection",
    since: "parked_at",
    noun: "parked event",
    command: "relay parked",
    example: "--projection",
    cure: "relay.parked cannot be used; run `relay init --read-model` of this version, or grant what is missing",
    width: 20,
};

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
    /// Have their function handle them again: with its next delivery, or when it is invoked
    /// without records.
    Replay {
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
    fn by_place(&self) -> set_aside::Which<'_> {
        set_aside::Which { filters: &self.filters, place: self.projection.as_ref() }
    }
}

pub(crate) async fn run(verb: Verb) -> anyhow::Result<bool> {
    let (client, _driver) = read_model().await?.connect("relay parked").await?;
    match verb {
        Verb::List { which, listing } => {
            let columns = "to_char(parked_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
                as parked_at, projection, event_id::text, event_type, aggregate_type,
              aggregate_id, reason, replays, replay_requested_at is not null as replay_requested";
            PARKED.list(&client, &which.by_place(), &listing, columns, [as_line, as_json]).await
        }
        Verb::Show { id } => {
            let columns = "parked_at::text, projection, event_id::text, event_type, aggregate_type,
              aggregate_id, reason, replays::text, replay_requested_at::text, body";
            PARKED.show(&client, id, columns).await
        }
        Verb::Replay { which } => {
            let ids = PARKED.meant(&client, &which.by_place()).await?;
            let asked = client.query_one("select relay.replay_parked($1)", &[&ids]).await;
            let asked: i64 = asked.context(PARKED.cure)?.get(0);
            println!(
                "asked for the replay of {}; the function handles them with its next delivery, or at once when it is invoked with {{}}",
                PARKED.counted(usize::try_from(asked).unwrap_or_default())
            );
            Ok(true)
        }
        Verb::Drop { which, yes } => PARKED.drop(&client, &which.by_place(), yes).await,
    }
}

fn as_line(row: &Row) -> String {
    let text = |name: &str| row.get::<_, &str>(name);
    let id: i64 = row.get("id");
    let replays = match (row.get::<_, i32>("replays"), row.get::<_, bool>("replay_requested")) {
        (_, true) => "  to be replayed".to_owned(),
        (0, false) => String::new(),
        (times, false) => format!("  replayed {times} times in vain"),
    };
    format!(
        "{id}  {}  {}  {}  {} {}{replays}\n    {}",
        text("parked_at"),
        text("projection"),
        text("event_type"),
        text("aggregate_type"),
        text("aggregate_id"),
        text("reason")
    )
}

fn as_json(row: &Row) -> String {
    let text = |name: &str| row.get::<_, &str>(name);
    serde_json::json!({
        "id": row.get::<_, i64>("id"), "parked_at": text("parked_at"),
        "projection": text("projection"), "event_id": text("event_id"),
        "event_type": text("event_type"), "aggregate_type": text("aggregate_type"),
        "aggregate_id": text("aggregate_id"), "reason": text("reason"),
        "replays": row.get::<_, i32>("replays"),
        "replay_requested": row.get::<_, bool>("replay_requested"),
    })
    .to_string()
}
