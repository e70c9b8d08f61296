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
    ($and:expr) => {
        concat!("with moved as (
          insert into relay.progress as p
            (projection, tenant_id, aggregate_type, aggregate_id, version, position, moved_from)
          select $1, pg_catalog.unnest($11::pg_catalog.text[]), pg_catalog.unnest($12::pg_catalog.text[]),
            pg_catalog.unnest($13::pg_catalog.text[]), pg_catalog.unnest($14::bigint[]),
            pg_catalog.unnest($15::pg_catalog.text[]), pg_catalog.unnest($16::bigint[])
          where $2::boolean or ",
        is_ours!(),
        "
          on conflict (projection, tenant_id, aggregate_type, aggregate_id) do update
            set version = excluded.version, position = excluded.position,
              moved_from = excluded.moved_from
            where p.version operator(pg_catalog.=) excluded.moved_from
          returning p.xmax operator(pg_catalog.=) 0 as is_new
        ), as_meant as (
          select pg_catalog.count(*) operator(pg_catalog.=) pg_catalog.cardinality($11::pg_catalog.text[])
            and pg_catalog.count(*) filter (where is_new) operator(pg_catalog.=) $17::bigint",
        $and,
        " as yes
          from moved
        ), ")
    };
}

/// The condition that no aggregate of a tenant which seems new has progress from before the
/// table had tenants (see `version::CLAIM`). If one has, it is as if another host had been faster.
macro_rules! unclaimed {
    () => {
        " and not exists (
            select
            from unnest($11::pg_catalog.text[], $12::pg_catalog.text[], $13::pg_catalog.text[], $16::bigint[])
              as k (tenant_id, aggregate_type, aggregate_id, moved_from)
            cross join lateral (
              select from relay.progress as before
              where before.projection operator(pg_catalog.=) $1
                and before.tenant_id operator(pg_catalog.=) ''
                and before.aggregate_type operator(pg_catalog.=) k.aggregate_type
                and before.aggregate_id operator(pg_catalog.=) k.aggregate_id
                and before.moved_from operator(pg_catalog.=) -1
              offset 0
            ) as before
            where k.tenant_id operator(pg_catalog.<>) '' and k.moved_from operator(pg_catalog.=) 0)"
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
              select $1, pg_catalog.unnest($3::pg_catalog.uuid[]), pg_catalog.unnest($4::pg_catalog.date[]),
                pg_catalog.unnest($5::pg_catalog.text[]), pg_catalog.unnest($6::pg_catalog.text[]),
                pg_catalog.unnest($7::bigint[]), pg_catalog.unnest($8::pg_catalog.timestamptz[]),
                pg_catalog.unnest($9::pg_catalog.uuid[]), pg_catalog.unnest($10::pg_catalog.text[])
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

/// The events alone, those that are there already passed over.
const ARRIVED: &str = concat!(
    "with ",
    arrived!(concat!("$2::boolean or ", is_ours!()), " on conflict do nothing"),
    outcome!("true")
);

macro_rules! moved_and {
    ($and:expr, $on_conflict:literal) => {
        concat!(
            moved!($and),
            arrived!("(select yes from as_meant)", $on_conflict),
            outcome!("(select yes from as_meant)")
        )
    };
}

const MOVED_AND_ARRIVED: &str = moved_and!("", " on conflict do nothing");
const MOVED_AND_ARRIVED_OF_TENANTS: &str = moved_and!(unclaimed!(), " on conflict do nothing");

/// Where each event has moved its aggregate it is new, unless its id is that of another event: then
/// Postgres refuses the statement. To look for that before each row took a third of its time.
pub(crate) const MOVED_AND_NEW: &str = moved_and!("", "");
const MOVED_AND_NEW_OF_TENANTS: &str = moved_and!(unclaimed!(), "");

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
        let of_tenants =
            moves().any(|((tenant, ..), from, _)| !tenant.is_empty() && from.is_none());
        let sql = match (self.moves.is_empty(), self.all_next, of_tenants) {
            (true, ..) => ARRIVED,
            (false, false, false) => MOVED_AND_ARRIVED,
            (false, false, true) => MOVED_AND_ARRIVED_OF_TENANTS,
            (false, true, false) => MOVED_AND_NEW,
            (false, true, true) => MOVED_AND_NEW_OF_TENANTS,
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
