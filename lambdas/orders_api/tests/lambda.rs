//! The same program as a Lambda function behind a URL, driven as Lambda drives it.

use crate::support::{LONG, ReadModel};
use local::runtime_api::{Answer, Function};
use serde_json::{Value, json};

async fn start(read_model_url: &str, wait: &str) -> Function {
    let environment = [("READ_MODEL_URL", read_model_url), ("WAIT", wait)];
    Function::start(env!("CARGO_BIN_EXE_orders_api"), LONG, &environment).await.unwrap()
}

/// Asks as a function URL does, with payload format 2.0; returns status, headers and body.
/// <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads>
async fn get(function: &mut Function, path: &str, query: &str) -> (u64, Value, Value) {
    let host = "abc.lambda-url.eu-west-1.on.aws";
    let request = json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query,
        "headers": { "host": host, "x-forwarded-proto": "https", "x-forwarded-port": "443" },
        "requestContext": {
            "accountId": "000000000000", "apiId": "abc", "domainName": host,
            "domainPrefix": "abc", "requestId": "q-1", "routeKey": "$default",
            "stage": "$default", "time": "15/Jan/2026:10:30:00 +0000",
            "timeEpoch": 1_768_473_000_000_u64,
            "http": {
                "method": "GET", "path": path, "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1", "userAgent": "test",
            },
        },
        "isBase64Encoded": false,
    });
    let Answer::Response(answer) = function.invoke(request).await.unwrap() else {
        panic!("{}", function.log());
    };
    assert_eq!(answer["isBase64Encoded"], false);
    let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    (answer["statusCode"].as_u64().unwrap(), answer["headers"].clone(), body)
}

#[tokio::test]
async fn the_function_answers_what_its_url_is_asked() {
    let read_model = ReadModel::start().await;
    let mut function = start(&read_model.url(), "50ms").await;
    read_model.bring("o 1/a", 1, "c-1").await;
    let (status, headers, order) = get(&mut function, "/orders/o%201%2Fa", "min_version=1").await;
    assert_eq!((status, &order["order_id"], &order["version"]), (200, &json!("o 1/a"), &json!(1)));
    assert_eq!(headers["content-type"], "application/json");

    let (status, headers, body) = get(&mut function, "/orders/o%201%2Fa", "min_version=2").await;
    assert_eq!((status, &body["error"]), (504, &json!("not_yet")));
    assert_eq!(headers["retry-after"], "1");
    let (status, headers, _) =
        get(&mut function, "/orders/o%201%2Fa", "min_version=2&stale=true").await;
    assert_eq!((status, &headers["x-stale"]), (200, &json!("true")));
    let (status, _, list) = get(&mut function, "/customers/c-1/orders", "").await;
    assert_eq!((status, list.as_array().unwrap().len()), (200, 1));
    assert_eq!(get(&mut function, "/", "").await.0, 404);
}

#[tokio::test]
async fn a_request_waits_for_its_version_on_lambda_too() {
    let read_model = ReadModel::start().await;
    let mut function = start(&read_model.url(), "60s").await;
    let deliver = async {
        read_model.announced(1).await;
        read_model.bring("o-1", 1, "c-1").await;
    };
    let (answer, ()) = tokio::join!(get(&mut function, "/orders/o-1", "min_version=1"), deliver);
    assert_eq!((answer.0, &answer.2["version"]), (200, &json!(1)));
}

#[tokio::test]
async fn connections_that_ended_between_two_requests_cost_no_answer() {
    let read_model = ReadModel::start().await;
    let mut function = start(&read_model.url(), "60s").await;
    read_model.bring("o-1", 1, "c-1").await;
    for _ in 0..5 {
        assert_eq!(get(&mut function, "/orders/o-1", "min_version=1").await.0, 200);
        let end = "select pg_terminate_backend(pid, 60000) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()";
        read_model.client.batch_execute(end).await.unwrap();
    }
    assert_eq!(get(&mut function, "/orders/o-1", "min_version=1").await.0, 200);
}
