//! Effects happen once and in order, however events are delivered.

use crate::support::{ReadModel, Sent, deliver, sent};
use consumer::Mode;
use consumer::Outcome::{Applied, Duplicate, Gap, HeldBack, Parked};
use std::collections::HashMap;

#[tokio::test]
async fn a_redelivery_is_a_no_op_with_and_without_versions() {
    let read_model = ReadModel::start().await;
    let events = [sent("a", 1), sent("a", 2), sent("b", 1), sent("c", 9).unversioned()];
    let mut consumer = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut consumer, &events).await, [Applied; 4]);
    assert_eq!(deliver(&mut consumer, &events).await, [Duplicate; 4]);
    // Another instance of the function knows too.
    let mut other = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut other, &events[1..2]).await, [Duplicate]);
    assert_eq!(deliver(&mut other, &events[3..]).await, [Duplicate]);
    assert_eq!(read_model.count("effects").await, 4);
    assert_eq!(read_model.count("relay.inbox").await, 4);
}

#[tokio::test]
async fn the_same_aggregate_of_two_tenants_is_two() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch = [
        sent("a", 1).of_tenant("acme"),
        sent("a", 1),
        sent("a", 2).of_tenant("acme"),
        sent("a", 1).of_tenant("b"),
    ];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied; 4]);
    assert_eq!(deliver(&mut consumer, &batch).await, [Duplicate; 4]);
    let sql = "select string_agg(tenant_id || ':' || version, ' ' order by tenant_id),
        relay.version_reached('recorder', 'acme', 'thing', 'a', 2),
        relay.version_reached('recorder', 'thing', 'a', 2) from relay.progress";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    let found: (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(found, (":1 acme:2 b:1".to_owned(), true, false));
    assert_eq!(read_model.count("relay.inbox where tenant_id = 'acme'").await, 2);
}

#[tokio::test]
async fn an_id_is_an_id_whatever_its_day() {
    for mode in [Mode::Once, Mode::Versioned, Mode::Latest] {
        let read_model = ReadModel::start().await;
        let mut consumer = read_model.consumer(mode);
        let late = Sent { timestamp: "2026-11-27T23:59:00Z", ..sent("a", 1).unversioned() };
        let early = Sent { timestamp: "2026-11-28T00:01:00Z", ..late.clone() };
        assert_eq!(deliver(&mut consumer, [&late, &early]).await, [Applied, Duplicate], "{mode:?}");
        assert_eq!(deliver(&mut consumer, [&early]).await, [Duplicate], "{mode:?}");
        // Other content under the id, on whatever day, is kept each time that it is other.
        let other = |data: &str| Sent { data: data.to_owned(), ..early.clone() };
        for data in ["2", "3", "2"] {
            assert_eq!(deliver(&mut consumer, [&other(data)]).await, [Parked], "{mode:?}");
        }
        assert_eq!(read_model.count("relay.parked").await, 2, "{mode:?}");
        // Two hosts at once.
        let twice = Sent { event_id: sent("b", 1).event_id, ..late.clone() };
        let again = Sent { timestamp: early.timestamp, ..twice.clone() };
        let mut other_host = read_model.consumer(mode);
        let (one, two) = (vec![twice.record()], vec![again.record()]);
        let (one, two) = tokio::join!(consumer.deliver(one), other_host.deliver(two));
        let count =
            |outcome| one.as_ref().unwrap().count(outcome) + two.as_ref().unwrap().count(outcome);
        assert_eq!((count(Applied), count(Duplicate)), (1, 1), "{mode:?}");
        assert_eq!(read_model.count("effects").await, 2, "{mode:?}");
    }
}

#[tokio::test]
async fn an_event_twice_in_one_batch_has_one_effect() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch =
        [sent("a", 1), sent("a", 1), sent("b", 1).unversioned(), sent("b", 1).unversioned()];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied, Duplicate, Applied, Duplicate]);
}

#[tokio::test]
async fn a_gap_is_retried_and_then_filled() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let first = [sent("a", 1), sent("b", 2), sent("a", 3)];
    assert_eq!(deliver(&mut consumer, &first).await, [Applied, Gap, Gap]);
    assert_eq!(read_model.count("relay.inbox").await, 1);
    assert_eq!(deliver(&mut consumer, &[sent("a", 3), sent("a", 2)]).await, [Applied, Applied]);
    assert_eq!(deliver(&mut consumer, &[sent("b", 1), sent("b", 2)]).await, [Applied, Applied]);
    let expected = HashMap::from([("a".to_owned(), vec![1, 2, 3]), ("b".to_owned(), vec![1, 2])]);
    assert_eq!(read_model.effects().await, expected);
}

#[tokio::test]
async fn a_gap_stops_its_fifo_group_and_no_other() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch =
        [sent("a", 2).fifo(), sent("b", 1).fifo(), sent("a", 1).fifo(), sent("b", 2).fifo()];
    assert_eq!(deliver(&mut consumer, &batch).await, [Gap, Applied, HeldBack, Applied]);
}

#[tokio::test]
async fn without_versions_events_apply_in_any_order() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Once);
    assert_eq!(deliver(&mut consumer, &[sent("a", 3), sent("a", 1)]).await, [Applied, Applied]);
    assert_eq!(read_model.effects().await["a"], [3, 1]);
    assert_eq!(read_model.count("relay.progress").await, 0);
}

#[tokio::test]
async fn the_inbox_numbers_events_in_the_order_of_their_effect() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch: Vec<Sent> = (1..=10).map(|version| sent("a", version)).collect();
    deliver(&mut consumer, &batch).await;
    let sql = "select array_agg(aggregate_version order by position), min(sent_at)::text from relay.inbox";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, Vec<i64>>(0), (1..=10).collect::<Vec<_>>());
    assert!(row.get::<_, String>(1).contains(".123"), "the queue's own time");
}

#[tokio::test]
async fn any_deliveries_end_where_clean_delivery_ends() {
    let read_model = ReadModel::start().await;
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for case in 0..6 {
        let fifo = random.bool();
        let aggregates: Vec<String> = (0..4).map(|n| format!("{case}-{n}")).collect();
        let mut queue: Vec<Sent> = Vec::new();
        for aggregate in &aggregates {
            queue.extend((1..=6).map(|version| Sent { fifo, ..sent(aggregate, version) }));
        }
        random.shuffle(&mut queue);
        // On a FIFO queue each group is in order; here they are interleaved.
        if fifo {
            let mut next: HashMap<String, i64> = HashMap::new();
            for slot in &mut queue {
                let version =
                    next.entry(slot.aggregate_id.clone()).and_modify(|v| *v += 1).or_insert(1);
                *slot = sent(&slot.aggregate_id, *version).fifo();
            }
        }
        // Four hosts, any one of which may get the next batch: each with repeats.
        let mut hosts: Vec<_> = (0..4).map(|_| read_model.consumer(Mode::Versioned)).collect();
        for _ in 0..1000 {
            if queue.is_empty() {
                break;
            }
            let size = random.usize(1..=queue.len().min(10));
            let mut batch: Vec<Sent> = queue.drain(..size).collect();
            if !fifo && random.bool() {
                batch.push(batch[0].clone());
            }
            let host = random.usize(..hosts.len());
            let outcomes = deliver(&mut hosts[host], &batch).await;
            let back: Vec<Sent> = batch
                .into_iter()
                .zip(outcomes)
                // Done is not always deleted in time: one in four comes again.
                .filter(|(_, outcome)| !outcome.is_done() || (!fifo && random.u8(..4) == 0))
                .map(|(sent, _)| sent)
                .collect();
            if fifo {
                queue.splice(..0, back);
            } else {
                queue.extend(back);
            }
        }
        assert!(queue.is_empty(), "case {case}: never done");
        let effects = read_model.effects().await;
        for aggregate in &aggregates {
            assert_eq!(effects[aggregate], [1, 2, 3, 4, 5, 6], "case {case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_hosts_apply_each_event_once_and_in_order() {
    let read_model = ReadModel::start().await;
    let all: Vec<Sent> =
        (0..6).flat_map(|n| (1..=5).map(move |v| sent(&format!("k{n}"), v))).collect();
    let hosts: Vec<_> = (0..4)
        .map(|host| {
            let mut consumer = read_model.consumer(Mode::Versioned);
            let mut own = all.clone();
            fastrand::Rng::with_seed(host).shuffle(&mut own);
            tokio::spawn(async move {
                // Every host gets every event, until none comes back.
                for _ in 0..200 {
                    if own.is_empty() {
                        return;
                    }
                    let mut left = Vec::new();
                    for batch in own.chunks(7) {
                        let outcomes = deliver(&mut consumer, batch).await;
                        let done = outcomes.into_iter().zip(batch);
                        left.extend(
                            done.filter(|(o, _)| !o.is_done()).map(|(_, sent)| sent.clone()),
                        );
                    }
                    own = left;
                }
                panic!("never done: {own:?}");
            })
        })
        .collect();
    for host in hosts {
        host.await.unwrap();
    }
    for versions in read_model.effects().await.into_values() {
        assert_eq!(versions, [1, 2, 3, 4, 5]);
    }
    assert_eq!(read_model.count("effects").await, 30);
}
