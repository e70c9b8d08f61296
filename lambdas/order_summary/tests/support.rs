//! A fresh read model with the projection's table, and the events of orders.

use dsn::Dsn;
use local::postgres::Postgres;
use serde_json::{Value, json};
use std::path::Path;
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
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let ddl = root.join("order_summary.sql");
        let inbox = root.join("../../sql/read_model/V1__inbox.sql");
        let awaited = root.join("../../sql/read_model/V2__await.sql");
        // The table twice: its file is safe to repeat.
        for file in [&inbox, &awaited, &ddl, &ddl] {
            let sql = std::fs::read_to_string(file).unwrap();
            client.batch_execute(&sql).await.unwrap();
        }
        Self { postgres, database, client }
    }

    pub(crate) fn url(&self) -> String {
        self.postgres.url(&self.database)
    }

    pub(crate) fn dsn(&self) -> Dsn {
        self.url().parse().unwrap()
    }

    /// An order's row as JSON; null where there is none.
    pub(crate) async fn row(&self, order: &str) -> Value {
        let sql = "select to_jsonb(o)::text from order_summary as o where order_id = $1";
        let row = self.client.query_opt(sql, &[&order]).await.unwrap();
        row.map_or(Value::Null, |row| serde_json::from_str(row.get(0)).unwrap())
    }

    pub(crate) async fn parked(&self) -> i64 {
        let sql = "select count(*) from relay.parked";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
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
