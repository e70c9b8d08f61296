//! The promises of the schedule, one by one; `any_history` holds it to all of them at once.

mod any_history;

use super::*;
use crate::ledger::TransactionId;
use crate::publish::Sealed;
use envelope::{Format, Position};
use std::time::Duration;
use uuid::Uuid;

const LIMITS: BatchLimits =
    BatchLimits { entries: 10, bytes: 1000, largest: 1000, claim_check: None };

fn lane(ordering: Ordering) -> Lane {
    Lane { limits: LIMITS, ordering, requests: 8..=8 }
}

fn schedule(ordering: Ordering) -> Schedule {
    Schedule::new([lane(ordering)], 1 << 20)
}

fn entry(destination: usize, key: &str, ordinal: u64, bytes: usize) -> Outgoing {
    Outgoing {
        transaction: TransactionId::default(),
        destination: DestinationId(destination),
        position: Position { epoch: 1, commit_lsn: 1, ordinal },
        attempts: 0,
        alone: false,
        event: Sealed {
            event_id: Uuid::nil(),
            event_type: "t".to_owned(),
            key: key.into(),
            body: "x".repeat(bytes),
            attributes: Vec::new(),
        },
    }
}

fn sent(work: Option<Work>) -> (Vec<InFlight>, Ticket) {
    match work {
        Some(Work::Send(batch, ticket)) => (batch, ticket),
        other => panic!("expected a batch, found {other:?}"),
    }
}

fn ordinals(batch: &[InFlight]) -> Vec<u64> {
    batch.iter().map(|held| held.entry.position.ordinal).collect()
}

#[test]
fn a_key_has_one_entry_in_flight_and_others_go_on() {
    let now = Instant::now();
    let mut schedule = schedule(Ordering::PerKey);
    for (key, ordinal) in [("a", 0), ("a", 1), ("b", 2)] {
        schedule.push(entry(0, key, ordinal, 1));
    }
    let (mut batch, _) = sent(schedule.next(now));
    assert_eq!(ordinals(&batch), [0, 2]);
    assert!(schedule.next(now).is_none());
    schedule.done(batch.remove(0));
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [1]);
}

#[test]
fn where_the_operator_allows_it_a_key_shares_a_request_with_itself() {
    let now = Instant::now();
    let mut schedule = schedule(Ordering::PerKeyTogether);
    for ordinal in 0..14 {
        schedule.push(entry(0, if ordinal == 3 { "b" } else { "a" }, ordinal, 1));
    }
    let (batch, _) = sent(schedule.next(now));
    assert_eq!(ordinals(&batch), [0, 3, 1, 2, 4, 5, 6, 7, 8, 9]);
    assert!(schedule.next(now).is_none(), "the rest of the key waits for the request");
    for held in batch {
        if held.entry.position.ordinal < 5 {
            schedule.done(held);
        } else {
            schedule.retry(held, now);
        }
    }
    assert_eq!(ordinals(&sent(schedule.next(now)).0), (5..14).collect::<Vec<_>>());
}

#[test]
fn without_order_the_entries_of_a_key_go_side_by_side() {
    let now = Instant::now();
    let mut schedule = schedule(Ordering::None);
    for ordinal in 0..30 {
        schedule.push(entry(0, "a", ordinal, 1));
    }
    let first = sent(schedule.next(now)).0;
    assert_eq!(ordinals(&first), (0..10).collect::<Vec<_>>());
    assert_eq!(ordinals(&sent(schedule.next(now)).0), (10..20).collect::<Vec<_>>());
    first.into_iter().for_each(|held| schedule.retry(held, now + Duration::from_millis(1)));
    assert_eq!(ordinals(&sent(schedule.next(now)).0), (20..30).collect::<Vec<_>>());
    let later = now + Duration::from_millis(1);
    assert_eq!(ordinals(&sent(schedule.next(later)).0).len(), 10);
}

/// As many entries as it wants, of a key each.
fn fill(schedule: &mut Schedule, destination: usize) -> u64 {
    let mut pushed = 0;
    while schedule.wants_more() && pushed < 100_000 {
        schedule.push(entry(destination, &pushed.to_string(), pushed, 1));
        pushed += 1;
    }
    pushed
}

#[test]
fn no_more_is_read_than_soon_goes_unless_it_may_be_for_another_destination() {
    let now = Instant::now();
    // One destination: what its eight requests take, and a thousand.
    assert_eq!(fill(&mut schedule(Ordering::PerKey), 0), 1080);
    // One of two has nothing to do: what is behind may be for it.
    let two = || Schedule::new([lane(Ordering::PerKey), lane(Ordering::PerKey)], 1 << 20);
    let mut idle = two();
    assert!(fill(&mut idle, 0) > 1080 && !idle.has_room());
    // One is down, alone or not: up to the budget.
    let mut down = schedule(Ordering::PerKey);
    down.push(entry(0, "a", 0, 1));
    let (mut batch, ticket) = sent(down.next(now));
    down.answered(DestinationId(0), ticket, Verdict::Failed { wrong: true }, now, 0.5);
    down.retry(batch.remove(0), now);
    assert!(fill(&mut down, 0) > 1080 && !down.has_room());
    // Keys that wait for their own are no reason to stop: others may be ready.
    let mut hot = schedule(Ordering::PerKey);
    (0..3000).for_each(|ordinal| hot.push(entry(0, "hot", ordinal, 1)));
    assert!(hot.wants_more());
}

#[test]
fn what_is_to_go_again_later_does_not_go_before() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    for ordering in [Ordering::PerKey, Ordering::PerKeyTogether, Ordering::None] {
        let mut schedule = schedule(ordering);
        schedule.push(entry(0, "a", 0, 1));
        let (mut batch, ticket) = sent(schedule.next(now));
        schedule.answered(DestinationId(0), ticket, Verdict::Answered, now, 0.5);
        schedule.retry(batch.remove(0), later);
        assert!(schedule.next(now).is_none());
        assert_eq!(schedule.wake_at(now), Some(later));
        assert_eq!(ordinals(&sent(schedule.next(later)).0), [0]);
    }
}

#[test]
fn an_entry_over_the_limit_is_told_apart_and_blocks_no_one() {
    let now = Instant::now();
    let mut schedule = schedule(Ordering::PerKey);
    schedule.push(entry(0, "small", 0, 1));
    schedule.push(entry(0, "big", 1, 2000));
    schedule.push(entry(0, "other", 2, 1));
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [0]);
    let Some(Work::TooLarge(large)) = schedule.next(now) else { panic!("expected TooLarge") };
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [2]);
    schedule.done(large);
    assert_eq!(schedule.len(), 2);
}

#[test]
fn what_goes_to_s3_first_has_a_request_to_itself() {
    let now = Instant::now();
    let claim = crate::publish::Claim { above: 500, format: Format::Relay, reference: 100 };
    let limits = BatchLimits { claim_check: Some(claim), ..LIMITS };
    for ordering in [Ordering::PerKey, Ordering::PerKeyTogether] {
        let mut schedule = Schedule::new([Lane { limits, ..lane(ordering) }], 1 << 20);
        for (ordinal, (key, bytes)) in
            (0..).zip([("a", 1), ("large", 5000), ("large", 1), ("b", 1), ("c", 1)])
        {
            schedule.push(entry(0, key, ordinal, bytes));
        }
        assert_eq!(ordinals(&sent(schedule.next(now)).0), [0]);
        assert_eq!(ordinals(&sent(schedule.next(now)).0), [1]);
        assert_eq!(ordinals(&sent(schedule.next(now)).0), [3, 4]);
        assert!(schedule.next(now).is_none(), "the key waits for its large event");
    }
}

#[test]
fn a_hot_key_starves_no_other() {
    let now = Instant::now();
    for ordering in [Ordering::PerKey, Ordering::PerKeyTogether] {
        let mut schedule = schedule(ordering);
        for ordinal in 0..500 {
            schedule.push(entry(0, "hot", ordinal, 1));
        }
        schedule.push(entry(0, "cold", 500, 1));
        assert!(ordinals(&sent(schedule.next(now)).0).contains(&500));
    }
}

#[test]
fn a_destination_that_is_down_is_tried_one_request_at_a_time_and_stops_no_other() {
    let mut now = Instant::now();
    let one_a_request =
        Lane { limits: BatchLimits { entries: 1, ..LIMITS }, ..lane(Ordering::PerKey) };
    let mut schedule = Schedule::new([one_a_request.clone(), one_a_request], 1 << 20);
    for key in ["a", "b", "c"] {
        schedule.push(entry(0, key, 0, 1));
    }
    let (mut batch, ticket) = sent(schedule.next(now));
    let failed = Verdict::Failed { wrong: true };
    assert!(schedule.answered(DestinationId(0), ticket, failed, now, 0.5).is_some());
    let again = schedule.again_at(DestinationId(0), now, 0.5);
    schedule.retry(batch.remove(0), again);
    assert!(schedule.next(now).is_none(), "it is left alone");
    schedule.push(entry(1, "a", 0, 1));
    assert_eq!(sent(schedule.next(now)).0[0].entry.destination, DestinationId(1));
    assert_eq!(schedule.wake_at(now), Some(again));
    assert!(schedule.states().next().unwrap().open);
    now = again;
    let (mut probe, ticket) = sent(schedule.next(now));
    assert!(schedule.next(now).is_none(), "one at a time");
    let closed = schedule.answered(DestinationId(0), ticket, Verdict::Answered, now, 0.5);
    assert_eq!(closed, Some(Turn::Closed));
    schedule.done(probe.remove(0));
    assert!(schedule.next(now).is_some() && schedule.next(now).is_some());
}

#[test]
fn a_destination_that_is_halted_gets_nothing_and_wakes_no_one() {
    let now = Instant::now();
    let mut schedule = schedule(Ordering::PerKey);
    schedule.push(entry(0, "a", 0, 1));
    schedule.halt(DestinationId(0));
    assert!(schedule.next(now).is_none());
    assert_eq!(schedule.wake_at(now), None);
}

#[test]
fn a_million_keys_leave_nothing_behind() {
    let now = Instant::now();
    let mut schedule = schedule(Ordering::PerKey);
    for n in 0..1_000_000_u64 {
        schedule.push(entry(0, &n.to_string(), n, 0));
    }
    let mut expected = 0;
    while let Some(Work::Send(batch, ticket)) = schedule.next(now) {
        schedule.answered(DestinationId(0), ticket, Verdict::Answered, now, 0.0);
        for held in batch {
            assert_eq!(held.entry.position.ordinal, expected);
            expected += 1;
            schedule.done(held);
        }
    }
    assert_eq!((schedule.len(), schedule.weight(), schedule.lanes[0].keys()), (0, 0, 0));
}

#[test]
fn while_a_limit_is_not_known_a_large_entry_goes_alone_and_is_judged_by_the_broker() {
    let now = Instant::now();
    let limits = BatchLimits { largest: 5000, ..LIMITS };
    let mut schedule = Schedule::new([Lane { limits, ..lane(Ordering::PerKeyTogether) }], 1 << 20);
    for (ordinal, (key, bytes)) in
        (0..).zip([("a", 1), ("b", 2000), ("b", 1), ("c", 1), ("d", 6000)])
    {
        schedule.push(entry(0, key, ordinal, bytes));
    }
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [0]);
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [1], "alone");
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [3]);
    let Some(Work::TooLarge(large)) = schedule.next(now) else { panic!("expected TooLarge") };
    // By now the limit is known, and larger: looked at again, it goes.
    let known = BatchLimits { bytes: 8000, largest: 8000, ..LIMITS };
    schedule.set_limits(DestinationId(0), known, true);
    schedule.put_back(large, now);
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [4]);
}

#[test]
fn a_destination_whose_address_is_not_known_yet_gets_nothing_and_stops_no_other() {
    let now = Instant::now();
    let mut schedule = Schedule::new([lane(Ordering::PerKey), lane(Ordering::PerKey)], 1 << 20);
    schedule.set_limits(DestinationId(0), LIMITS, false);
    schedule.push(entry(0, "a", 0, 1));
    schedule.push(entry(1, "a", 1, 1));
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [1]);
    assert!(schedule.next(now).is_none() && schedule.wake_at(now).is_none());
    assert!(schedule.wants_more());
    schedule.set_limits(DestinationId(0), LIMITS, true);
    assert_eq!(ordinals(&sent(schedule.next(now)).0), [0]);
}
