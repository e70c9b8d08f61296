//! A Lambda function from its process's start to its first answer, on a runtime API of our own.

use crate::report::median;
use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use local::postgres::Postgres;
use relay::migrate::{Side, migrate};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc};
use uuid::Uuid;

/// From the process's start to its first answer, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) median: f64,
    pub(crate) fastest: f64,
    pub(crate) slowest: f64,
}

/// Starts the function so often against a read model of its own, each time with one event.
pub(crate) async fn measure(function: &Path, starts: usize, postgres: &Postgres) -> Result<Start> {
    let database = postgres.create_database().await?;
    let client = postgres.connect(&database).await?;
    migrate(&client, Side::ReadModel).await.context("make the inbox")?;
    let table = local::workspace().join("lambdas/order_summary/order_summary.sql");
    client.batch_execute(&std::fs::read_to_string(table)?).await?;
    let mut api = RuntimeApi::start().await?;
    let mut took = Vec::new();
    for _ in 0..starts {
        took.push(api.start_once(function, &postgres.url(&database)).await?);
    }
    let orders: i64 = client.query_one("select count(*) from order_summary", &[]).await?.get(0);
    ensure!(usize::try_from(orders)? == starts, "expected {starts} orders, found {orders}");
    let milliseconds: Vec<f64> = took.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
    Ok(Start {
        median: median(milliseconds.iter().copied()).context("no start")?,
        fastest: milliseconds.iter().copied().fold(f64::INFINITY, f64::min),
        slowest: milliseconds.iter().copied().fold(0.0, f64::max),
    })
}

/// The size of the function's zip file, packed as it is deployed, in megabytes.
pub(crate) fn zipped(function: &Path) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let zip = local::deploy::pack("order_summary", function, folder.path(), folder.path())?;
    #[expect(clippy::cast_precision_loss, reason = "a figure to print")]
    let megabytes = std::fs::metadata(zip)?.len() as f64 / 1e6;
    Ok(megabytes)
}

/// Hands out one event to each process that asks first, and tells of each answer.
struct RuntimeApi {
    address: String,
    to_hand_out: mpsc::Sender<String>,
    answers: mpsc::Receiver<(Instant, String)>,
}

struct Open {
    invocations: Mutex<mpsc::Receiver<String>>,
    answers: mpsc::Sender<(Instant, String)>,
}

impl RuntimeApi {
    async fn start() -> Result<Self> {
        let (to_hand_out, invocations) = mpsc::channel(1);
        let (answered, answers) = mpsc::channel(1);
        let open = Open { invocations: Mutex::new(invocations), answers: answered };
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .with_state(Arc::new(open));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async { axum::serve(listener, routes).await });
        Ok(Self { address, to_hand_out, answers })
    }

    async fn start_once(&mut self, function: &Path, read_model: &str) -> Result<Duration> {
        self.to_hand_out.send(invocation()).await?;
        let began = Instant::now();
        let mut process = Command::new(function)
            .env("AWS_LAMBDA_RUNTIME_API", &self.address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "order_summary")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "bench")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "bench")
            .env("READ_MODEL_URL", read_model)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", function.display()))?;
        let answer = tokio::time::timeout(Duration::from_secs(30), self.answers.recv()).await;
        let (at, body) = answer.context("no answer within 30 s")?.context("no runtime API")?;
        ensure!(body == r#"{"batchItemFailures":[]}"#, "expected a clean answer, found {body}");
        process.kill().await?;
        Ok(at.duration_since(began))
    }
}

async fn next(State(open): State<Arc<Open>>) -> Result<(HeaderMap, String), StatusCode> {
    let Some(invocation) = open.invocations.lock().await.recv().await else {
        return Err(StatusCode::GONE);
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
        ("lambda-runtime-deadline-ms", "4102444800000"),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:000000000000:function:f"),
    ] {
        headers.insert(name, axum::http::HeaderValue::from_static(value));
    }
    Ok((headers, invocation))
}

async fn answer(State(open): State<Arc<Open>>, body: String) -> StatusCode {
    match open.answers.send((Instant::now(), body)).await {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::GONE,
    }
}

/// One message of a FIFO queue: a new order.
fn invocation() -> String {
    let (event, order) = (Uuid::now_v7(), Uuid::now_v7());
    let body = serde_json::json!({
        "event_id": event, "event_type": "order.created", "event_version": "1.0",
        "timestamp": "2026-01-15T10:30:00.000Z", "source": "shop",
        "aggregate_type": "order", "aggregate_id": order, "aggregate_version": 1,
        "correlation_id": event, "causation_id": null,
        "data": { "customer_id": "c-1", "currency": "EUR" }, "metadata": {},
    });
    serde_json::json!({ "Records": [{
        "messageId": event, "receiptHandle": "r", "body": body.to_string(), "md5OfBody": "",
        "messageAttributes": {},
        "attributes": {
            "ApproximateReceiveCount": "1", "SentTimestamp": "1768473000123",
            "MessageGroupId": order, "SequenceNumber": "1", "MessageDeduplicationId": event,
        },
        "eventSource": "aws:sqs", "awsRegion": "eu-west-1",
        "eventSourceARN": "arn:aws:sqs:eu-west-1:000000000000:orders.fifo",
    }] })
    .to_string()
}
