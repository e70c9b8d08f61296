//! The last write wins, and what was deleted stays so.

use crate::support::{ReadModel, deliver, sent};
use consumer::Mode;
use consumer::Outcome::{Applied, Duplicate, Failed, Stale};

#[tokio::test]
async fn the_last_write_wins_in_whatever_order_writes_arrive() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Latest);
    // Within a delivery they are put in order; across deliveries an older one is stale.
    let batch = [sent("a", 3), sent("a", 2)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied, Applied]);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1), sent("a", 7)]).await, [Stale, Applied]);
    assert_eq!(deliver(&mut consumer, &[sent("a", 7)]).await, [Duplicate]);
    assert_eq!(read_model.effects().await["a"], [2, 3, 7]);
}

#[tokio::test]
async fn without_versions_the_position_in_the_stream_decides() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Latest);
    let at = |n: i64, ordinal: u32| sent("a", n).unversioned().at(ordinal);
    assert_eq!(deliver(&mut consumer, &[at(1, 5)]).await, [Applied]);
    assert_eq!(deliver(&mut consumer, &[at(2, 4), at(3, 6)]).await, [Stale, Applied]);
}

#[tokio::test]
async fn what_comes_after_a_restore_is_later_than_all_before_though_its_log_begins_lower() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Latest);
    let at = |n: i64, ordinal: u32| sent("a", n).unversioned().at(ordinal);
    // As a relay before epochs wrote it, and the row as a consumer before them kept it.
    assert_eq!(deliver(&mut consumer, &[at(1, 900)]).await, [Applied]);
    let old = "update relay.progress set position = '00000000016b3748-00000384'";
    read_model.client.batch_execute(old).await.unwrap();
    let after = |n: i64, ordinal| at(n, ordinal).in_epoch(7);
    let batch = [after(2, 2), at(3, 901), after(4, 1), after(5, 3)];
    for (event, outcome) in batch.iter().zip([Applied, Stale, Stale, Applied]) {
        assert_eq!(deliver(&mut consumer, [event]).await, [outcome]);
    }
    // What no version here can read is not taken for the beginning.
    read_model.client.batch_execute("update relay.progress set position = 'v9:1'").await.unwrap();
    assert_eq!(deliver(&mut consumer, &[after(6, 9)]).await, [Failed]);
}

#[tokio::test]
async fn a_late_older_event_does_not_raise_the_dead() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Latest);
    let deleted = sent("a", 2).kind("delete");
    assert_eq!(deliver(&mut consumer, &[deleted]).await, [Applied]);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Stale]);
    assert_eq!(read_model.count("effects").await, 0);
    assert_eq!(deliver(&mut consumer, &[sent("a", 3)]).await, [Applied]);
}
