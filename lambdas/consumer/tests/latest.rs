//! The last write wins, and what was deleted stays so.

use crate::support::{ReadModel, deliver, sent};
use consumer::Mode;
use consumer::Outcome::{Applied, Duplicate, Stale};

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
async fn a_late_older_event_does_not_raise_the_dead() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Latest);
    let deleted = sent("a", 2).kind("delete");
    assert_eq!(deliver(&mut consumer, &[deleted]).await, [Applied]);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Stale]);
    assert_eq!(read_model.count("effects").await, 0);
    assert_eq!(deliver(&mut consumer, &[sent("a", 3)]).await, [Applied]);
}
