//! Whether an event is the next one of its aggregate.
//!
//! Knows: `relay.progress`, one row for each projection and aggregate. The
//! guard itself is pure: [`plan`] decides from the rows that [`lock`] read.
//! Must not know: the inbox, handlers, queues (but for FIFO groups, whose rest
//! waits behind a gap).

use crate::handler::{Mode, Tx};
use envelope::Event;
use std::collections::{BTreeMap, HashSet};

/// Aggregate type and id.
pub(crate) type Key = (String, String);

/// The last applied version of each aggregate; one that is not there is at 0.
pub(crate) type Progress = BTreeMap<Key, i64>;

/// An event to apply, as the guard sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) event: &'a Event,
    pub(crate) group: Option<&'a str>,
}

/// What the guard says of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It is new as far as versions tell.
    Next,
    /// Its version was applied before.
    Duplicate,
    /// Versions before it are missing; this one was expected.
    Gap { expected: i64 },
    /// A gap stands before it in its FIFO group.
    HeldBack,
}

pub(crate) fn key(event: &Event) -> Key {
    (event.aggregate_type.clone(), event.aggregate_id.clone())
}

/// The version that guards the event, if any does.
pub(crate) fn guarded(event: &Event, mode: Mode) -> Option<i64> {
    match mode {
        Mode::Once => None,
        Mode::Versioned => event.aggregate_version,
    }
}

/// Judges the candidates in order, and moves `progress` to where it will be
/// when each [`Verdict::Next`] has been applied.
pub(crate) fn plan<'a>(
    candidates: &[Candidate<'a>],
    progress: &mut Progress,
    mode: Mode,
) -> Vec<Verdict> {
    let mut stopped: HashSet<&str> = HashSet::new();
    let mut judge = |candidate: &Candidate<'a>| {
        if candidate.group.is_some_and(|group| stopped.contains(group)) {
            return Verdict::HeldBack;
        }
        let Some(version) = guarded(candidate.event, mode) else {
            return Verdict::Next;
        };
        let key = key(candidate.event);
        let last = progress.get(&key).copied().unwrap_or(0);
        if version <= last {
            Verdict::Duplicate
        } else if version - 1 == last {
            progress.insert(key, version);
            Verdict::Next
        } else {
            stopped.extend(candidate.group);
            Verdict::Gap { expected: last + 1 }
        }
    };
    candidates.iter().map(&mut judge).collect()
}

/// Puts events of one aggregate that a standard queue reordered back in order,
/// in the places that they have; FIFO groups are in order as they are.
pub(crate) fn sort_within_aggregates<T>(
    items: &mut [T],
    candidate: impl Fn(&T) -> Candidate<'_>,
    mode: Mode,
) {
    let mut places: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        let candidate = candidate(item);
        if candidate.group.is_none() && guarded(candidate.event, mode).is_some() {
            places.entry(key(candidate.event)).or_default().push(at);
        }
    }
    for places in places.into_values() {
        // Few events of one aggregate stand in one batch: insertion sort by swaps.
        for end in 1..places.len() {
            for at in (1..=end).rev() {
                let version = |at: usize| candidate(&items[places[at]]).event.aggregate_version;
                if version(at - 1) <= version(at) {
                    break;
                }
                items.swap(places[at - 1], places[at]);
            }
        }
    }
}

/// Reads and locks the progress of the candidates' aggregates.
///
/// In key order, so that two hosts with the same aggregates wait for each other
/// and do not deadlock. An aggregate without a row cannot be locked; [`advance`]
/// notices when another host was faster.
pub(crate) async fn lock(
    tx: &mut Tx<'_>,
    projection: &str,
    candidates: &[Candidate<'_>],
    mode: Mode,
) -> Result<Progress, tokio_postgres::Error> {
    let keys: HashSet<Key> = candidates
        .iter()
        .filter(|candidate| guarded(candidate.event, mode).is_some())
        .map(|candidate| key(candidate.event))
        .collect();
    if keys.is_empty() {
        return Ok(Progress::new());
    }
    let (types, ids): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    let rows = tx
        .query(
            "select p.aggregate_type, p.aggregate_id, p.version
             from unnest($2::text[], $3::text[]) as wanted (aggregate_type, aggregate_id)
             join relay.progress as p
               on p.projection = $1
               and p.aggregate_type = wanted.aggregate_type
               and p.aggregate_id = wanted.aggregate_id
             order by 1, 2
             for update of p",
            &[&projection, &types, &ids],
        )
        .await?;
    Ok(rows.into_iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Writes where each aggregate came to; false if another host was faster with one.
pub(crate) async fn advance(
    tx: &mut Tx<'_>,
    projection: &str,
    before: &Progress,
    after: &Progress,
) -> Result<bool, tokio_postgres::Error> {
    let moved = |(key, version): &(&Key, &i64)| before.get(*key) != Some(*version);
    let (known, new): (Vec<_>, Vec<_>) =
        after.iter().filter(moved).partition(|(key, _)| before.contains_key(*key));
    for (entries, sql) in [
        (
            known,
            "update relay.progress as p set version = moved.version
             from unnest($2::text[], $3::text[], $4::bigint[])
               as moved (aggregate_type, aggregate_id, version)
             where p.projection = $1
               and p.aggregate_type = moved.aggregate_type
               and p.aggregate_id = moved.aggregate_id",
        ),
        (
            new,
            "insert into relay.progress (projection, aggregate_type, aggregate_id, version)
             select $1, aggregate_type, aggregate_id, version
             from unnest($2::text[], $3::text[], $4::bigint[])
               as moved (aggregate_type, aggregate_id, version)
             order by 2, 3
             on conflict do nothing",
        ),
    ] {
        if entries.is_empty() {
            continue;
        }
        let types: Vec<&str> = entries.iter().map(|((kind, _), _)| kind.as_str()).collect();
        let ids: Vec<&str> = entries.iter().map(|((_, id), _)| id.as_str()).collect();
        let versions: Vec<i64> = entries.iter().map(|(_, version)| **version).collect();
        let rows = tx.execute(sql, &[&projection, &types, &ids, &versions]).await?;
        if usize::try_from(rows) != Ok(entries.len()) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(aggregate: u8, version: Option<i64>) -> Event {
        let version = version.map_or("null".to_owned(), |v| v.to_string());
        Event::from_json(&format!(
            r#"{{"event_id":"01930000-0000-7000-8000-000000000001","event_type":"t",
               "timestamp":"2026-01-15T10:30:00Z","aggregate_type":"a",
               "aggregate_id":"{aggregate}","aggregate_version":{version},"data":1}}"#
        ))
        .unwrap()
    }

    fn candidates<'a>(events: &'a [(Event, Option<String>)]) -> Vec<Candidate<'a>> {
        let candidate = |(event, group): &'a (Event, Option<String>)| Candidate {
            event,
            group: group.as_deref(),
        };
        events.iter().map(candidate).collect()
    }

    fn judged(start: i64, versions: &[Option<i64>], mode: Mode) -> Vec<Verdict> {
        let events: Vec<_> = versions.iter().map(|v| (event(1, *v), None)).collect();
        let mut progress = Progress::from([(("a".to_owned(), "1".to_owned()), start)]);
        plan(&candidates(&events), &mut progress, mode)
    }

    #[test]
    fn equal_and_lower_are_duplicates_one_more_is_next_and_higher_is_a_gap() {
        let versions = [Some(2), Some(3), Some(5), Some(4), Some(4), None, Some(5)];
        assert_eq!(
            judged(2, &versions, Mode::Versioned),
            [
                Verdict::Duplicate,
                Verdict::Next,
                Verdict::Gap { expected: 4 },
                Verdict::Next,
                Verdict::Duplicate,
                Verdict::Next,
                Verdict::Next,
            ]
        );
        assert!(judged(2, &versions, Mode::Once).iter().all(|v| *v == Verdict::Next));
    }

    #[test]
    fn the_highest_version_does_not_overflow() {
        assert_eq!(judged(i64::MAX, &[Some(i64::MAX)], Mode::Versioned), [Verdict::Duplicate]);
    }

    proptest! {
        /// The versions that are Next are exactly the run from where progress stood, without a hole.
        #[test]
        fn what_is_applied_of_an_aggregate_has_no_gap_and_no_repeat(
            events in proptest::collection::vec((0..3_u8, 1..6_i64, any::<bool>()), 0..20)
        ) {
            let events: Vec<_> = events
                .into_iter()
                .map(|(aggregate, version, fifo)| {
                    (event(aggregate, Some(version)), fifo.then(|| aggregate.to_string()))
                })
                .collect();
            let candidates = candidates(&events);
            let mut progress = Progress::new();
            let verdicts = plan(&candidates, &mut progress, Mode::Versioned);
            let mut last = Progress::new();
            let mut stopped = HashSet::new();
            for (candidate, verdict) in candidates.iter().zip(&verdicts) {
                let version = candidate.event.aggregate_version.unwrap();
                let reached = last.entry(key(candidate.event)).or_default();
                let blocked = candidate.group.is_some_and(|g| stopped.contains(g));
                prop_assert_eq!(blocked, *verdict == Verdict::HeldBack);
                match verdict {
                    Verdict::Next => { prop_assert_eq!(version, *reached + 1); *reached = version; }
                    Verdict::Duplicate => prop_assert!(version <= *reached),
                    Verdict::Gap { expected } => {
                        prop_assert_eq!(*expected, *reached + 1);
                        prop_assert!(version > *expected);
                        stopped.extend(candidate.group);
                    }
                    Verdict::HeldBack => {}
                }
            }
            last.retain(|_, version| *version > 0);
            prop_assert_eq!(progress, last);
        }

        #[test]
        fn sorting_orders_each_aggregate_and_keeps_every_place(
            events in proptest::collection::vec((0..3_u8, 1..6_i64), 0..20)
        ) {
            let before: Vec<_> = events.iter().map(|(a, v)| (event(*a, Some(*v)), None)).collect();
            let mut after: Vec<&(Event, Option<String>)> = before.iter().collect();
            sort_within_aggregates(
                &mut after,
                |item| Candidate { event: &item.0, group: item.1.as_deref() },
                Mode::Versioned,
            );
            let ids = |items: &[&(Event, Option<String>)]| -> Vec<String> {
                items.iter().map(|item| item.0.aggregate_id.clone()).collect()
            };
            prop_assert_eq!(ids(&after), ids(&before.iter().collect::<Vec<_>>()));
            for aggregate in 0..3_u8 {
                let of = |items: Vec<&(Event, Option<String>)>| -> Vec<i64> {
                    items
                        .into_iter()
                        .filter(|item| item.0.aggregate_id == aggregate.to_string())
                        .map(|item| item.0.aggregate_version.unwrap())
                        .collect()
                };
                let mut sorted = of(before.iter().collect());
                sorted.sort_unstable();
                prop_assert_eq!(of(after.clone()), sorted);
            }
        }
    }
}
