//! The ledger's one write: where each aggregate came to, and which events have arrived.
//!
//! Knows: how `relay.progress` and `relay.inbox` are written, in one statement, and how one sees
//! that another host was faster. Must not know: which events are the next ones, handlers, queues.

use crate::begin::is_ours;
use crate::inbox::{content, day, tenant};
use crate::statements::Step;
use crate::version::{Key, Mark, Progress};
use envelope::{Event, Position};
use std::collections::HashSet;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

/// The aggregates' rows; `as_meant` says whether each was moved from the version that it had, or
/// made where there was none: if not, another host was faster. A row that an insert has just made
/// has no xmax, so none is taken for one that was there.
///
/// This is no update: that would be joined with the arrays, by a plan that may read the whole table.
/// A select list expands arrays in step, and faster than a from clause.
macro_rules! moved {
    () => {
        concat!("with moved as (
          insert into relay.progress as p
            (projection, tenant_id, aggregate_type, aggregate_id, version, position, moved_from)
          select $1, unnest($11::text[]), unnest($12::text[]), unnest($13::text[]),
            unnest($14::bigint[]), unnest($15::text[]), unnest($16::bigint[])
          where $2::boolean or ",
        is_ours!(),
        "
          on conflict (projection, tenant_id, aggregate_type, aggregate_id) do update
            set version = excluded.version, position = excluded.position,
              moved_from = excluded.moved_from
            where p.version = excluded.moved_from
          returning p.xmax = 0 as is_new
        ), as_meant as (
          select count(*) = cardinality($11::text[]) and count(*) filter (where is_new) = $17::bigint as yes
          from moved
        ), ")
    };
}

/// The events' rows, in the order of their arrival: the identity column counts in the order of
/// application.
macro_rules! arrived {
    ($where:expr, $on_conflict:literal) => {
        concat!(
            "arrived as (
              insert into relay.inbox (projection, event_id, day, aggregate_type, aggregate_id,
                aggregate_version, sent_at, content, tenant_id)
              select $1, unnest($3::uuid[]), unnest($4::date[]), unnest($5::text[]), unnest($6::text[]),
                unnest($7::bigint[]), unnest($8::timestamptz[]), unnest($9::uuid[]), unnest($10::text[])
              where ",
            $where,
            $on_conflict,
            " returning event_id
            ) "
        )
    };
}

macro_rules! outcome {
    ($as_meant:literal) => {
        concat!(
            "select ",
            $as_meant,
            ", array(select event_id from arrived), exists (select from relay.awaited)"
        )
    };
}

const ARRIVED: &str = concat!(
    "with ",
    arrived!(concat!("$2::boolean or ", is_ours!()), " on conflict do nothing"),
    outcome!("true")
);

const MOVED_AND_ARRIVED: &str = concat!(
    moved!(),
    arrived!("(select yes from as_meant)", " on conflict do nothing"),
    outcome!("(select yes from as_meant)")
);

/// Where each event has moved its aggregate it is new, unless its id is that of another event: then
/// Postgres refuses the statement. To look for that before each row took a third of its time.
pub(crate) const MOVED_AND_NEW: &str = concat!(
    moved!(),
    arrived!("(select yes from as_meant)", ""),
    outcome!("(select yes from as_meant)")
);

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Entry<'a> {
    /// The aggregates that are moved: from which version, if they have a row, and where to.
    moves: Vec<(&'a Key, Option<i64>, Mark)>,
    /// The events that arrived, with when the queue received them.
    arrived: Vec<(&'a Event, Option<OffsetDateTime>)>,
    /// Each event has a version, which its aggregate is moved to or beyond.
    all_next: bool,
}

impl<'a> Entry<'a> {
    /// Moves each aggregate whose mark is another after than before.
    pub(crate) fn of_moves(before: &Progress, after: &'a Progress) -> Self {
        let moved = after.iter().filter(|(key, mark)| before.get(*key) != Some(*mark));
        let was = |key: &Key| before.get(key).map(|mark| mark.version);
        let moves = moved.map(|(key, to)| (key, was(key), *to)).collect();
        Self { moves, ..Self::default() }
    }

    /// The same where nobody has looked whether events are new: those that arrive all have versions
    /// that follow on those before.
    pub(crate) fn all_next(self) -> Self {
        Self { all_next: true, ..self }
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
        let sql = match (self.moves.is_empty(), self.all_next) {
            (true, _) => ARRIVED,
            (false, false) => MOVED_AND_ARRIVED,
            (false, true) => MOVED_AND_NEW,
        };
        let step = Step::new(sql)
            .with(projection)
            .with(begun)
            .with(events().map(|event| event.event_id).collect::<Vec<_>>())
            .with(events().map(day).collect::<Vec<_>>())
            .with(events().map(|event| event.aggregate_type.as_str()).collect::<Vec<_>>())
            .with(events().map(|event| event.aggregate_id.as_str()).collect::<Vec<_>>())
            .with(events().map(|event| event.aggregate_version).collect::<Vec<_>>())
            .with(self.arrived.iter().map(|(_, sent_at)| *sent_at).collect::<Vec<_>>())
            .with(events().map(content).collect::<Vec<_>>())
            .with(events().map(tenant).collect::<Vec<_>>());
        if self.moves.is_empty() {
            return step;
        }
        step.with(moves().map(|((tenant, ..), ..)| tenant.as_str()).collect::<Vec<_>>())
            .with(moves().map(|((_, kind, _), ..)| kind.as_str()).collect::<Vec<_>>())
            .with(moves().map(|((.., id), ..)| id.as_str()).collect::<Vec<_>>())
            .with(moves().map(|(.., to)| to.version).collect::<Vec<_>>())
            .with(moves().map(|(.., to)| written(to.position)).collect::<Vec<_>>())
            .with(moves().map(|(_, from, _)| from.unwrap_or(0)).collect::<Vec<_>>())
            .with(i64::try_from(moves().filter(|(_, from, _)| from.is_none()).count()).unwrap_or(0))
    }

    /// What came of it, by the rows of its step; nothing if another host was faster with an
    /// aggregate: it had another version, or had a row already, or has none.
    pub(crate) fn read(rows: &[Row]) -> Option<Recorded> {
        let row = rows.first().filter(|row| row.get(0))?;
        let arrived: Vec<Uuid> = row.get(1);
        Some(Recorded { new: arrived.into_iter().collect(), awaited: row.get(2) })
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
