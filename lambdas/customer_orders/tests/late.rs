//! What comes behind later events of its aggregate does not set a row back.

use crate::support::{List, Sent, consumer, created, list, moved, read_model, registered, sent};
use consumer::Outcome::{self, Applied, Parked};
use consumer::Record;
use local::read_model::ReadModel;
use serde_json::{Value, json};

async fn deliver(consumer: &mut List, records: Vec<Record>) -> Vec<Outcome> {
    let report = consumer.deliver(records).await.unwrap();
    report.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// The same without a version, as another event.
fn plain(sent: &Sent) -> Record {
    let mut event: Value = serde_json::from_str(&sent.body()).unwrap();
    event["aggregate_version"] = Value::Null;
    let id = event["event_id"].as_str().unwrap().replace("-4000-8", "-4000-9");
    event["event_id"] = json!(id);
    Record::new(Some(id), Some(event.to_string()), false, |_| None)
}

/// Versions of the rows: of the order, and of its customer.
async fn versions(read_model: &ReadModel) -> (i64, i64) {
    let sql = "select o.version, c.version from customer_orders as o
        join customer_orders_customer as c using (customer_id)";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn rows_do_not_go_back_by_a_replay_or_by_an_event_without_a_version() {
    let read_model = read_model().await;
    let mut consumer = consumer(&read_model).park_after(1);
    let refuse = "create function refuse() returns trigger language plpgsql as
          $$ begin raise exception 'not yet'; end $$;
        create trigger refuse before update on customer_orders for each row
          when (new.status = 'paid') execute function refuse();
        create trigger refuse before update on customer_orders_customer for each row
          when (new.city = 'Paris') execute function refuse()";
    read_model.client.batch_execute(refuse).await.unwrap();
    let paid = sent("order.paid", 1, 2, json!({ "method": "card" }));
    let shipped = sent("order.shipped", 1, 3, json!({ "carrier": "post" }));
    let paris = moved(1, 2, "Paris");
    let batch = [
        created(1, 1),
        registered(1, "Ada", "King", "London"),
        paid.clone(),
        shipped,
        paris.clone(),
        moved(1, 3, "Rome"),
    ];
    let outcomes = deliver(&mut consumer, batch.iter().map(Sent::record).collect()).await;
    assert_eq!(outcomes, [Applied, Applied, Parked, Applied, Parked, Applied]);
    let expected = json!({ "order": "order-1", "name": "Ada King", "city": "Rome",
        "status": "shipped", "items": 0, "total": "0" });
    assert_eq!(list(&read_model).await, std::slice::from_ref(&expected));

    // Versions 2, replayed behind 3.
    let mended = "drop trigger refuse on customer_orders;
        drop trigger refuse on customer_orders_customer;
        select relay.replay_parked(array(select id from relay.parked))";
    read_model.client.batch_execute(mended).await.unwrap();
    assert_eq!(consumer.replay_parked(None).await.unwrap().applied, 2);
    assert_eq!(list(&read_model).await, std::slice::from_ref(&expected));
    assert_eq!(versions(&read_model).await, (3, 3));

    // Events without a version behind version 3.
    let late = vec![plain(&paid), plain(&paris)];
    assert_eq!(deliver(&mut consumer, late).await, [Applied; 2]);
    assert_eq!(list(&read_model).await, [expected]);
    assert_eq!(versions(&read_model).await, (3, 3));
}
