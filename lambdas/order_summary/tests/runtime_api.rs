//! The real binary, driven as Lambda drives it.

use crate::support::{ReadModel, body};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};

/// How long an invocation may take.
const TIME_OUT: Duration = Duration::from_secs(5);

/// The runtime API: hands out invocations in turn and collects what comes back.
struct RuntimeApi {
    invocations: Mutex<mpsc::Receiver<Value>>,
    answers: mpsc::Sender<(String, Value)>,
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> (HeaderMap, String) {
    let invocation = match api.invocations.lock().await.recv().await {
        Some(invocation) => invocation,
        None => std::future::pending().await,
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let deadline = (now + TIME_OUT).as_millis().to_string();
    let headers = [
        ("lambda-runtime-aws-request-id", "r-1"),
        ("lambda-runtime-deadline-ms", deadline.as_str()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:000000000000:function:f"),
    ];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    (HeaderMap::from_iter(headers), invocation.to_string())
}

async fn answer(
    State(api): State<Arc<RuntimeApi>>,
    Path((_, kind)): Path<(String, String)>,
    body: String,
) -> StatusCode {
    let body = serde_json::from_str(&body).unwrap_or(Value::Null);
    api.answers.send((kind, body)).await.unwrap();
    StatusCode::ACCEPTED
}

struct Function {
    invocations: mpsc::Sender<Value>,
    answers: mpsc::Receiver<(String, Value)>,
    /// Killed with the test.
    _process: Child,
}

impl Function {
    async fn start(read_model_url: &str) -> Self {
        Self::start_with(read_model_url, &[]).await
    }

    async fn start_with(read_model_url: &str, variables: &[(&str, &str)]) -> Self {
        let (invocations, to_hand_out) = mpsc::channel(8);
        let (collected, answers) = mpsc::channel(8);
        let api = Arc::new(RuntimeApi { invocations: Mutex::new(to_hand_out), answers: collected });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .with_state(api);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, routes).await });
        let process = Command::new(env!("CARGO_BIN_EXE_order_summary"))
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "order_summary")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "g")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "s")
            .env("READ_MODEL_URL", read_model_url)
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { invocations, answers, _process: process }
    }

    async fn invoke(&mut self, invocation: Value) -> (String, Value) {
        self.invocations.send(invocation).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(30), self.answers.recv()).await;
        answer.expect("an answer within 30 s").unwrap()
    }
}

fn event(messages: &[(&str, String)]) -> Value {
    let record = |(id, body): &(&str, String)| {
        json!({
            "messageId": id, "receiptHandle": "r", "body": body, "md5OfBody": "", "messageAttributes": {},
            "attributes": {
                "ApproximateReceiveCount": "1", "SentTimestamp": "1768473000123",
                "MessageGroupId": "g", "SequenceNumber": "1", "MessageDeduplicationId": "d",
            },
            "eventSource": "aws:sqs", "awsRegion": "eu-west-1",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:000000000000:orders.fifo",
        })
    };
    json!({ "Records": messages.iter().map(record).collect::<Vec<_>>() })
}

#[tokio::test]
async fn the_function_applies_batches_and_names_what_goes_back() {
    let read_model = ReadModel::start().await;
    let mut function = Function::start(&read_model.url()).await;
    let created = body(1, 1, "order.created", &json!({ "customer_id": "c", "currency": "EUR" }));
    let paid = |version| body(1, version, "order.paid", &json!({ "amount": "1" }));

    let none_failed = ("response".to_owned(), json!({ "batchItemFailures": [] }));
    assert_eq!(function.invoke(event(&[])).await, none_failed);
    assert_eq!(function.invoke(json!({})).await, none_failed);
    let batch = event(&[("m1", created.clone()), ("m2", "no event".to_owned()), ("m3", paid(2))]);
    let (kind, response) = function.invoke(batch).await;
    let failed =
        json!({ "batchItemFailures": [{ "itemIdentifier": "m2" }, { "itemIdentifier": "m3" }] });
    assert_eq!((kind.as_str(), response), ("response", failed));
    assert_eq!(read_model.row("o-1").await["status"], "created");

    let redelivered = event(&[("m1", created), ("m3", paid(2))]);
    assert_eq!(function.invoke(redelivered).await, none_failed);
    assert_eq!(read_model.row("o-1").await["status"], "paid");
}

#[tokio::test]
async fn a_read_model_that_cannot_be_reached_is_an_error_for_the_whole_batch() {
    let mut function = Function::start("postgres://nobody:secret@127.0.0.1:1/none").await;
    let (kind, error) =
        function.invoke(event(&[("m1", body(1, 1, "order.paid", &json!({})))])).await;
    assert_eq!((kind.as_str(), &error["errorType"]), ("error", &json!("Unreachable")));
    assert!(!error.to_string().contains("secret"));
}

/// An order's creation as it comes with the headers of its trace.
#[cfg(feature = "otel")]
fn traced() -> Value {
    let data = json!({ "customer_id": "c", "currency": "EUR" });
    let metadata = r#""metadata":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},"data":"#;
    let mut invocation =
        event(&[("m1", body(1, 1, "order.created", &data).replacen("\"data\":", metadata, 1))]);
    invocation["Records"][0]["attributes"]["AWSTraceHeader"] =
        "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1".into();
    invocation
}

#[cfg(feature = "otel")]
#[tokio::test]
async fn the_spans_are_sent_before_the_answer_to_where_opentelemetrys_variables_say() {
    use crate::otlp::{Otlp, attribute, hex};
    let none_failed = ("response".to_owned(), json!({ "batchItemFailures": [] }));
    for (service, expected) in [("orders", "orders"), ("", "order_summary")] {
        let (read_model, otlp) = (ReadModel::start().await, Otlp::start().await);
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.address()),
            ("OTEL_SERVICE_NAME", service),
            // The filter of the log has no say in it.
            ("RUST_LOG", "error"),
        ];
        let mut function = Function::start_with(&read_model.url(), &variables).await;
        assert_eq!(function.invoke(traced()).await, none_failed);
        let requests = otlp.requests();
        assert_eq!(requests.len(), 1);
        let resource = requests[0].resource_spans[0].resource.clone().unwrap();
        assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some(expected));
        let spans = otlp.spans();
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["process order_summary", "batch order_summary"]);
        assert_eq!(hex(&spans[1].parent_span_id), "", "the runtime's span is not sent");
        let links: Vec<String> = spans[0].links.iter().map(|link| hex(&link.span_id)).collect();
        assert_eq!(links, ["b7ad6b7169203331", "53995c3f42cd8ad8"]);
        assert_eq!(function.invoke(traced()).await, none_failed);
        assert_eq!(otlp.requests().len(), 2);
    }
}

#[cfg(feature = "otel")]
#[tokio::test]
async fn a_function_that_cannot_send_spans_works_without_them() {
    let none_failed = ("response".to_owned(), json!({ "batchItemFailures": [] }));
    for address in ["http://127.0.0.1:1", "http://otlp.example.com:4318", "nonsense"] {
        let read_model = ReadModel::start().await;
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", address)];
        let mut function = Function::start_with(&read_model.url(), &variables).await;
        assert_eq!(function.invoke(traced()).await, none_failed, "{address}");
    }
}
