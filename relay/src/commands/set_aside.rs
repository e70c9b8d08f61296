//! Events that were set aside with a reason, in a table of their own: found by filters, listed,
//! shown, given up. Dead letters are such, and so is what projections parked.

use super::moment::moment;
use anyhow::{Context, bail};
use clap::Args;
use std::time::SystemTime;
use tokio_postgres::{Client, Row};

/// Which events are meant: those that all the given filters let through. Each command adds the
/// one by where they were to go.
#[derive(Debug, Args)]
pub(crate) struct Filters {
    /// Their numbers.
    ids: Vec<i64>,
    /// All that there are.
    #[arg(long, conflicts_with_all = ["ids", "event_type", "key", "since", "until"])]
    all: bool,
    /// Those of this event type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Those of this key: the aggregate's id, unless a rule says otherwise.
    #[arg(long)]
    key: Option<String>,
    /// Those set aside since then: a time such as 2026-01-15T10:30:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<SystemTime>,
    /// Those set aside until then.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    until: Option<SystemTime>,
}

/// How many are listed, and how.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// How many at most.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// A JSON object a line, without the body.
    #[arg(long)]
    json: bool,
}

/// A table of events that were set aside. Each has a number (`id`) and an `event_type`.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The columns of the key, of where the event was to go, and of when it was set aside.
    pub(super) key: &'static str,
    pub(super) place: &'static str,
    pub(super) since: &'static str,
    /// What one of them is called; an `s` makes it more.
    pub(super) noun: &'static str,
    /// The command, and the filter to name as an example.
    pub(super) command: &'static str,
    pub(super) example: &'static str,
    /// What to do when the table cannot be used.
    pub(super) cure: &'static str,
    /// How wide the names of what is shown stand.
    pub(super) width: usize,
}

/// The filters, with the place where the events were to go.
pub(super) struct Which<'a> {
    pub(super) filters: &'a Filters,
    pub(super) place: Option<&'a String>,
}

impl Table {
    pub(super) fn counted(&self, count: usize) -> String {
        format!("{count} {}{}", self.noun, if count == 1 { "" } else { "s" })
    }

    /// Runs a query whose condition, in place of `{}`, is that of the filters.
    async fn query(
        &self,
        client: &Client,
        which: &Which<'_>,
        sql: impl FnOnce(&str) -> String,
    ) -> anyhow::Result<Vec<Row>> {
        let Self { key, place, since, .. } = self;
        let condition = format!(
            "(cardinality($1::bigint[]) = 0 or id = any ($1))
             and ($2::text is null or {place} = $2) and ($3::text is null or event_type = $3)
             and ($4::text is null or {key} = $4)
             and ($5::timestamptz is null or {since} >= $5)
             and ($6::timestamptz is null or {since} <= $6)"
        );
        let Filters { ids, event_type, key, since, until, .. } = which.filters;
        let found = client
            .query(&sql(&condition), &[ids, &which.place, event_type, key, since, until])
            .await;
        found.context(self.cure)
    }

    /// The numbers of those that are meant. Refuses to mean all of them by saying nothing.
    pub(super) async fn meant(
        &self,
        client: &Client,
        which: &Which<'_>,
    ) -> anyhow::Result<Vec<i64>> {
        let Filters { ids, all, event_type, key, since, until } = which.filters;
        let texts = [&which.place.cloned(), event_type, key];
        let said = *all
            || !ids.is_empty()
            || texts.iter().any(|text| text.is_some())
            || [since, until].iter().any(|time| time.is_some());
        if !said {
            bail!(
                "expected numbers of {}s, a filter such as {}, or --all, found none; see `{} list`",
                self.noun,
                self.example,
                self.command
            );
        }
        let sql =
            |condition: &str| format!("select id from {} where {condition} order by id", self.name);
        let rows = self.query(client, which, sql).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Prints these columns of each, the newest last.
    pub(super) async fn list(
        &self,
        client: &Client,
        which: &Which<'_>,
        listing: &Listing,
        columns: &str,
        [as_line, as_json]: [fn(&Row) -> String; 2],
    ) -> anyhow::Result<bool> {
        let Listing { limit, json } = listing;
        let sql = |condition: &str| {
            format!(
                "select id, {columns}, count(*) over () as all_of_them from {} where {condition}
                 order by id desc limit {limit}",
                self.name
            )
        };
        let mut rows = self.query(client, which, sql).await?;
        rows.reverse();
        for row in &rows {
            println!("{}", if *json { as_json(row) } else { as_line(row) });
        }
        if !json {
            let all: i64 = rows.first().map_or(0, |row| row.get("all_of_them"));
            let shown = self.counted(rows.len());
            match all - i64::try_from(rows.len()).unwrap_or(i64::MAX) {
                0 => println!("{shown}"),
                older => println!("{shown} and {older} older ones; --limit shows more"),
            }
        }
        Ok(true)
    }

    /// Prints these columns, as text, of one, each on a line.
    pub(super) async fn show(
        &self,
        client: &Client,
        id: i64,
        columns: &str,
    ) -> anyhow::Result<bool> {
        let Self { name, noun, command, cure, width, .. } = self;
        let sql = format!("select id::text, {columns} from {name} where id = $1");
        let Some(row) = client.query_opt(&sql, &[&id]).await.context(*cure)? else {
            bail!("expected a {noun} of number {id}, found none; see `{command} list`");
        };
        for (at, column) in row.columns().iter().enumerate() {
            let value = row.get::<_, Option<&str>>(at).unwrap_or("none");
            println!("{:<width$} {value}", column.name());
        }
        Ok(true)
    }

    /// Gives up those that are meant, or only says how many they are.
    pub(super) async fn drop(
        &self,
        client: &Client,
        which: &Which<'_>,
        yes: bool,
    ) -> anyhow::Result<bool> {
        let ids = self.meant(client, which).await?;
        if !yes {
            println!("would drop {}; --yes drops them", self.counted(ids.len()));
            return Ok(ids.is_empty());
        }
        let sql = format!("delete from {} where id = any ($1)", self.name);
        let dropped = client.execute(&sql, &[&ids]).await.context(self.cure)?;
        println!("dropped {}", self.counted(usize::try_from(dropped).unwrap_or(usize::MAX)));
        Ok(true)
    }
}
