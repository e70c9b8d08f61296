//! `relay dead-letters`: what could not be sent, why, and what becomes of it.

use super::moment::moment;
use super::source;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use relay::config::Config;
use std::time::{Duration, SystemTime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

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

/// Which letters are meant: those that all the given filters let through.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Their numbers.
    ids: Vec<i64>,
    /// All that there are.
    #[arg(long, conflicts_with_all = ["ids", "destination", "event_type", "key", "since", "until"])]
    all: bool,
    /// Those for this topic or queue.
    #[arg(long, value_name = "ADDRESS")]
    destination: Option<String>,
    /// Those of this event type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Those of this key.
    #[arg(long)]
    key: Option<String>,
    /// Those set aside since then: a time such as 2026-01-15T10:30:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<SystemTime>,
    /// Those set aside until then.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    until: Option<SystemTime>,
}

impl Which {
    const SQL: &str = "(cardinality($1::bigint[]) = 0 or id = any ($1))
        and ($2::text is null or destination = $2) and ($3::text is null or event_type = $3)
        and ($4::text is null or key = $4)
        and ($5::timestamptz is null or first_failed_at >= $5)
        and ($6::timestamptz is null or first_failed_at <= $6)";

    fn parameters(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.ids, &self.destination, &self.event_type, &self.key, &self.since, &self.until]
    }

    /// Refuses to mean all of them by saying nothing.
    fn is_said(&self) -> anyhow::Result<()> {
        let filters = [&self.destination, &self.event_type, &self.key];
        let times = [&self.since, &self.until];
        let said = self.all
            || !self.ids.is_empty()
            || filters.iter().any(|filter| filter.is_some())
            || times.iter().any(|time| time.is_some());
        if !said {
            bail!(
                "expected numbers of dead letters, a filter such as --type, or --all, found none; see `relay dead-letters list`"
            );
        }
        Ok(())
    }

    async fn matching(&self, client: &Client) -> anyhow::Result<Vec<i64>> {
        let sql = format!("select id from relay.dead_letter where {} order by id", Self::SQL);
        let rows = client.query(&sql, &self.parameters()).await.context(CURE)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

const CURE: &str =
    "relay.dead_letter cannot be used; run `relay init` of this version, or grant what is missing";

pub(crate) async fn run(config: &Config, verb: Verb) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let (client, _driver) = dsn.connect("relay dead-letters").await?;
    match verb {
        Verb::List { which, limit, json } => list(&client, &which, limit, json).await,
        Verb::Show { id } => show(&client, id).await,
        Verb::Redrive { which } => {
            which.is_said()?;
            redrive(&client, &which.matching(&client).await?).await
        }
        Verb::Drop { which, yes } => {
            which.is_said()?;
            let ids = which.matching(&client).await?;
            if !yes {
                println!("would drop {}; --yes drops them", counted(ids.len()));
                return Ok(ids.is_empty());
            }
            let dropped = client
                .execute("delete from relay.dead_letter where id = any ($1)", &[&ids])
                .await
                .context(CURE)?;
            println!("dropped {}", counted(usize::try_from(dropped).unwrap_or(usize::MAX)));
            Ok(true)
        }
    }
}

fn counted(letters: usize) -> String {
    if letters == 1 { "1 dead letter".to_owned() } else { format!("{letters} dead letters") }
}

async fn list(client: &Client, which: &Which, limit: u32, json: bool) -> anyhow::Result<bool> {
    let sql = format!(
        "select id, to_char(first_failed_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as failed_at,
           event_id::text, event_type, key, destination, error_code, attempts, position, reason,
           event_id is not null and body <> '' as can_be_redriven, count(*) over () as all_of_them
         from relay.dead_letter where {} order by id desc limit {limit}",
        Which::SQL
    );
    let mut rows = client.query(&sql, &which.parameters()).await.context(CURE)?;
    rows.reverse();
    let all: i64 = rows.first().map_or(0, |row| row.get("all_of_them"));
    for row in &rows {
        println!("{}", if json { as_json(row) } else { as_line(row) });
    }
    let shown = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    if !json {
        match all - shown {
            0 => println!("{}", counted(rows.len())),
            more => println!("{} and {more} older ones; --limit shows more", counted(rows.len())),
        }
    }
    Ok(true)
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

async fn show(client: &Client, id: i64) -> anyhow::Result<bool> {
    const SQL: &str = "select id::text, first_failed_at::text, event_id::text, event_type, key,
          destination, error_code, attempts::text, position, reason, attributes::text, body
        from relay.dead_letter where id = $1";
    let Some(row) = client.query_opt(SQL, &[&id]).await.context(CURE)? else {
        bail!("expected a dead letter of number {id}, found none; see `relay dead-letters list`");
    };
    for (at, column) in row.columns().iter().enumerate() {
        println!("{:<16} {}", column.name(), row.get::<_, Option<&str>>(at).unwrap_or("none"));
    }
    Ok(true)
}

async fn redrive(client: &Client, ids: &[i64]) -> anyhow::Result<bool> {
    let mut redriven = 0;
    let mut said = SystemTime::now();
    for letters in ids.chunks(AT_ONCE) {
        let row = client.query_one("select relay.redrive($1)", &[&letters]).await.context(CURE)?;
        redriven += usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        if said.elapsed().is_ok_and(|time| time > Duration::from_secs(2)) {
            eprintln!("{redriven} of {} …", ids.len());
            said = SystemTime::now();
        }
    }
    println!("redrove {}; the running relay sends them", counted(redriven));
    let left = ids.len() - redriven;
    if left > 0 {
        println!(
            "{} cannot be redriven: there was no event to be read, or its body is not kept here (see `relay dead-letters show`)",
            counted(left)
        );
    }
    Ok(left == 0)
}
