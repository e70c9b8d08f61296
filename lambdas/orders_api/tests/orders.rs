//! An order is as fresh as the caller asks, or the answer says that it is not.

use crate::support::{LONG, ReadModel, Service};
use serde_json::{Value, json};
use tokio::time::timeout;

#[tokio::test]
async fn a_request_waits_for_the_version_that_it_asks_for() {
    let read_model = ReadModel::start().await;
    let service = Service::start(&read_model.url(), "60s").await;
    read_model.bring("o-1", 1, "c-1").await;
    let answer = service.get("/orders/o-1?min_version=1").await;
    assert_eq!((answer.status, &answer.body["version"]), (200, &json!(1)));

    // The event is delivered while the request waits for it.
    let deliver = async {
        read_model.announced(1).await;
        read_model.bring("o-1", 2, "c-1").await;
    };
    let (answer, ()) = tokio::join!(service.get("/orders/o-1?min_version=2"), deliver);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers.get("x-stale"), None);
    assert_eq!(
        answer.body,
        json!({
            "order_id": "o-1", "customer_id": "c-1", "currency": "EUR", "status": "created",
            "item_count": 2, "total": "0.20", "version": 2,
            "created_at": "2026-01-15T10:30:01+00:00",
            "paid_at": null, "shipped_at": null, "cancelled_at": null,
        })
    );
}

#[tokio::test]
async fn an_order_that_is_not_there_yet_is_waited_for_like_any_other() {
    let read_model = ReadModel::start().await;
    let service = Service::start(&read_model.url(), "60s").await;
    assert_eq!(service.get("/orders/o-1").await.status, 404);
    let deliver = async {
        read_model.announced(1).await;
        read_model.bring("o-1", 1, "c-1").await;
    };
    let (answer, ()) = tokio::join!(service.get("/orders/o-1?min_version=1"), deliver);
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn what_is_not_there_in_time_is_refused_or_stale_as_the_caller_chooses() {
    let read_model = ReadModel::start().await;
    let service = Service::start(&read_model.url(), "50ms").await;
    read_model.bring("o-1", 1, "c-1").await;
    let answer = service.get("/orders/o-1?min_version=2").await;
    assert_eq!((answer.status, &answer.body["error"]), (504, &json!("not_yet")));
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains("o-1 at version 2 within 50ms"), "{message}");
    assert_eq!(answer.headers["retry-after"], "1");

    let answer = service.get("/orders/o-1?min_version=2&stale=true").await;
    assert_eq!((answer.status, &answer.body["version"]), (200, &json!(1)));
    assert_eq!(answer.headers["x-stale"], "true");
    let answer = service.get("/orders/o-2?min_version=2&stale=true").await;
    assert_eq!((answer.status, answer.headers["x-stale"].as_str()), (404, "true"));
    // What is there is not stale, whatever would be taken.
    let answer = service.get("/orders/o-1?min_version=1&stale=true").await;
    assert_eq!((answer.status, answer.headers.get("x-stale")), (200, None));
}

#[tokio::test]
async fn a_customers_orders_are_listed_the_newest_first() {
    let read_model = ReadModel::start().await;
    let service = Service::start(&read_model.url(), "2s").await;
    for (order, customer) in [("o-1", "c-1"), ("o-2", "c-2"), ("o-3", "c-1")] {
        read_model.bring(order, 1, customer).await;
    }
    let later =
        "update order_summary set created_at = created_at + interval '1 h' where order_id = 'o-3'";
    read_model.client.batch_execute(later).await.unwrap();
    let ids = |body: &Value| -> Vec<String> {
        let orders = body.as_array().unwrap().iter();
        orders.map(|order| order["order_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&service.get("/customers/c-1/orders").await.body), ["o-3", "o-1"]);
    assert_eq!(ids(&service.get("/customers/c-1/orders?limit=1").await.body), ["o-3"]);
    assert_eq!(service.get("/customers/nobody/orders").await.body, json!([]));
    assert_eq!(service.get("/customers/c-1%27%00/orders").await.body, json!([]));
}

#[tokio::test]
async fn a_request_that_cannot_be_meant_says_what_was_expected() {
    let read_model = ReadModel::start().await;
    let service = Service::start(&read_model.url(), "2s").await;
    for (path, status, said) in [
        ("/orders/o-1?min_version=0", 400, "expected min_version to be 1 or more, found 0"),
        ("/orders/o-1?min_version=five", 400, "expected min_version=NUMBER"),
        ("/orders/o-1?minversion=5", 400, "min_version"),
        ("/customers/c-1/orders?limit=0", 400, "between 1 and 1000"),
        ("/customers/c-1/orders?limit=1001", 400, "between 1 and 1000"),
        ("/orders/o%00?min_version=5", 404, "there is no order"),
        ("/orders/o-9", 404, "there is no order o-9"),
        ("/order/o-1", 404, "expected /orders/{id}"),
        ("/", 404, "expected /orders/{id}"),
        ("/orders/%FF", 400, "percent-encoded UTF-8"),
        ("/customers/%C3%28/orders", 400, "percent-encoded UTF-8"),
        ("/orders/o-1?min_version=%FF", 400, "stale=true or false in the query"),
        ("/customers/c-1/orders?limit=many", 400, "expected limit=NUMBER in the query"),
        ("/orders/%1B%5B31m%3Cb%3E", 404, "there is no order \u{1b}[31m<b>"),
    ] {
        let answer = service.get(path).await;
        assert_eq!(answer.headers["content-type"], "application/json", "{path}");
        let message = answer.body["message"].as_str().unwrap();
        assert!(answer.status == status && message.contains(said), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn another_method_is_refused_with_those_that_are_allowed() {
    let read_model = ReadModel::start().await;
    let service = Service::start(&read_model.url(), "2s").await;
    for path in ["/orders/o-1", "/customers/c-1/orders", "/healthz"] {
        for method in ["POST", "DELETE", "PUT"] {
            let answer = service.ask(method, path).await;
            let found = (answer.status, &answer.body["error"]);
            assert_eq!(found, (405, &json!("method_not_allowed")), "{method} {path}");
            assert_eq!(answer.headers["allow"], "GET, HEAD");
            assert_eq!(answer.headers["content-type"], "application/json");
        }
    }
}

#[tokio::test]
async fn a_read_model_that_goes_away_is_said_and_found_again() {
    let mut read_model = ReadModel::start().await;
    let service = Service::start(&read_model.url(), "50ms").await;
    read_model.bring("o-1", 1, "c-1").await;
    assert_eq!(service.get("/healthz").await.body, json!({ "status": "ok" }));
    read_model.postgres.stop().await.unwrap();
    for path in ["/healthz", "/orders/o-1", "/orders/o-1?min_version=1"] {
        let answer = service.get(path).await;
        assert_eq!((answer.status, &answer.body["error"]), (503, &json!("unavailable")), "{path}");
        assert!(!answer.body.to_string().contains("127.0.0.1"), "{answer:?}");
    }
    read_model.postgres.restart().await.unwrap();
    let back = async {
        while service.get("/healthz").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, back).await.unwrap();
    assert_eq!(service.get("/orders/o-1?min_version=1").await.status, 200);
}
