//! The same program as a Lambda function behind a URL, driven as Lambda drives it.

use crate::support::{LONG, ReadModel};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::process::Stdio;
use std::sync::Arc;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// The runtime API: hands out requests in turn and collects the answers.
struct RuntimeApi {
    requests: Mutex<mpsc::Receiver<Value>>,
    answers: mpsc::Sender<Value>,
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> (HeaderMap, String) {
    let request = match api.requests.lock().await.recv().await {
        Some(request) => request,
        None => std::future::pending().await,
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let deadline = (now + LONG).as_millis().to_string();
    let headers = [
        ("lambda-runtime-aws-request-id", "r-1"),
        ("lambda-runtime-deadline-ms", deadline.as_str()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:000000000000:function:f"),
    ];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    (HeaderMap::from_iter(headers), request.to_string())
}

async fn answer(
    State(api): State<Arc<RuntimeApi>>,
    Path((_, kind)): Path<(String, String)>,
    body: String,
) -> StatusCode {
    assert_eq!(kind, "response", "{body}");
    api.answers.send(serde_json::from_str(&body).unwrap()).await.unwrap();
    StatusCode::ACCEPTED
}

struct Function {
    requests: mpsc::Sender<Value>,
    answers: mpsc::Receiver<Value>,
    /// Killed with the test.
    _process: Child,
}

impl Function {
    async fn start(read_model_url: &str, wait: &str) -> Self {
        let (requests, to_hand_out) = mpsc::channel(8);
        let (collected, answers) = mpsc::channel(8);
        let api = Arc::new(RuntimeApi { requests: Mutex::new(to_hand_out), answers: collected });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .with_state(api);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, routes).await });
        let process = Command::new(env!("CARGO_BIN_EXE_orders_api"))
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "orders_api")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "g")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "s")
            .env("READ_MODEL_URL", read_model_url)
            .env("WAIT", wait)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { requests, answers, _process: process }
    }

    /// Asks as a function URL does, with payload format 2.0; returns status, headers and body.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads>
    async fn get(&mut self, path: &str, query: &str) -> (u64, Value, Value) {
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
        self.requests.send(request).await.unwrap();
        let answer = timeout(LONG, self.answers.recv()).await.unwrap().unwrap();
        assert_eq!(answer["isBase64Encoded"], false);
        let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        (answer["statusCode"].as_u64().unwrap(), answer["headers"].clone(), body)
    }
}

#[tokio::test]
async fn the_function_answers_what_its_url_is_asked() {
    let read_model = ReadModel::start().await;
    let mut function = Function::start(&read_model.url(), "50ms").await;
    read_model.bring("o 1/a", 1, "c-1").await;
    let (status, headers, order) = function.get("/orders/o%201%2Fa", "min_version=1").await;
    assert_eq!((status, &order["order_id"], &order["version"]), (200, &json!("o 1/a"), &json!(1)));
    assert_eq!(headers["content-type"], "application/json");

    let (status, headers, body) = function.get("/orders/o%201%2Fa", "min_version=2").await;
    assert_eq!((status, &body["error"]), (504, &json!("not_yet")));
    assert_eq!(headers["retry-after"], "1");
    let (status, headers, _) = function.get("/orders/o%201%2Fa", "min_version=2&stale=true").await;
    assert_eq!((status, &headers["x-stale"]), (200, &json!("true")));
    let (status, _, list) = function.get("/customers/c-1/orders", "").await;
    assert_eq!((status, list.as_array().unwrap().len()), (200, 1));
    assert_eq!(function.get("/", "").await.0, 404);
}

#[tokio::test]
async fn a_request_waits_for_its_version_on_lambda_too() {
    let read_model = ReadModel::start().await;
    let mut function = Function::start(&read_model.url(), "60s").await;
    let deliver = async {
        read_model.announced(1).await;
        read_model.bring("o-1", 1, "c-1").await;
    };
    let (answer, ()) = tokio::join!(function.get("/orders/o-1", "min_version=1"), deliver);
    assert_eq!((answer.0, &answer.2["version"]), (200, &json!(1)));
}

#[tokio::test]
async fn connections_that_ended_between_two_requests_cost_no_answer() {
    let read_model = ReadModel::start().await;
    let mut function = Function::start(&read_model.url(), "60s").await;
    read_model.bring("o-1", 1, "c-1").await;
    for _ in 0..5 {
        assert_eq!(function.get("/orders/o-1", "min_version=1").await.0, 200);
        let end = "select pg_terminate_backend(pid, 60000) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()";
        read_model.client.batch_execute(end).await.unwrap();
    }
    assert_eq!(function.get("/orders/o-1", "min_version=1").await.0, 200);
}
