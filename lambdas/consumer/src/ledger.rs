//! The ledger's one write: where each aggregate came to, and which events have arrived.
//!
//! Knows: how `relay.progress` and `relay.inbox` are written, in one statement, and how one sees
//! that another host was faster. Must not know: which events are the next ones, handlers, queues.

use crate::inbox::{content, day};
use crate::statements::Step;
use crate::version::{Key, Mark, Progress};
use envelope::{Event, Position};
use std::collections::HashSet;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

/// The progress is no update: that would be joined with the arrays, by a plan that may read the
/// whole table. The inbox is ordered by arrival: its identity column counts in the order of
/// application.
const SQL: &str = "with moved as (
      insert into relay.progress as p
        (projection, aggregate_type, aggregate_id, version, position, moved_from)
      select $1, aggregate_type, aggregate_id, version, position, moved_from
      from unnest($3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[])
        as m (aggregate_type, aggregate_id, version, position, moved_from)
      where $2::boolean or current_setting('transaction_deferrable')::boolean
      on conflict (projection, aggregate_type, aggregate_id) do update
        set version = excluded.version, position = excluded.position, moved_from = excluded.moved_from
        where p.version = excluded.moved_from
      returning p.xmax = 0 as is_new
    ), arrived as (
      insert into relay.inbox
        (projection, event_id, day, aggregate_type, aggregate_id, aggregate_version, sent_at, content)
      select $1, event_id, day, aggregate_type, aggregate_id, aggregate_version, sent_at, content
      from unnest($8::uuid[], $9::date[], $10::text[], $11::text[], $12::bigint[], $13::timestamptz[], $14::uuid[])
        with ordinality
        as a (event_id, day, aggregate_type, aggregate_id, aggregate_version, sent_at, content, place)
      where $2::boolean or current_setting('transaction_deferrable')::boolean
      order by place
      on conflict do nothing
      returning event_id
    )
    select array(select is_new from moved), array(select event_id from arrived),
      exists (select from relay.awaited)";

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Entry<'a> {
    /// The aggregates that are moved: from which version, if they have a row, and where to.
    moves: Vec<(&'a Key, Option<i64>, Mark)>,
    /// The events that arrived, with when the queue received them.
    arrived: Vec<(&'a Event, Option<OffsetDateTime>)>,
}

impl<'a> Entry<'a> {
    /// Moves each aggregate whose mark is another after than before.
    pub(crate) fn of_moves(before: &Progress, after: &'a Progress) -> Self {
        let moved = after.iter().filter(|(key, mark)| before.get(*key) != Some(*mark));
        let was = |key: &Key| before.get(key).map(|mark| mark.version);
        Self { moves: moved.map(|(key, to)| (key, was(key), *to)).collect(), arrived: Vec::new() }
    }

    /// The same, with an event that arrives after those before.
    pub(crate) fn arrives(&mut self, event: &'a Event, sent_at: Option<OffsetDateTime>) {
        self.arrived.push((event, sent_at));
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.arrived.is_empty()
    }

    /// What is to be run. `begun` says whether the transaction is known to have begun.
    pub(crate) fn step(&self, projection: &'a str, begun: bool) -> Step<'a> {
        let moves = || self.moves.iter();
        let events = || self.arrived.iter().map(|(event, _)| *event);
        Step::new(SQL)
            .with(projection)
            .with(begun)
            .with(moves().map(|((kind, _), ..)| kind.as_str()).collect::<Vec<_>>())
            .with(moves().map(|((_, id), ..)| id.as_str()).collect::<Vec<_>>())
            .with(moves().map(|(.., to)| to.version).collect::<Vec<_>>())
            .with(moves().map(|(.., to)| written(to.position)).collect::<Vec<_>>())
            .with(moves().map(|(_, from, _)| from.unwrap_or(0)).collect::<Vec<_>>())
            .with(events().map(|event| event.event_id).collect::<Vec<_>>())
            .with(events().map(day).collect::<Vec<_>>())
            .with(events().map(|event| event.aggregate_type.as_str()).collect::<Vec<_>>())
            .with(events().map(|event| event.aggregate_id.as_str()).collect::<Vec<_>>())
            .with(events().map(|event| event.aggregate_version).collect::<Vec<_>>())
            .with(self.arrived.iter().map(|(_, sent_at)| *sent_at).collect::<Vec<_>>())
            .with(events().map(content).collect::<Vec<_>>())
    }

    /// What came of it, by the rows of its step; nothing if another host was faster with an
    /// aggregate: it had another version, or had a row already, or has none.
    ///
    /// A row that an insert has just made has no xmax, so none is taken for one that was there.
    pub(crate) fn read(&self, rows: &[Row]) -> Option<Recorded> {
        let row = rows.first()?;
        let moved: Vec<bool> = row.get(0);
        let new = |is_new: &&bool| **is_new;
        let had_none = self.moves.iter().filter(|(_, from, _)| from.is_none()).count();
        let as_meant =
            moved.len() == self.moves.len() && moved.iter().filter(new).count() == had_none;
        let new: Vec<Uuid> = row.get(1);
        as_meant.then(|| Recorded { new: new.into_iter().collect(), awaited: row.get(2) })
    }
}

/// A position as the column holds it.
fn written(position: Position) -> String {
    if position == Position::default() { String::new() } else { position.to_string() }
}

/// What came of an entry.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// The events that were not there before.
    pub(crate) new: HashSet<Uuid>,
    /// Someone waits for something: one look into a table that is mostly empty.
    pub(crate) awaited: bool,
}
