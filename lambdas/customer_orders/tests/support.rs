//! A fresh read model with the list, and the events of an order and its customers.

use consumer::{Consumer, Outcome, Record};
use local::read_model::ReadModel;
use serde_json::{Value, json};

pub(crate) async fn read_model() -> ReadModel {
    ReadModel::start(&["lambdas/customer_orders/customer_orders.sql"]).await.unwrap()
}

pub(crate) async fn clear(read_model: &ReadModel) {
    let sql = "truncate customer_orders, customer_orders_customer, relay.inbox,
        relay.progress, relay.parked";
    read_model.client.batch_execute(sql).await.unwrap();
}

/// The list, in the order of the orders.
pub(crate) async fn list(read_model: &ReadModel) -> Vec<Value> {
    let sql = "select json_build_object('order', order_id, 'name', customer_name,
          'city', customer_city, 'status', status, 'items', item_count,
          'total', total::text)::text
        from customer_orders order by order_id";
    let rows = read_model.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
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

    pub(crate) fn body(&self) -> String {
        let Self { kind, number, version, data } = self;
        let aggregate = kind.split('.').next().unwrap();
        let old = data.get("name").is_some();
        json!({
            "event_id": format!("{number:08x}-{:04x}-4000-8000-{version:012x}", aggregate.len()),
            "event_type": kind,
            "event_version": if *kind == "customer.registered" && !old { "2.0" } else { "1.0" },
            "timestamp": format!("2026-01-15T10:30:{version:02}Z"),
            "aggregate_type": aggregate,
            "aggregate_id": format!("{aggregate}-{number}"),
            "aggregate_version": version,
            "data": data,
        })
        .to_string()
    }

    pub(crate) fn record(&self) -> Record {
        let Self { kind, number, version, .. } = self;
        Record::new(Some(format!("{kind} {number}/{version}")), Some(self.body()), false, |_| None)
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
    Consumer::new(customer_orders::handler(), &read_model.url().parse().unwrap())
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
