//! The workload is what it says, and the verdict can say no.

#![expect(clippy::unwrap_used, reason = "a test: a failure is a panic")]

use local::migrations;
use local::orders::{SHOP, Workload, Written, write};
use local::postgres::Postgres;
use local::stack::CUSTOMER_ORDERS;
use local::verdict::{Verdict, judge, judge_all};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio_postgres::Client;

/// A shop and its read model in one database, brought up to date by SQL alone.
async fn shop(server: &Postgres) -> (Client, String, Arc<Written>) {
    let database = server.create_database().await.unwrap();
    let client = server.connect(&database).await.unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    migrations::apply(&client, "sql/source").await.unwrap();
    migrations::apply(&client, "sql/read_model").await.unwrap();
    let table = root.join("lambdas/order_summary/order_summary.sql");
    client.batch_execute(&std::fs::read_to_string(table).unwrap()).await.unwrap();
    client.batch_execute(CUSTOMER_ORDERS).await.unwrap();
    client.batch_execute(SHOP).await.unwrap();
    let written = Arc::new(Written::default());
    let workload = Workload {
        url: server.url(&database),
        connections: 8,
        orders: 50,
        customers: 30,
        time: None,
        seed: 1,
        pause: Duration::ZERO,
        most_behind: u64::MAX,
    };
    write(&workload, Arc::clone(&written)).await.unwrap();
    client.batch_execute(NAMED).await.unwrap();
    client.batch_execute(PROJECT).await.unwrap();
    (client, database, written)
}

/// One order at least names a customer who registered: of 500 that are named 30 do.
const NAMED: &str = "
update orders set customer_id = (select min(customer_id) from customers)
where order_id = (select max(order_id) from orders)";

/// What the relay and the function would have done.
const PROJECT: &str = "
alter table relay.inbox alter column content set default gen_random_uuid();
insert into relay.inbox (projection, event_id, day, aggregate_type, aggregate_id, aggregate_version, sent_at, content)
select 'order_summary', event_id, recorded_at, aggregate_type, aggregate_id, aggregate_version, clock_timestamp(), event_id
from relay.outbox where aggregate_type = 'order' order by position;
insert into order_summary
select order_id, customer_id, currency, status, coalesce(sum(quantity), 0), coalesce(sum(quantity * unit_price), 0),
  created_at, paid_at, shipped_at, cancelled_at, version
from orders left join order_item using (order_id) group by order_id;
insert into customer_orders
select o.order_id, customer_id, first_name || ' ' || last_name, city, currency, status, item_count, total, created_at, o.version
from order_summary as o left join customers as c using (customer_id);";

/// What the receiver would have counted.
async fn calls(client: &Client) -> BTreeMap<String, u32> {
    let sql = "select event_id::text from relay.outbox where event_type = 'order.paid'";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), 1)).collect()
}

#[tokio::test]
async fn a_workload_writes_whole_lives_and_rolls_one_transaction_in_ten_back() {
    let server = Postgres::start(&[]).await.unwrap();
    let (client, _, written) = shop(&server).await;
    let one = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(one("select count(*) from orders").await, 50);
    let events = one("select count(*) from relay.outbox").await;
    assert_eq!(u64::try_from(events).unwrap(), written.committed.load(Relaxed));
    let rolled_back = one("select count(*) from rolled_back").await;
    assert_eq!(u64::try_from(rolled_back).unwrap(), written.rolled_back.load(Relaxed));
    assert!(rolled_back * 20 > events && rolled_back * 5 < events, "{rolled_back} of {events}");
    assert_eq!(one("select count(*) from rolled_back join relay.outbox using (event_id)").await, 0);
    let verdict = judge_all(&client, &client, &calls(&client).await).await.unwrap();
    assert!(verdict.is_yes(), "{verdict}");
    assert_eq!(one("select count(*) from customers").await, 30);
    let versions = "select count(distinct event_version) from relay.outbox where event_type = 'customer.registered'";
    assert_eq!(one(versions).await, 2, "old registrations and new ones");
}

#[tokio::test]
async fn the_verdict_on_the_list_and_on_the_calls_is_no_for_each_thing_that_can_be_wrong() {
    let server = Postgres::start(&[]).await.unwrap();
    let (client, _, _) = shop(&server).await;
    let good = calls(&client).await;
    for damage in [
        "delete from customer_orders where order_id = (select min(order_id) from orders)",
        "insert into customer_orders select 'x', customer_id, customer_name, customer_city, currency, status, item_count, total, created_at, version from customer_orders limit 1",
        "update customer_orders set customer_name = null where order_id = (select min(order_id) from customer_orders where customer_name is not null)",
        "update customer_orders set customer_city = 'Atlantis' where order_id = (select min(order_id) from orders)",
        "update customer_orders set total = total + 0.01 where order_id = (select min(order_id) from orders)",
        "update customer_orders set item_count = item_count + 1 where order_id = (select min(order_id) from orders)",
        "update customer_orders set status = 'created', version = 1 where order_id = (select min(order_id) from orders)",
    ] {
        client.batch_execute("begin").await.unwrap();
        assert_eq!(client.execute(damage, &[]).await.unwrap(), 1, "{damage}");
        let verdict = judge_all(&client, &client, &good).await.unwrap();
        assert_eq!(failed(&verdict), [5], "after {damage}:\n{verdict}");
        client.batch_execute("rollback").await.unwrap();
    }
    let first = good.keys().next().unwrap().clone();
    let (mut missing, mut twice, mut strange) = (good.clone(), good.clone(), good.clone());
    missing.remove(&first);
    twice.insert(first, 2);
    strange.insert("x".to_owned(), 1);
    for calls in [missing, twice, strange] {
        let verdict = judge_all(&client, &client, &calls).await.unwrap();
        assert_eq!(failed(&verdict), [6], "{verdict}");
    }
}

/// The numbers of the clauses that do not hold.
fn failed(verdict: &Verdict) -> Vec<usize> {
    (0..verdict.clauses.len()).filter(|n| !verdict.clauses[*n].holds).collect()
}

#[tokio::test]
async fn the_verdict_is_no_for_each_thing_that_can_be_wrong() {
    let server = Postgres::start(&[]).await.unwrap();
    let (client, original, _) = shop(&server).await;
    // Each is done to a copy of its own; the numbers are the clauses that must fail.
    let cases: &[(&str, &[usize])] = &[
        ("delete from relay.inbox where event_id = (select event_id from relay.inbox limit 1)", &[1, 4]),
        ("insert into relay.inbox (projection, event_id, day, aggregate_type, aggregate_id, content)
          select 'order_summary', event_id, now(), 'order', 'order_x', event_id from rolled_back limit 1", &[2, 4]),
        ("insert into relay.inbox (projection, event_id, day, aggregate_type, aggregate_id, content)
          values ('order_summary', gen_random_uuid(), now(), 'order', 'order_x', gen_random_uuid())", &[2, 4]),
        ("insert into relay.inbox (projection, event_id, day, aggregate_type, aggregate_id, aggregate_version, content)
          select 'order_summary', event_id, day + 1, 'order', aggregate_id, aggregate_version, content from relay.inbox limit 1", &[4]),
        ("update relay.inbox set projection = 'other'", &[1]),
        ("delete from order_summary where order_id = (select min(order_id) from orders)", &[3]),
        ("insert into order_summary select 'order_x', customer_id, currency, status, item_count, total, created_at
          , paid_at, shipped_at, cancelled_at, version from order_summary limit 1", &[3]),
        ("update order_summary set total = total + 0.01 where order_id = (select min(order_id) from orders)", &[3]),
        ("update order_summary set item_count = item_count + 1 where order_id = (select min(order_id) from orders)", &[3]),
        ("update order_summary set status = 'created' where order_id = (select min(order_id) from orders)", &[3]),
        ("update order_summary set customer_id = 'x' where order_id = (select min(order_id) from orders)", &[3]),
        ("update order_summary set currency = 'x' where order_id = (select min(order_id) from orders)", &[3]),
        ("update order_summary set version = version + 1 where order_id = (select min(order_id) from orders)", &[3]),
        ("update order_summary set created_at = created_at + interval '1 ms' where order_id = (select min(order_id) from orders)", &[3]),
        ("update order_summary set paid_at = now(), cancelled_at = null where order_id = (select min(order_id) from orders)", &[3]),
        // Two events of one order that had their effect the wrong way round.
        ("with a as (delete from relay.inbox where aggregate_id = (select min(order_id) from orders) and aggregate_version = 1 returning *)
          insert into relay.inbox (projection, event_id, day, aggregate_type, aggregate_id, aggregate_version, content)
          select projection, event_id, day, aggregate_type, aggregate_id, aggregate_version, content from a", &[4]),
        ("truncate relay.outbox, orders, order_item, rolled_back, relay.inbox, order_summary", &[0]),
    ];
    for (damage, expected) in cases {
        let database = format!("copy_{}", server.create_database().await.unwrap());
        let admin = server.connect("postgres").await.unwrap();
        admin
            .batch_execute(&format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{original}'"
            ))
            .await
            .unwrap();
        admin
            .batch_execute(&format!("create database {database} template {original}"))
            .await
            .unwrap();
        let copy = server.connect(&database).await.unwrap();
        copy.batch_execute(damage).await.unwrap();
        let verdict = judge(&copy, &copy).await.unwrap();
        assert_eq!(&failed(&verdict), expected, "after {damage}:\n{verdict}");
        assert!(!verdict.is_yes());
    }
    drop(client);
}
