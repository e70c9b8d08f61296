//! Orders and customers in every order.

use crate::support::{
    Sent, clear, consumer, created, deliver, item, list, moved, read_model, registered, sent,
};
use consumer::Outcome;
use serde_json::{Value, json};

/// Two orders of one customer, who moves between them.
fn story() -> Vec<Sent> {
    vec![
        created(1, 1),
        item(1, 2, 3, "0.10"),
        registered(1, "Ada", "King Noel", "London"),
        sent("order.paid", 1, 3, json!({ "method": "card" })),
        moved(1, 2, "Paris"),
        created(2, 1),
    ]
}

fn told() -> Vec<Value> {
    let order = |order, status, items, total| {
        json!({ "order": order, "name": "Ada King Noel", "city": "Paris", "status": status,
            "items": items, "total": total })
    };
    vec![order("order-1", "paid", 3, "0.30"), order("order-2", "created", 0, "0")]
}

/// All orders in which `left` can come.
fn permutations(left: &[Sent]) -> Vec<Vec<Sent>> {
    if left.is_empty() {
        return vec![Vec::new()];
    }
    let first = |at: usize| {
        let mut rest = left.to_vec();
        let first = rest.remove(at);
        permutations(&rest).into_iter().map(move |mut rest| {
            rest.insert(0, first.clone());
            rest
        })
    };
    (0..left.len()).flat_map(first).collect()
}

#[tokio::test]
async fn the_list_is_the_same_in_whatever_order_events_come_and_however_often() {
    let read_model = read_model().await;
    let mut consumer = consumer(&read_model);
    // Every seventh of the 720 orders of arrival: one event to a delivery, so that the order of
    // arrival is that of application where versions allow it, or all in one batch, twice over.
    for (n, order) in permutations(&story()).into_iter().step_by(7).enumerate() {
        if n % 3 == 0 {
            let twice: Vec<Sent> = order.iter().chain(&order).cloned().collect();
            deliver(&mut consumer, &twice).await;
        } else {
            let mut waiting: Vec<Sent> = Vec::new();
            for event in &order {
                waiting.push(event.clone());
                // What waits for earlier versions comes again with each delivery.
                let mut still = Vec::new();
                for event in waiting {
                    let report = consumer.deliver(vec![event.record()]).await.unwrap();
                    if !report.outcomes[0].1.is_done() {
                        still.push(event);
                    }
                }
                waiting = still;
            }
            deliver(&mut consumer, &waiting).await;
        }
        assert_eq!(list(&read_model).await, told(), "{order:?}");
        assert_eq!(read_model.parked().await.unwrap(), [""; 0]);
        clear(&read_model).await;
    }
}

#[tokio::test]
async fn an_order_before_its_customer_has_no_name_yet_and_an_old_registration_gives_it_one() {
    let read_model = read_model().await;
    let mut consumer = consumer(&read_model);
    assert_eq!(deliver(&mut consumer, &[created(1, 7)]).await, [Outcome::Applied]);
    assert_eq!(list(&read_model).await[0]["name"], Value::Null);
    let old = json!({ "name": "Ada Lovelace", "city": "London" });
    let events = [sent("customer.registered", 7, 1, old), created(2, 7)];
    assert_eq!(deliver(&mut consumer, &events).await, [Outcome::Applied; 2]);
    for row in list(&read_model).await {
        assert_eq!((&row["name"], &row["city"]), (&json!("Ada Lovelace"), &json!("London")));
    }
}

#[tokio::test]
async fn an_order_and_its_customer_at_the_same_time_find_each_other() {
    let read_model = read_model().await;
    // Two queues, two hosts for each, each aggregate in order, and no other order at all.
    let customers = 1..=12_u32;
    let mut events: Vec<Sent> = Vec::new();
    for customer in customers.clone() {
        events.push(registered(customer, "C", &customer.to_string(), "Old"));
        events.push(moved(customer, 2, "New"));
        for order in 0..6 {
            events.push(created(customer * 10 + order, customer));
        }
    }
    let host = |of_orders: bool, odd: bool| {
        let mine: Vec<Sent> = events
            .iter()
            .enumerate()
            .filter(|(n, sent)| {
                sent.is_of_an_order() == of_orders && (!of_orders || (n % 2 == 1) == odd)
            })
            .map(|(_, sent)| sent.clone())
            .collect();
        let mut consumer = consumer(&read_model);
        async move {
            // Customers backwards, so that batches meet crosswise.
            let batches: Vec<_> = mine.chunks(4).collect();
            let turned = batches.iter().rev().filter(|_| odd);
            for batch in turned.chain(batches.iter().filter(|_| !odd)) {
                deliver(&mut consumer, batch).await;
            }
        }
    };
    tokio::join!(host(true, true), host(true, false), host(false, true), host(false, false));
    let list = list(&read_model).await;
    assert_eq!(list.len(), 72);
    for row in list {
        let order: u32 = row["order"].as_str().unwrap()[6..].parse().unwrap();
        let name = format!("C {}", order / 10);
        assert_eq!((&row["name"], &row["city"]), (&json!(name), &json!("New")), "{row}");
    }
    assert_eq!(read_model.parked().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_can_never_be_applied_is_parked_with_the_reason_and_the_rest_goes_on() {
    let read_model = read_model().await;
    let mut consumer = consumer(&read_model);
    let nul = json!({ "first_name": "A\u{0}", "last_name": "B", "city": "C" });
    let events = [
        created(1, 1),
        item(1, 2, 1, "1e9"),
        item(1, 3, 0, "1"),
        item(1, 4, 1, "2.50"),
        sent("order.gift_wrapped", 1, 5, json!({})),
        moved(2, 1, "Paris"),
        sent("customer.registered", 3, 1, nul),
        sent("customer.registered", 4, 1, json!({ "name": 4, "city": "C" })),
    ];
    let expected = {
        use Outcome::{Applied, Parked};
        [Applied, Parked, Parked, Applied, Applied, Parked, Parked, Parked]
    };
    assert_eq!(deliver(&mut consumer, &events).await, expected);
    let reasons = read_model.parked().await.unwrap();
    for (reason, part) in reasons.iter().zip([
        "shape",
        "shape",
        "expected the customer to be there",
        "cannot be stored",
        "shape",
    ]) {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(list(&read_model).await[0]["total"], "2.50");
}
