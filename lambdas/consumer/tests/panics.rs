//! One event must not end the function, whatever it holds and whatever the code makes of it.

use crate::support::{ReadModel, deliver, record, sent};
use consumer::Outcome::{Applied, Failed, Parked};
use consumer::{ClaimChecks, Consumer, Effects, Event, Handler, HandlerError, Mode, Performed, Tx};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// Panics over the events of one type; writes what the others hold.
struct Panics(Mode);

impl Handler for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn mode(&self) -> Mode {
        self.0
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let sql =
            "insert into effects (aggregate_id, event_id, version, data) values ($1, $2, $3, $4)";
        let (id, version) = (event.aggregate_id.as_str(), event.aggregate_version);
        tx.write(sql, &[&id, &event.event_id, &version, &event.data.get()]).await?;
        tx.execute("select $1::timestamptz", &[&event.timestamp]).await?;
        if event.event_type == "effect" {
            tx.effect("ring")?;
        }
        assert!(event.event_type != "panic", "as it was asked to");
        Ok(())
    }
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_event_alone() {
    let read_model = ReadModel::start().await;
    let mut consumer = Consumer::new(Panics(Mode::Versioned), &read_model.dsn());
    let batch = [sent("a", 1), sent("b", 1).kind("panic"), sent("c", 1)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied, Failed, Applied]);
    assert_eq!(deliver(&mut consumer, &[sent("a", 2)]).await, [Applied]);
    assert_eq!(read_model.count("effects").await, 3);
    let mut consumer = consumer.park_after(2);
    let outcomes = deliver(&mut consumer, &[sent("b", 1).kind("panic").received(2)]).await;
    assert_eq!(outcomes, [Parked]);
    let row = read_model.client.query_one("select reason from relay.parked", &[]).await.unwrap();
    assert!(row.get::<_, String>(0).contains("panicked"));
}

#[tokio::test]
async fn code_beside_the_handler_that_panics_costs_its_event_alone() {
    let read_model = ReadModel::start().await;
    let effects = Effects::new(|effect| async move {
        assert!(effect.tries > 1, "as it was asked to");
        Performed::Done
    });
    let claim_checks = ClaimChecks::new(|check| async move {
        assert!(check.key.is_empty(), "as it was asked to");
        Ok(check.key)
    });
    let mut consumer = Consumer::new(Panics(Mode::Versioned), &read_model.dsn())
        .with_effects(effects)
        .with_claim_checks(claim_checks);
    let check = include_str!("../../../relay/envelope/golden/claim_check_1.json");
    let records = vec![
        record("check", check, None),
        sent("a", 1).kind("effect").record(),
        sent("b", 1).record(),
    ];
    let report = consumer.deliver(records).await.unwrap();
    let outcomes: Vec<_> = report.outcomes.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, [Failed, Applied, Applied]);
    let row = read_model.client.query_one("select reason from relay.parked", &[]).await.unwrap();
    assert!(row.get::<_, String>(0).contains("panicked"), "nobody can say whether it was done");
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just(String::new()),
        Just("a\0b".to_owned()),
        Just("\u{fffe}\u{10ffff}".to_owned()),
        Just("字".repeat(1024)),
        Just("x".repeat(100_000)),
    ]
}

fn times() -> impl Strategy<Value = String> {
    let year = prop_oneof![Just("0000"), Just("0001"), Just("1970"), Just("2026"), Just("9999")];
    let day = prop_oneof![
        Just("01-01T00:00:00"),
        Just("12-31T23:59:59"),
        Just("12-31T23:59:59.999999999")
    ];
    let offset =
        prop_oneof![Just("Z"), Just("+23:59"), Just("-23:59"), Just("-12:00"), Just("+00:00")];
    (year, day, offset).prop_map(|(year, day, offset)| format!("{year}-{day}{offset}"))
}

fn ids() -> impl Strategy<Value = String> {
    prop_oneof![
        // Each version, of the earliest and the latest time that one can have.
        (0..16_u8, any::<bool>(), any::<u64>()).prop_map(|(version, late, tail)| {
            let time = if late { "ffffffff-ffff" } else { "00000000-0000" };
            format!("{time}-{version:x}000-{:04x}-{:012x}", tail >> 48, tail & 0xffff_ffff_ffff)
        }),
        Just("00000000-0000-0000-0000-000000000000".to_owned()),
        Just("ffffffff-ffff-ffff-ffff-ffffffffffff".to_owned()),
    ]
}

fn bodies() -> impl Strategy<Value = String> {
    let version = prop_oneof![
        Just(None),
        Just(Some(i64::MIN)),
        Just(Some(0)),
        Just(Some(1)),
        Just(Some(i64::MAX)),
        any::<i64>().prop_map(Some),
    ];
    let position = prop_oneof![
        Just(None),
        Just(Some("ffffffffffffffff-ffffffff".to_owned())),
        Just(Some("0000000000000000-00000000".to_owned())),
        Just(Some("no position".to_owned())),
    ];
    let metadata = prop_oneof![
        Just(serde_json::Value::Null),
        Just(serde_json::json!({ "tenant_id": "t\0", "traceparent": "é" })),
        Just(serde_json::json!({ "tenant_id": 7, "traceparent": "00-".repeat(20) })),
    ];
    (ids(), (texts(), texts(), texts()), times(), version, position, metadata).prop_map(
        |(id, (kind, aggregate, data), time, version, position, metadata)| {
            serde_json::json!({
                "event_id": id, "event_type": kind, "event_version": data, "timestamp": time,
                "aggregate_type": "thing", "aggregate_id": aggregate, "aggregate_version": version,
                "position": position, "correlation_id": data, "causation_id": data,
                "metadata": metadata, "data": data,
            })
            .to_string()
        },
    )
}

#[tokio::test]
async fn whatever_an_envelope_holds_it_is_applied_or_parked_or_returned() {
    let read_model = ReadModel::start().await;
    let mut runner = TestRunner::deterministic();
    let body = bodies();
    for mode in [Mode::Once, Mode::Versioned, Mode::Latest] {
        let mut consumer = Consumer::new(Panics(mode), &read_model.dsn());
        for _ in 0..12 {
            let batch: Vec<_> =
                (0..10).map(|_| body.new_tree(&mut runner).unwrap().current()).collect();
            let records = batch.iter().map(|body| record("m", body, None)).collect();
            let report = consumer.deliver(records).await;
            let report = report.unwrap_or_else(|error| panic!("{error}: {batch:?}"));
            assert_eq!(report.outcomes.len(), batch.len());
        }
        // It works on.
        let good = format!("good-{mode:?}");
        assert_eq!(deliver(&mut consumer, &[sent(&good, 1)]).await, [Applied]);
    }
}

#[tokio::test]
async fn a_time_beyond_the_calendar_fails_its_event_alone() {
    let read_model = ReadModel::start().await;
    for mode in [Mode::Once, Mode::Versioned, Mode::Latest] {
        let mut consumer = Consumer::new(Panics(mode), &read_model.dsn());
        let mut late = sent("late", 1);
        late.timestamp = "9999-12-31T23:59:59-12:00";
        let good = format!("good-{mode:?}");
        let outcomes = deliver(&mut consumer, &[late, sent(&good, 1)]).await;
        assert_eq!(outcomes, [Failed, Applied], "{mode:?}");
    }
    assert_eq!(read_model.count("effects").await, 3);
}
