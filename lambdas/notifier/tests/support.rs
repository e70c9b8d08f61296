//! A fresh read model, the function, and the events of orders.

use consumer::{Consumer, Outcome, Record, Typed};
use local::read_model::ReadModel;
use local::receiver::Receiver;
use notifier::{Notifier, Target};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) async fn read_model() -> ReadModel {
    ReadModel::start(&[]).await.unwrap()
}

pub(crate) fn function(
    read_model: &ReadModel,
    receiver: &Receiver,
    knows_repeats: bool,
) -> Function {
    let target = Arc::new(Target::new(&receiver.url(), None).unwrap());
    notifier::consumer(&read_model.url().parse().unwrap(), &target, knows_repeats)
}

/// How many effects are due, and how many begun.
pub(crate) async fn open(read_model: &ReadModel) -> (i64, i64) {
    let sql = "select count(*) filter (where begun_at is null), count(begun_at) from relay.effect";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Has someone ask for the replay of all that is parked.
pub(crate) async fn ask_for_replay(read_model: &ReadModel) {
    let sql = "select relay.replay_parked(array(select id from relay.parked))";
    read_model.client.query_one(sql, &[]).await.unwrap();
}

pub(crate) type Function = Consumer<Typed<Notifier>>;

pub(crate) fn body(order: u32, version: i64, kind: &str) -> String {
    json!({
        "event_id": format!("{order:08x}-0000-4000-8000-{version:012x}"),
        "event_type": kind,
        "timestamp": "2026-01-15T10:30:00Z",
        "aggregate_type": "order",
        "aggregate_id": format!("o-{order}"),
        "aggregate_version": version,
        "data": { "method": "card" },
    })
    .to_string()
}

pub(crate) fn event(order: u32, version: i64, kind: &str) -> Record {
    let body = body(order, version, kind);
    Record::new(Some(format!("{order}/{version}")), Some(body), false, |_| None)
}

pub(crate) fn paid(order: u32) -> Record {
    event(order, 3, "order.paid")
}

pub(crate) async fn deliver(
    function: &mut Function,
    records: impl IntoIterator<Item = Record>,
) -> Vec<Outcome> {
    let report = function.deliver(records.into_iter().collect()).await.unwrap();
    report.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// How often the receiver was called for each event, sorted.
pub(crate) fn calls(receiver: &Receiver) -> Vec<u32> {
    let mut counts: Vec<u32> = receiver.calls().into_values().collect();
    counts.sort_unstable();
    counts
}

pub(crate) async fn called(receiver: &Receiver, times: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while receiver.bodies().len() < times {
        assert!(Instant::now() < deadline, "expected {times} calls, found {:?}", receiver.bodies());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
