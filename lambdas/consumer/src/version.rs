//! Whether an event is the next one of its aggregate.
//!
//! Knows: `relay.progress`, one row for each projection and aggregate. The
//! guard itself is pure: [`plan`] decides from the rows that [`lock`] read.
//! Must not know: inbox rows, handlers, queues (but for FIFO groups, whose rest
//! waits behind a gap).

use crate::handler::{Mode, Tx};
use crate::inbox::tenant;
use crate::ledger::Entry;
use crate::statements::Step;
use crate::undone::Undone;
use envelope::{Event, Position};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use tokio_postgres::Row;

/// Tenant (empty where none is used), aggregate type and id.
pub(crate) type Key = (String, String, String);

/// Where an aggregate stands: by its version, then by the position of the event.
///
/// The guard of [`Mode::Versioned`] looks at the version alone.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Mark {
    pub(crate) version: i64,
    pub(crate) position: Position,
}

/// The mark of the last event applied to each aggregate; one that is not there has none yet.
pub(crate) type Progress = BTreeMap<Key, Mark>;

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
    /// A later one was applied before, and the last write wins.
    Stale,
    /// Versions before it are missing; this one was expected.
    Gap { expected: i64 },
    /// A gap stands before it in its FIFO group.
    HeldBack,
}

pub(crate) fn key(event: &Event) -> Key {
    let tenant_id = event.tenant_id.clone().unwrap_or_default();
    (tenant_id, event.aggregate_type.clone(), event.aggregate_id.clone())
}

/// The mark that guards the event, if any does.
pub(crate) fn guarded(event: &Event, mode: Mode) -> Option<Mark> {
    let position = event.position.unwrap_or_default();
    match (mode, event.aggregate_version) {
        (Mode::Once, _) | (Mode::Versioned, None) => None,
        (Mode::Versioned | Mode::Latest, Some(version)) => Some(Mark { version, position }),
        (Mode::Latest, None) => event.position.map(|position| Mark { version: 0, position }),
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
        let Some(mark) = guarded(candidate.event, mode) else {
            return Verdict::Next;
        };
        let key = key(candidate.event);
        let last = progress.get(&key).copied();
        let verdict = match mode {
            Mode::Latest => latest(mark, last),
            Mode::Once | Mode::Versioned => next_in_line(mark.version, last),
        };
        match verdict {
            Verdict::Next => drop(progress.insert(key, mark)),
            Verdict::Gap { .. } => stopped.extend(candidate.group),
            Verdict::Duplicate | Verdict::Stale | Verdict::HeldBack => {}
        }
        verdict
    };
    candidates.iter().map(&mut judge).collect()
}

/// The progress that makes each candidate the next of its aggregate, where there can be one and
/// it is worth a try: the last write wins over a version that nobody knows.
pub(crate) fn assume(candidates: &[Candidate<'_>], mode: Mode) -> Option<Progress> {
    if mode == Mode::Latest {
        return None;
    }
    let mut first: BTreeMap<Key, i64> = BTreeMap::new();
    for candidate in candidates {
        if let Some(mark) = guarded(candidate.event, mode) {
            first.entry(key(candidate.event)).or_insert(mark.version);
        }
    }
    let before: Progress = first
        .into_iter()
        .filter(|(_, version)| *version > 1)
        .map(|(key, version)| (key, Mark { version: version - 1, position: Position::default() }))
        .collect();
    let verdicts = plan(candidates, &mut before.clone(), mode);
    verdicts.iter().all(|verdict| *verdict == Verdict::Next).then_some(before)
}

/// Moves an aggregate's mark to an event that has had its effect.
pub(crate) fn applied(progress: &mut Progress, candidate: &Candidate<'_>, mode: Mode) {
    if let Some(mark) = guarded(candidate.event, mode) {
        let reached = progress.entry(key(candidate.event)).or_default();
        *reached = mark.max(*reached);
    }
}

fn latest(mark: Mark, last: Option<Mark>) -> Verdict {
    match last {
        Some(last) if mark == last => Verdict::Duplicate,
        Some(last) if mark < last => Verdict::Stale,
        Some(_) | None => Verdict::Next,
    }
}

fn next_in_line(version: i64, last: Option<Mark>) -> Verdict {
    let last = last.map_or(0, |last| last.version);
    if version <= last {
        Verdict::Duplicate
    } else if version - 1 == last {
        Verdict::Next
    } else {
        Verdict::Gap { expected: last + 1 }
    }
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
                let mark = |at: usize| guarded(candidate(&items[places[at]]).event, mode);
                if mark(at - 1) <= mark(at) {
                    break;
                }
                items.swap(places[at - 1], places[at]);
            }
        }
    }
}

/// Gives rows of an unknown tenant to the tenants of these aggregates, where those have none.
///
/// A row that was written before the table had tenants says -1 in `moved_from`: whose aggregate it is
/// nobody knows. The migration that brought tenants marks those rows, and each move unmarks its own.
const CLAIM: &str = "update relay.progress as p
    set tenant_id = wanted.tenant_id, moved_from = p.version
    from unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[])
      as wanted (tenant_id, aggregate_type, aggregate_id)
    where p.projection operator(pg_catalog.=) $1 and p.tenant_id operator(pg_catalog.=) ''
      and p.aggregate_type operator(pg_catalog.=) wanted.aggregate_type
      and p.aggregate_id operator(pg_catalog.=) wanted.aggregate_id
      and p.moved_from operator(pg_catalog.=) -1 and wanted.tenant_id operator(pg_catalog.<>) ''
      and not exists (
        select from relay.progress as own
        where own.projection operator(pg_catalog.=) $1
          and own.tenant_id operator(pg_catalog.=) wanted.tenant_id
          and own.aggregate_type operator(pg_catalog.=) wanted.aggregate_type
          and own.aggregate_id operator(pg_catalog.=) wanted.aggregate_id)";

/// A row at a time by its key: a plan made while the table was small would go on to read all of it
/// when it has grown.
const LOCK: &str =
    "select wanted.tenant_id, wanted.aggregate_type, wanted.aggregate_id, p.version, p.position
    from unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[])
      as wanted (tenant_id, aggregate_type, aggregate_id)
    cross join lateral (
      select version, position from relay.progress
      where projection operator(pg_catalog.=) $1
        and tenant_id operator(pg_catalog.=) wanted.tenant_id
        and aggregate_type operator(pg_catalog.=) wanted.aggregate_type
        and aggregate_id operator(pg_catalog.=) wanted.aggregate_id
      for update
    ) as p";

/// Of events without a version, the places of those whose aggregate has had events with one.
const VERSIONED: &str = "select wanted.place
    from unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[], $5::bigint[])
      as wanted (tenant_id, aggregate_type, aggregate_id, place)
    cross join lateral (
      select from relay.progress
      where projection operator(pg_catalog.=) $1
        and tenant_id operator(pg_catalog.=) wanted.tenant_id
        and aggregate_type operator(pg_catalog.=) wanted.aggregate_type
        and aggregate_id operator(pg_catalog.=) wanted.aggregate_id
      offset 0
    ) as p";

/// Asks which of these events, at their places among the items and without a version, are of an
/// aggregate whose other events have one ([`places`]).
pub(crate) fn versioned_among<'a>(projection: &'a str, events: &[(usize, &'a Event)]) -> Step<'a> {
    let of = |read: fn(&'a Event) -> &'a str| -> Vec<&'a str> {
        events.iter().map(|(_, event)| read(event)).collect()
    };
    let places = events.iter().map(|(place, _)| i64::try_from(*place).unwrap_or(i64::MAX));
    Step::new(VERSIONED)
        .with(projection)
        .with(of(tenant))
        .with(of(|event| &event.aggregate_type))
        .with(of(|event| &event.aggregate_id))
        .with(places.collect::<Vec<_>>())
}

/// The places that [`versioned_among`] found.
pub(crate) fn places(rows: &[Row]) -> HashSet<usize> {
    rows.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0)).ok()).collect()
}

/// Reads and locks the progress of the candidates' aggregates.
///
/// In key order (the keys come so, and each is looked up in its turn), so that two hosts
/// with the same aggregates wait for each other and do not deadlock. An aggregate without a row cannot be locked; [`Entry`]
/// notices when another host was faster.
pub(crate) async fn lock(
    tx: &mut Tx<'_>,
    projection: &str,
    candidates: &[Candidate<'_>],
    mode: Mode,
) -> Result<Progress, Undone> {
    let keys: BTreeSet<Key> = candidates
        .iter()
        .filter(|candidate| guarded(candidate.event, mode).is_some())
        .map(|candidate| key(candidate.event))
        .collect();
    if keys.is_empty() {
        return Ok(Progress::new());
    }
    let (mut tenants, mut types, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (tenant_id, kind, id) in keys {
        tenants.push(tenant_id);
        types.push(kind);
        ids.push(id);
    }
    let mut steps = Vec::new();
    // A row from before tenants were known becomes that of the first tenant whose event comes.
    if tenants.iter().any(|tenant| !tenant.is_empty()) {
        let claim = Step::new(CLAIM).with(projection).with(tenants.clone());
        steps.push(claim.with(types.clone()).with(ids.clone()));
    }
    steps.push(Step::new(LOCK).with(projection).with(tenants).with(types).with(ids));
    let rows = tx.together(&steps).await?.pop().unwrap_or_default();
    let read = |row: &Row| -> Result<(Key, Mark), Undone> {
        let mark = Mark { version: row.get(3), position: position(row.get(4))? };
        Ok(((row.get(0), row.get(1), row.get(2)), mark))
    };
    rows.iter().map(read).collect()
}

/// The column is empty for an event without a position. What else cannot be read was written by
/// another version of the consumer: to take it for the beginning would let older events win.
fn position(text: &str) -> Result<Position, Undone> {
    if text.is_empty() {
        return Ok(Position::default());
    }
    text.parse().map_err(|error| {
        let version = env!("CARGO_PKG_VERSION");
        let reason = format!(
            "relay.progress cannot be read by this consumer, version {version}: {error}; found {text:?}, which another version wrote; deploy that version or a newer one"
        );
        Undone::Retry(reason, None)
    })
}

/// Writes where each aggregate came to; false if another host was faster with one.
pub(crate) async fn advance(
    tx: &mut Tx<'_>,
    projection: &str,
    before: &Progress,
    after: &Progress,
) -> Result<bool, Undone> {
    let entry = Entry::of_moves(before, after);
    if entry.is_empty() {
        return Ok(true);
    }
    let rows = tx.together(&[entry.step(projection, tx.has_begun())]).await?;
    Ok(rows.first().is_some_and(|rows| Entry::read(rows).is_some()))
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
        let start = Mark { version: start, position: Position::default() };
        let mut progress =
            Progress::from([((String::new(), "a".to_owned(), "1".to_owned()), start)]);
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
    fn the_last_write_wins_by_version_and_then_by_position() {
        let at = |version, ordinal| Event {
            position: Some(Position { epoch: 0, commit_lsn: 1, ordinal }),
            ..event(1, version)
        };
        let events: Vec<_> =
            [at(Some(7), 1), at(Some(5), 9), at(Some(7), 1), at(Some(7), 2), at(None, 8)]
                .map(|event| (event, None))
                .into();
        assert_eq!(
            plan(&candidates(&events), &mut Progress::new(), Mode::Latest),
            [Verdict::Next, Verdict::Stale, Verdict::Duplicate, Verdict::Next, Verdict::Stale]
        );
        // Without a version the position decides; without either nothing does.
        let events = [at(None, 3), at(None, 2), event(1, None)].map(|event| (event, None));
        assert_eq!(
            plan(&candidates(&events), &mut Progress::new(), Mode::Latest),
            [Verdict::Next, Verdict::Stale, Verdict::Next]
        );
    }

    #[test]
    fn a_later_history_is_later_however_low_its_log_begins() {
        let at = |epoch, commit_lsn| Event {
            position: Some(Position { epoch, commit_lsn, ordinal: 0 }),
            ..event(1, None)
        };
        let events = [at(0, 900), at(1, 5), at(1, 4), at(0, 901)].map(|event| (event, None));
        assert_eq!(
            plan(&candidates(&events), &mut Progress::new(), Mode::Latest),
            [Verdict::Next, Verdict::Next, Verdict::Stale, Verdict::Stale]
        );
    }

    #[test]
    fn a_stored_position_that_cannot_be_read_is_an_error_with_both_versions_and_never_a_zero() {
        assert!(position("").is_ok_and(|position| position == Position::default()));
        assert!(position("00000000016b3748-00000003").is_ok());
        let Err(Undone::Retry(reason, None)) = position("v9:77") else { panic!() };
        assert!(reason.contains(env!("CARGO_PKG_VERSION")) && reason.contains("v9:77"), "{reason}");
    }

    #[test]
    fn tenants_do_not_share_an_aggregate() {
        let of = |tenant: &str| {
            (Event { tenant_id: Some(tenant.to_owned()), ..event(1, Some(1)) }, None)
        };
        let events = [of("a"), of("b"), (event(1, Some(1)), None), of("a")];
        assert_eq!(
            plan(&candidates(&events), &mut Progress::new(), Mode::Versioned),
            [Verdict::Next, Verdict::Next, Verdict::Next, Verdict::Duplicate]
        );
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
            let mut last: BTreeMap<Key, i64> = BTreeMap::new();
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
                    Verdict::Stale => prop_assert!(false, "only the last write makes one stale"),
                }
            }
            last.retain(|_, version| *version > 0);
            let progress: BTreeMap<_, _> =
                progress.into_iter().map(|(key, mark)| (key, mark.version)).collect();
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
