//! The inbox, the progress and the parked events: the SQL around a handler.

use crate::database::Tx;
use crate::record::{Record, day};
use envelope::Event;
use std::collections::{BTreeMap, HashSet};
use time::{Date, OffsetDateTime};
use tokio_postgres::Error;
use uuid::Uuid;

/// One event of a batch with the message it came in.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) record: Record,
    pub(crate) event: Event,
}

/// What the inbox said of a batch.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Events that were not there before.
    fresh: HashSet<Uuid>,
    /// Events of earlier days are forgotten: new ones cannot be told from old ones.
    horizon: Option<Date>,
}

impl Admitted {
    /// Whether the event is new; each answer of yes is given once.
    pub(crate) fn take(&mut self, event: &Event) -> bool {
        self.fresh.remove(&event.event_id)
    }

    pub(crate) fn is_forgotten(&self, event: &Event) -> bool {
        self.horizon.is_some_and(|horizon| day(event) < horizon)
    }
}

const ADMIT: &str = "
with horizon as materialized (
  select case when day > '-infinity' then day end as day from relay.inbox_horizon
), fresh as (
  insert into relay.inbox
    (projection, event_id, day, aggregate_type, aggregate_id, aggregate_version, sent_at)
  select $1, e.event_id, e.day, e.aggregate_type, e.aggregate_id, e.aggregate_version, e.sent_at
  from unnest($2::uuid[], $3::date[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[])
    with ordinality as e (event_id, day, aggregate_type, aggregate_id, aggregate_version, sent_at, place)
  order by e.place
  on conflict do nothing
  returning event_id
)
select event_id, null::date from fresh
union all
select null, day from horizon";

/// Writes the batch's events into the inbox, in one round trip.
pub(crate) async fn admit(
    tx: &mut Tx<'_>,
    projection: &str,
    works: &[&Work],
) -> Result<Admitted, Error> {
    let ids: Vec<Uuid> = works.iter().map(|w| w.event.event_id).collect();
    let days: Vec<Date> = works.iter().map(|w| day(&w.event)).collect();
    let types: Vec<&str> = works
        .iter()
        .map(|w| w.event.aggregate_type.as_str())
        .collect();
    let aggregates: Vec<&str> = works
        .iter()
        .map(|w| w.event.aggregate_id.as_str())
        .collect();
    let versions: Vec<Option<i64>> = works.iter().map(|w| w.event.aggregate_version).collect();
    let sent: Vec<Option<OffsetDateTime>> = works.iter().map(|w| w.record.sent_at).collect();
    let rows = tx
        .query(
            ADMIT,
            &[
                &projection,
                &ids,
                &days,
                &types,
                &aggregates,
                &versions,
                &sent,
            ],
        )
        .await?;
    let mut admitted = Admitted {
        fresh: HashSet::new(),
        horizon: None,
    };
    for row in rows {
        match row.get::<_, Option<Uuid>>(0) {
            Some(id) => drop(admitted.fresh.insert(id)),
            None => admitted.horizon = row.get(1),
        }
    }
    Ok(admitted)
}

/// How far each aggregate of a batch has come; its rows are locked until the end of
/// the transaction, in one order for everyone, so that two hosts cannot deadlock.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    versions: BTreeMap<(String, String), (i64, bool)>,
}

const LOCK: &str = "
with new as (
  insert into relay.progress (projection, aggregate_type, aggregate_id, version)
  select $1, a.type, a.id, 0
  from unnest($2::text[], $3::text[]) as a (type, id)
  order by a.type, a.id
  on conflict do nothing
)
select 1";

const READ: &str = "
select p.aggregate_type, p.aggregate_id, p.version
from relay.progress as p
join unnest($2::text[], $3::text[]) as a (type, id)
  on p.aggregate_type = a.type and p.aggregate_id = a.id
where p.projection = $1
order by p.aggregate_type, p.aggregate_id
for update of p";

const ADVANCE: &str = "
update relay.progress as p set version = a.version
from unnest($2::text[], $3::text[], $4::bigint[]) as a (type, id, version)
where p.projection = $1 and p.aggregate_type = a.type and p.aggregate_id = a.id";

impl Progress {
    /// Locks and reads the progress of the aggregates that have versions.
    pub(crate) async fn lock(
        tx: &mut Tx<'_>,
        projection: &str,
        works: &[&Work],
    ) -> Result<Self, Error> {
        let versioned = works.iter().filter(|w| w.event.aggregate_version.is_some());
        let versions: BTreeMap<_, _> = versioned
            .map(|w| {
                (
                    (w.event.aggregate_type.clone(), w.event.aggregate_id.clone()),
                    (0, false),
                )
            })
            .collect();
        let mut progress = Self { versions };
        if progress.versions.is_empty() {
            return Ok(progress);
        }
        let types: Vec<&str> = progress
            .versions
            .keys()
            .map(|(kind, _)| kind.as_str())
            .collect();
        let ids: Vec<&str> = progress
            .versions
            .keys()
            .map(|(_, id)| id.as_str())
            .collect();
        tx.execute(LOCK, &[&projection, &types, &ids]).await?;
        let rows = tx.query(READ, &[&projection, &types, &ids]).await?;
        for row in rows {
            progress
                .versions
                .insert((row.get(0), row.get(1)), (row.get(2), false));
        }
        Ok(progress)
    }

    /// The version of the last event applied to the aggregate.
    pub(crate) fn of(&self, event: &Event) -> i64 {
        let key = (event.aggregate_type.clone(), event.aggregate_id.clone());
        self.versions.get(&key).map_or(0, |(version, _)| *version)
    }

    /// Takes note that an event was applied.
    pub(crate) fn advance(&mut self, event: &Event, version: i64) {
        let key = (event.aggregate_type.clone(), event.aggregate_id.clone());
        self.versions.insert(key, (version, true));
    }

    /// Writes what has changed.
    pub(crate) async fn save(&self, tx: &mut Tx<'_>, projection: &str) -> Result<(), Error> {
        let changed: Vec<_> = self
            .versions
            .iter()
            .filter(|(_, (_, changed))| *changed)
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let types: Vec<&str> = changed.iter().map(|((kind, _), _)| kind.as_str()).collect();
        let ids: Vec<&str> = changed.iter().map(|((_, id), _)| id.as_str()).collect();
        let versions: Vec<i64> = changed.iter().map(|(_, (version, _))| *version).collect();
        tx.execute(ADVANCE, &[&projection, &types, &ids, &versions])
            .await?;
        Ok(())
    }
}

/// Keeps an event that the handler refuses, whole, with the reason.
pub(crate) async fn park(
    tx: &mut Tx<'_>,
    projection: &str,
    work: &Work,
    reason: &str,
) -> Result<(), Error> {
    const PARK: &str = "
insert into relay.parked (projection, event_id, event_type, aggregate_type, aggregate_id, reason, body)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (projection, event_id) do nothing";
    let Work { record, event } = work;
    tx.execute(
        PARK,
        &[
            &projection,
            &event.event_id,
            &event.event_type,
            &event.aggregate_type,
            &event.aggregate_id,
            &reason,
            &record.body,
        ],
    )
    .await?;
    Ok(())
}
