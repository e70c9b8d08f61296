//! A fresh read model with the list, and the events of an order and its customers.

use consumer::{Consumer, Outcome, Record};
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
        local::migrations::apply(&client, "sql/read_model").await.unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("customer_orders.sql");
        let sql = std::fs::read_to_string(file).unwrap();
        // Twice: the file is safe to repeat.
        client.batch_execute(&sql).await.unwrap();
        client.batch_execute(&sql).await.unwrap();
        Self { postgres, database, client }
    }

    pub(crate) fn dsn(&self) -> Dsn {
        self.postgres.url(&self.database).parse().unwrap()
    }

    pub(crate) async fn clear(&self) {
        let sql = "truncate customer_orders, customer_orders_customer, relay.inbox,
            relay.progress, relay.parked";
        self.client.batch_execute(sql).await.unwrap();
    }

    /// The list, in the order of the orders.
    pub(crate) async fn list(&self) -> Vec<Value> {
        let sql = "select json_build_object('order', order_id, 'name', customer_name,
              'city', customer_city, 'status', status, 'items', item_count,
              'total', total::text)::text
            from customer_orders order by order_id";
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
    }

    pub(crate) async fn parked(&self) -> Vec<String> {
        let rows = self.client.query("select reason from relay.parked order by id", &[]).await;
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

/// What a test sends: the same aggregate and version is the same event.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    kind: &'static str,
    number: u32,
    version: i64,
    data: Value,
}

impl Sent {
    pub(crate) fn is_of_an_order(&self) -> bool {
        self.kind.starts_with("order.")
    }

    pub(crate) fn record(&self) -> Record {
        let Self { kind, number, version, data } = self;
        let aggregate = kind.split('.').next().unwrap();
        let old = data.get("name").is_some();
        let body = json!({
            "event_id": format!("{number:08x}-{:04x}-4000-8000-{version:012x}", aggregate.len()),
            "event_type": kind,
            "event_version": if *kind == "customer.registered" && !old { "2.0" } else { "1.0" },
            "timestamp": format!("2026-01-15T10:30:{version:02}Z"),
            "aggregate_type": aggregate,
            "aggregate_id": format!("{aggregate}-{number}"),
            "aggregate_version": version,
            "data": data,
        });
        let id = format!("{aggregate}-{number}/{version}");
        Record::new(Some(id), Some(body.to_string()), false, |_| None)
    }
}

pub(crate) fn sent(kind: &'static str, number: u32, version: i64, data: Value) -> Sent {
    Sent { kind, number, version, data }
}

pub(crate) fn created(order: u32, customer: u32) -> Sent {
    let data = json!({ "customer_id": format!("customer-{customer}"), "currency": "EUR" });
    sent("order.created", order, 1, data)
}

pub(crate) fn item(order: u32, version: i64, quantity: u32, price: &str) -> Sent {
    let data = json!({ "sku": "s", "quantity": quantity, "unit_price": price });
    sent("order.item_added", order, version, data)
}

pub(crate) fn registered(customer: u32, first: &str, last: &str, city: &str) -> Sent {
    let data = json!({ "first_name": first, "last_name": last, "city": city });
    sent("customer.registered", customer, 1, data)
}

pub(crate) fn moved(customer: u32, version: i64, city: &str) -> Sent {
    sent("customer.moved", customer, version, json!({ "city": city }))
}

pub(crate) type List = Consumer<consumer::Typed<customer_orders::CustomerOrders>>;

pub(crate) fn consumer(read_model: &ReadModel) -> List {
    Consumer::new(customer_orders::handler(), &read_model.dsn())
}

/// Delivers, and again what goes back, as the queue would; returns the outcomes of the first time.
pub(crate) async fn deliver(consumer: &mut List, sent: &[Sent]) -> Vec<Outcome> {
    let mut first = None;
    let mut left = sent.to_vec();
    while !left.is_empty() {
        let report = consumer.deliver(left.iter().map(Sent::record).collect()).await.unwrap();
        let outcomes: Vec<Outcome> = report.outcomes.into_iter().map(|(_, o)| o).collect();
        let back = left.into_iter().zip(&outcomes).filter(|(_, o)| !o.is_done());
        left = back.map(|(sent, _)| sent).collect();
        first.get_or_insert(outcomes);
    }
    first.unwrap_or_default()
}
