//! What the commands about kept events have in common: their filters, their lists, giving up.

use super::Usage;
use super::moment::moment;
use crate::out::{self, out};
use clap::Args;
use relay::admin::{Filter, Kept, Listed};
use std::time::SystemTime;
use tokio_postgres::Client;

/// Which events are meant: those that all of the given filters let through. Each command adds the
/// filter by destination or projection.
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
    /// Those kept since then: a time such as 2026-01-15T10:30:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<SystemTime>,
    /// Those kept until then.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    until: Option<SystemTime>,
}

impl Filters {
    pub(super) fn at(self, place: Option<String>) -> (Filter, bool) {
        let Self { ids, all, event_type, key, since, until } = self;
        (Filter { ids, place, event_type, key, since, until }, all)
    }
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

/// How the events of a table are called and printed.
pub(super) trait Shown: Kept {
    /// What one of them is called; an `s` makes it more.
    const NOUN: &'static str;
    /// The command.
    const COMMAND: &'static str;
    /// A filter to name as an example.
    const EXAMPLE: &'static str;

    /// The lines of a list.
    fn lines(&self) -> Vec<String>;

    /// The names and values of all that is kept, but for the body.
    fn fields(&self) -> Vec<(&'static str, String)>;

    /// The body, in a single event.
    fn body(&self) -> Option<&str>;
}

pub(super) fn counted<T: Shown>(count: usize) -> String {
    format!("{count} {}{}", T::NOUN, if count == 1 { "" } else { "s" })
}

/// The numbers of those that are meant, and whether every number that was given is among them.
/// Refuses to mean all of them by saying nothing.
pub(super) async fn meant<T: Shown>(
    client: &Client,
    (filter, all): &(Filter, bool),
) -> anyhow::Result<(Vec<i64>, bool)> {
    let Filter { ids, place, event_type, key, since, until } = filter;
    let texts = [place, event_type, key];
    let said = *all
        || !ids.is_empty()
        || texts.iter().any(|text| text.is_some())
        || [since, until].iter().any(|time| time.is_some());
    if !said {
        return Err(Usage(format!(
            "expected numbers of {}s, a filter such as {}, or --all, found none; see `{} list`",
            T::NOUN,
            T::EXAMPLE,
            T::COMMAND
        ))
        .into());
    }
    let found = relay::admin::ids::<T>(client, filter).await?;
    let there = all_there::<T>(filter, |id| found.contains(&id));
    Ok((found, there))
}

/// Says which of the given numbers there are none of.
fn all_there<T: Shown>(filter: &Filter, is_there: impl Fn(i64) -> bool) -> bool {
    let missing = filter.ids.iter().filter(|id| !is_there(**id));
    let missing: Vec<String> = missing.map(ToString::to_string).collect();
    if missing.is_empty() {
        return true;
    }
    out::error(&format!(
        "relay: expected a {} of each number, found none of {}; see `{} list`",
        T::NOUN,
        missing.join(", "),
        T::COMMAND
    ));
    false
}

/// Prints the newest, the newest last.
pub(super) async fn list<T: Shown>(
    client: &Client,
    (filter, _): &(Filter, bool),
    Listing { limit, json }: Listing,
) -> anyhow::Result<bool> {
    let Listed { events, older } = relay::admin::list::<T>(client, filter, limit).await?;
    for event in &events {
        if json {
            out::json(event)?;
            continue;
        }
        for line in event.lines() {
            out!("{line}");
        }
    }
    if !json {
        let shown = counted::<T>(events.len());
        match older {
            0 => out!("{shown}"),
            older => out!("{shown} and {older} older ones; --limit shows more"),
        }
    }
    let cut = older > 0;
    Ok(cut || all_there::<T>(filter, |id| events.iter().any(|event| event.id() == id)))
}

/// Prints one with all that is kept of it, the body last.
pub(super) async fn show<T: Shown>(client: &Client, id: i64, json: bool) -> anyhow::Result<bool> {
    let Some(event) = relay::admin::get::<T>(client, id).await? else {
        return Ok(all_there::<T>(&Filter { ids: vec![id], ..Filter::default() }, |_| false));
    };
    if json {
        out::json(&event)?;
        return Ok(true);
    }
    let fields = event.fields();
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields {
        out!("{name:<width$}  {value}");
    }
    out!("body");
    out::text(event.body().unwrap_or_default());
    Ok(true)
}

/// Gives up those that are meant, or only says how many they are.
pub(super) async fn drop<T: Shown>(
    client: &Client,
    which: &(Filter, bool),
    yes: bool,
) -> anyhow::Result<bool> {
    let (ids, there) = meant::<T>(client, which).await?;
    if !yes {
        out!("would drop {}; --yes drops them", counted::<T>(ids.len()));
        return Ok(there);
    }
    let dropped = relay::admin::drop::<T>(client, &ids).await?;
    out!("dropped {}", counted::<T>(usize::try_from(dropped).unwrap_or(usize::MAX)));
    Ok(there)
}

/// A text, or that there is none.
pub(super) fn or_none(text: Option<&str>) -> String {
    text.unwrap_or("none").to_owned()
}
