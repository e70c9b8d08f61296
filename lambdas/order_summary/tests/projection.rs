//! What stands in `order_summary` after an order's events.

use crate::support::{body, read_model, row};
use consumer::testing::{self, Failure, event};
use consumer::{Consumer, Outcome, Record};
use local::postgres::Postgres;
use local::read_model::ReadModel;
use order_summary::OrderSummary;
use serde_json::{Value, json};

async fn deliver(read_model: &ReadModel, bodies: Vec<String>) -> Vec<Outcome> {
    let mut consumer = Consumer::new(OrderSummary, &read_model.url().parse().unwrap());
    let record = |body| Record::new(Some("m".to_owned()), Some(body), false, |_| None);
    let records = bodies.into_iter().map(record).collect();
    let report = consumer.deliver(records).await.unwrap();
    report.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn created() -> Value {
    json!({ "customer_id": "c-1", "currency": "EUR" })
}

#[tokio::test]
async fn an_orders_life_is_one_row_with_exact_sums_and_the_events_own_times() {
    let read_model = read_model().await;
    let item = |quantity, price| json!({ "sku": "s", "quantity": quantity, "unit_price": price });
    let life = [
        ("order.created", created()),
        ("order.item_added", item(3, "0.1")),
        ("order.item_added", item(2, "99999999999999999999.99")),
        ("order.gift_wrapped", json!({ "unknown": true })),
        ("order.paid", json!({ "amount": "1.00" })),
        ("order.shipped", json!({ "carrier": "post" })),
    ];
    let bodies = (1..).zip(&life).map(|(version, (kind, data))| body(1, version, kind, data));
    assert_eq!(deliver(&read_model, bodies.collect()).await, [Outcome::Applied; 6]);
    let sql = "select total::text from order_summary";
    let total: String = read_model.client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(total, "200000000000000000000.28");
    let first = row(&read_model, "o-1").await;
    assert_eq!(first["status"], "shipped");
    assert_eq!(first["item_count"], 5);
    assert_eq!(first["created_at"], "2026-01-15T10:30:01+00:00");
    assert_eq!(first["paid_at"], "2026-01-15T10:30:05+00:00");
    assert_eq!(first["shipped_at"], "2026-01-15T10:30:06+00:00");
    assert_eq!(first["cancelled_at"], Value::Null);

    let cancelled = body(2, 2, "order.cancelled", &json!({ "reason": "no longer wanted" }));
    let outcomes =
        deliver(&read_model, vec![body(2, 1, "order.created", &created()), cancelled]).await;
    assert_eq!(outcomes, [Outcome::Applied; 2]);
    assert_eq!(row(&read_model, "o-2").await["status"], "cancelled");
}

#[tokio::test]
async fn data_that_can_never_be_applied_is_parked_and_the_order_goes_on() {
    let read_model = read_model().await;
    let item = |quantity: Value, price: &str| json!({ "sku": "s", "quantity": quantity, "unit_price": price });
    let bad = [
        ("order.item_added", item(json!(1), "NaN")),
        ("order.item_added", item(json!(1), "1e9")),
        ("order.item_added", item(json!(0), "1")),
        ("order.item_added", item(json!(1.5), "1")),
        ("order.item_added", item(json!("1"), "1")),
        ("order.item_added", json!({ "sku": "s", "quantity": 1, "unit_price": 12.5 })),
        ("order.item_added", item(json!(i64::MAX), "1")),
        ("order.item_added", json!(null)),
    ];
    let mut bodies = vec![
        body(1, 1, "order.created", &created()),
        body(1, 2, "order.item_added", &item(json!(1), "2.50")),
    ];
    bodies.extend((3..).zip(&bad).map(|(version, (kind, data))| body(1, version, kind, data)));
    bodies.push(body(1, 11, "order.paid", &json!({ "amount": "2.50" })));
    let mut expected = vec![Outcome::Applied; 2];
    expected.extend([Outcome::Parked; 8]);
    expected.push(Outcome::Applied);
    assert_eq!(deliver(&read_model, bodies).await, expected);
    assert_eq!(read_model.parked().await.unwrap().len(), 8);
    let row = row(&read_model, "o-1").await;
    assert_eq!(
        (&row["item_count"], &row["status"], &row["version"]),
        (&json!(1), &json!("paid"), &json!(11))
    );
}

#[tokio::test]
async fn an_order_whose_creation_was_parked_does_not_hold_the_queue() {
    let read_model = read_model().await;
    let nul = json!({ "customer_id": "a\u{0}b", "currency": "EUR" });
    let bodies = vec![
        body(1, 1, "order.created", &nul),
        body(1, 2, "order.paid", &json!({ "amount": "0" })),
        body(2, 1, "order.created", &created()),
    ];
    let expected = [Outcome::Parked, Outcome::Parked, Outcome::Applied];
    assert_eq!(deliver(&read_model, bodies).await, expected);
    assert_eq!(row(&read_model, "o-1").await, Value::Null);
}

/// Refuses what this condition says of the new row of a table, until the trigger is dropped.
fn refusing(table: &str, condition: &str) -> String {
    format!(
        "create function refuse() returns trigger language plpgsql as
            $$ begin raise exception 'not yet'; end $$;
        create trigger refuse before update on {table} for each row
            when ({condition}) execute function refuse()"
    )
}

#[tokio::test]
async fn rows_do_not_go_back_by_a_replay_or_by_an_event_without_a_version() {
    let read_model = read_model().await;
    let url = read_model.url().parse().unwrap();
    let mut consumer = Consumer::new(OrderSummary, &url).park_after(1);
    let mut deliver = async |bodies: Vec<String>| -> Vec<Outcome> {
        let record = |body| Record::new(Some("m".to_owned()), Some(body), false, |_| None);
        let report = consumer.deliver(bodies.into_iter().map(record).collect()).await.unwrap();
        report.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    };
    let refusing = refusing("order_summary", "new.status = 'paid'");
    read_model.client.batch_execute(&refusing).await.unwrap();
    let paid = json!({ "amount": "0" });
    let first = vec![body(1, 1, "order.created", &created()), body(1, 2, "order.paid", &paid)];
    assert_eq!(deliver(first).await, [Outcome::Applied, Outcome::Parked]);
    let shipped = body(1, 3, "order.shipped", &json!({ "carrier": "post" }));
    assert_eq!(deliver(vec![shipped]).await, [Outcome::Applied]);

    // The parked version 2, replayed behind 3: its own time is noted, and the row stays where it is.
    let mended = "drop trigger refuse on order_summary;
        select relay.replay_parked(array(select id from relay.parked))";
    read_model.client.batch_execute(mended).await.unwrap();
    deliver(Vec::new()).await;
    assert!(read_model.parked().await.unwrap().is_empty());
    let after = row(&read_model, "o-1").await;
    assert_eq!((&after["status"], &after["version"]), (&json!("shipped"), &json!(3)));
    assert_eq!(after["paid_at"], "2026-01-15T10:30:02+00:00");

    // An event without a version behind version 3.
    let plain = |kind: &str, data: &Value| -> String {
        let mut event: Value = serde_json::from_str(&body(1, 99, kind, data)).unwrap();
        event["aggregate_version"] = Value::Null;
        event["event_id"] = json!(format!("{:08x}-0000-4000-9000-000000000001", kind.len()));
        event["timestamp"] = json!("2026-01-15T10:31:00Z");
        event.to_string()
    };
    let item = json!({ "sku": "s", "quantity": 1, "unit_price": "1" });
    let late = vec![plain("order.paid", &paid), plain("order.item_added", &item)];
    assert_eq!(deliver(late).await, [Outcome::Applied; 2]);
    let after = row(&read_model, "o-1").await;
    let found = (&after["status"], &after["version"], &after["item_count"]);
    assert_eq!(found, (&json!("shipped"), &json!(3), &json!(1)));
}

#[tokio::test]
async fn orders_end_the_same_however_their_events_are_delivered() -> Result<(), Failure> {
    let postgres = Postgres::start(&[]).await.unwrap();
    let server = postgres.url("postgres").parse().unwrap();
    let item = |quantity, price| json!({ "sku": "s", "quantity": quantity, "unit_price": price });
    testing::ReadModel::new(&server, include_str!("../order_summary.sql"))
        .given([
            event("order.created", "order", "o-1", 1, created()),
            event("order.item_added", "order", "o-1", 2, item(2, "12.50")),
            event("order.created", "order", "o-2", 1, created()),
            event("order.item_added", "order", "o-1", 3, item(0, "1.00")),
            event("order.cancelled", "order", "o-2", 2, json!({ "reason": "none" })),
            event("order.item_added", "order", "o-1", 4, item(1, "0.05")),
            event("order.paid", "order", "o-1", 5, json!({ "amount": "25.05" })),
        ])
        .deliver(|| OrderSummary)
        .then(
            "select order_id, status, item_count, total, paid_at from order_summary order by 1",
            &[
                &["o-1", "paid", "3", "25.05", "2026-01-15 10:30:07+00"],
                &["o-2", "cancelled", "0", "0", "null"],
            ],
        )
        .await
}
