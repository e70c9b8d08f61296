//! A fresh read model with the projection's table, and the events of orders.

use local::read_model::ReadModel;
use serde_json::{Value, json};

pub(crate) async fn read_model() -> ReadModel {
    ReadModel::start(&["lambdas/order_summary/order_summary.sql"]).await.unwrap()
}

/// An order's row as JSON; null where there is none.
pub(crate) async fn row(read_model: &ReadModel, order: &str) -> Value {
    let sql = "select to_jsonb(o)::text from order_summary as o where order_id = $1";
    let row = read_model.client.query_opt(sql, &[&order]).await.unwrap();
    row.map_or(Value::Null, |row| serde_json::from_str(row.get(0)).unwrap())
}

/// The body of an order's event; the same order and version is the same event.
pub(crate) fn body(order: u32, version: i64, kind: &str, data: &Value) -> String {
    json!({
        "event_id": format!("{order:08x}-0000-4000-8000-{version:012x}"),
        "event_type": kind,
        "timestamp": format!("2026-01-15T10:30:{version:02}Z"),
        "aggregate_type": "order",
        "aggregate_id": format!("o-{order}"),
        "aggregate_version": version,
        "data": data,
    })
    .to_string()
}
