//! A fresh read model, the function, and the events of orders.

use consumer::{Consumer, Outcome, Record, Typed};
use dsn::Dsn;
use local::postgres::Postgres;
use local::receiver::Receiver;
use notifier::{Notifier, Target};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

pub(crate) struct ReadModel {
    postgres: Postgres,
    database: String,
    pub(crate) client: Client,
}

impl ReadModel {
    pub(crate) async fn start() -> Self {
        let postgres = Postgres::start(&[]).await.unwrap();
        let database = postgres.create_database().await.unwrap();
        let client = postgres.connect(&database).await.unwrap();
        local::migrations::apply(&client, "sql/read_model").await.unwrap();
        Self { postgres, database, client }
    }

    pub(crate) fn dsn(&self) -> Dsn {
        self.postgres.url(&self.database).parse().unwrap()
    }

    pub(crate) fn function(&self, receiver: &Receiver, knows_repeats: bool) -> Function {
        let target = Arc::new(Target::new(&receiver.url(), None).unwrap());
        notifier::consumer(&self.dsn(), &target, knows_repeats)
    }

    /// Why events were parked.
    pub(crate) async fn parked(&self) -> Vec<String> {
        let rows = self.client.query("select reason from relay.parked order by id", &[]).await;
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// How many effects are due, and how many begun.
    pub(crate) async fn open(&self) -> (i64, i64) {
        let sql =
            "select count(*) filter (where begun_at is null), count(begun_at) from relay.effect";
        let row = self.client.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }

    /// Has someone ask for the replay of all that is parked.
    pub(crate) async fn ask_for_replay(&self) {
        let sql = "select relay.replay_parked(array(select id from relay.parked))";
        self.client.query_one(sql, &[]).await.unwrap();
    }
}

pub(crate) type Function = Consumer<Typed<Notifier>>;

pub(crate) fn event(order: u32, version: i64, kind: &str) -> Record {
    let body = json!({
        "event_id": format!("{order:08x}-0000-4000-8000-{version:012x}"),
        "event_type": kind,
        "timestamp": "2026-01-15T10:30:00Z",
        "aggregate_type": "order",
        "aggregate_id": format!("o-{order}"),
        "aggregate_version": version,
        "data": { "method": "card" },
    });
    Record::new(Some(format!("{order}/{version}")), Some(body.to_string()), false, |_| None)
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
