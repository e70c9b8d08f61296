//! `relay parked`: what projections refused, why, and what becomes of it.

use super::moment::moment;
use super::read_model;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use std::time::SystemTime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

#[derive(Debug, Subcommand)]
#[command(
    after_help = "They stand in the read model: READ_MODEL_URL is its connection string.\n\n\
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
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// A JSON object a line, without the body.
        #[arg(long)]
        json: bool,
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

/// Which of them are meant: those that all the given filters let through.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Their numbers.
    ids: Vec<i64>,
    /// All that there are.
    #[arg(long, conflicts_with_all = ["ids", "projection", "event_type", "key", "since", "until"])]
    all: bool,
    /// Those of this projection.
    #[arg(long, value_name = "NAME")]
    projection: Option<String>,
    /// Those of this event type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Those of this aggregate.
    #[arg(long, value_name = "AGGREGATE_ID")]
    key: Option<String>,
    /// Those parked since then: a time such as 2026-01-15T10:30:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<SystemTime>,
    /// Those parked until then.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    until: Option<SystemTime>,
}

impl Which {
    const SQL: &str = "(cardinality($1::bigint[]) = 0 or id = any ($1))
        and ($2::text is null or projection = $2) and ($3::text is null or event_type = $3)
        and ($4::text is null or aggregate_id = $4)
        and ($5::timestamptz is null or parked_at >= $5)
        and ($6::timestamptz is null or parked_at <= $6)";

    fn parameters(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.ids, &self.projection, &self.event_type, &self.key, &self.since, &self.until]
    }

    /// Refuses to mean all of them by saying nothing.
    fn is_said(&self) -> anyhow::Result<()> {
        let texts = [&self.projection, &self.event_type, &self.key];
        let said = self.all
            || !self.ids.is_empty()
            || texts.iter().any(|text| text.is_some())
            || [&self.since, &self.until].iter().any(|time| time.is_some());
        if !said {
            bail!(
                "expected numbers of parked events, a filter such as --projection, or --all, found none; see `relay parked list`"
            );
        }
        Ok(())
    }

    async fn matching(&self, client: &Client) -> anyhow::Result<Vec<i64>> {
        let sql = format!("select id from relay.parked where {} order by id", Self::SQL);
        let rows = client.query(&sql, &self.parameters()).await.context(CURE)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

const CURE: &str = "relay.parked cannot be used; run `relay init --read-model` of this version, or grant what is missing";

pub(crate) async fn run(verb: Verb) -> anyhow::Result<bool> {
    let (client, _driver) = read_model()?.connect("relay parked").await?;
    match verb {
        Verb::List { which, limit, json } => list(&client, &which, limit, json).await,
        Verb::Show { id } => show(&client, id).await,
        Verb::Replay { which } => {
            which.is_said()?;
            let ids = which.matching(&client).await?;
            let asked = client.query_one("select relay.replay_parked($1)", &[&ids]).await;
            let asked: i64 = asked.context(CURE)?.get(0);
            println!(
                "asked for the replay of {}; the function handles them with its next delivery, or at once when it is invoked with {{}}",
                counted(usize::try_from(asked).unwrap_or_default())
            );
            Ok(true)
        }
        Verb::Drop { which, yes } => {
            which.is_said()?;
            let ids = which.matching(&client).await?;
            if !yes {
                println!("would drop {}; --yes drops them", counted(ids.len()));
                return Ok(ids.is_empty());
            }
            let dropped = client
                .execute("delete from relay.parked where id = any ($1)", &[&ids])
                .await
                .context(CURE)?;
            println!("dropped {}", counted(usize::try_from(dropped).unwrap_or(usize::MAX)));
            Ok(true)
        }
    }
}

fn counted(events: usize) -> String {
    if events == 1 { "1 parked event".to_owned() } else { format!("{events} parked events") }
}

async fn list(client: &Client, which: &Which, limit: u32, json: bool) -> anyhow::Result<bool> {
    let sql = format!(
        "select id, to_char(parked_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as parked_at,
           projection, event_id::text, event_type, aggregate_type, aggregate_id, reason, replays,
           replay_requested_at is not null as replay_requested, count(*) over () as all_of_them
         from relay.parked where {} order by id desc limit {limit}",
        Which::SQL
    );
    let mut rows = client.query(&sql, &which.parameters()).await.context(CURE)?;
    rows.reverse();
    let all: i64 = rows.first().map_or(0, |row| row.get("all_of_them"));
    for row in &rows {
        println!("{}", if json { as_json(row) } else { as_line(row) });
    }
    if !json {
        let shown = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let older = all - shown;
        match older {
            0 => println!("{}", counted(rows.len())),
            _ => println!("{} and {older} older ones; --limit shows more", counted(rows.len())),
        }
    }
    Ok(true)
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

async fn show(client: &Client, id: i64) -> anyhow::Result<bool> {
    const SQL: &str = "select id::text, parked_at::text, projection, event_id::text, event_type,
          aggregate_type, aggregate_id, reason, replays::text, replay_requested_at::text, body
        from relay.parked where id = $1";
    let Some(row) = client.query_opt(SQL, &[&id]).await.context(CURE)? else {
        bail!("expected a parked event of number {id}, found none; see `relay parked list`");
    };
    for (at, column) in row.columns().iter().enumerate() {
        println!("{:<20} {}", column.name(), row.get::<_, Option<&str>>(at).unwrap_or("none"));
    }
    Ok(true)
}
