//! Lambda's runtime API on loopback, and a function's real binary that is driven by it.

use crate::process::{Process, command, tail};
use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};

/// No answer takes that long unless it does not come.
const LIMIT: Duration = Duration::from_secs(60);

/// Hands out invocations in turn and collects what comes back.
struct RuntimeApi {
    invocations: Mutex<mpsc::Receiver<Value>>,
    answers: mpsc::Sender<Answer>,
    timeout: Duration,
}

/// What a function answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The invocation was handled.
    Response(Value),
    /// It failed, as a whole.
    Error(Value),
}

/// A function's process. Dropped, it is killed.
#[derive(Debug)]
pub struct Function {
    invocations: mpsc::Sender<Value>,
    answers: mpsc::Receiver<Answer>,
    process: Process,
    _folder: TempDir,
}

impl Function {
    /// Starts the binary with these variables; an invocation of it may take `timeout`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(
        program: &str,
        timeout: Duration,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let (invocations, to_hand_out) = mpsc::channel(1);
        let (collected, answers) = mpsc::channel(1);
        let api = RuntimeApi { invocations: Mutex::new(to_hand_out), answers: collected, timeout };
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answered))
            .with_state(Arc::new(api));
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen on loopback")?;
        let address = listener.local_addr().context("read the port")?.to_string();
        tokio::spawn(async { axum::serve(listener, routes).await });

        let folder = TempDir::new().context("make a folder")?;
        let mut run = command(program.as_ref(), "KILL", None);
        run.env_remove("RUST_LOG")
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "f")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "g")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "s")
            .envs(environment.iter().copied());
        let process = Process::start("the function", run, &folder.path().join("log"))?;
        Ok(Self { invocations, answers, process, _folder: folder })
    }

    /// Has it handle an invocation.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn invoke(&mut self, invocation: Value) -> Result<Answer> {
        self.invocations.send(invocation).await.context("the runtime API is gone")?;
        let answer = tokio::time::timeout(LIMIT, self.answers.recv()).await;
        answer.ok().flatten().with_context(|| {
            format!("expected an answer within {LIMIT:?}; the log ends:\n{}", tail(&self.log()))
        })
    }

    /// Waits for its end, which only one that cannot work comes to.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.process.ended(LIMIT).await
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> Result<(HeaderMap, String), StatusCode> {
    let Some(invocation) = api.invocations.lock().await.recv().await else {
        return Err(StatusCode::GONE);
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let deadline = (now + api.timeout).as_millis().to_string();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("lambda-runtime-aws-request-id", "r-1"),
        ("lambda-runtime-deadline-ms", deadline.as_str()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:000000000000:function:f"),
    ] {
        let value = value.parse().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        headers.insert(name, value);
    }
    Ok((headers, invocation.to_string()))
}

async fn answered(
    State(api): State<Arc<RuntimeApi>>,
    Path((_, kind)): Path<(String, String)>,
    body: String,
) -> StatusCode {
    let body = serde_json::from_str(&body).unwrap_or(Value::Null);
    let answer = if kind == "response" { Answer::Response(body) } else { Answer::Error(body) };
    match api.answers.send(answer).await {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::GONE,
    }
}

impl Answer {
    /// That of a batch of which these messages, by their ids, go back to the queue.
    #[must_use]
    pub fn all_but(failed: &[&str]) -> Self {
        let failed = failed.iter().map(|id| json!({ "itemIdentifier": id }));
        Self::Response(json!({ "batchItemFailures": failed.collect::<Vec<_>>() }))
    }
}

/// What Lambda hands in for messages of one group of a FIFO queue: their ids and bodies.
#[must_use]
pub fn messages(messages: &[(&str, &str)]) -> Value {
    let record = |(id, body): &(&str, &str)| {
        json!({
            "messageId": id, "receiptHandle": "r", "body": body, "md5OfBody": "",
            "messageAttributes": {},
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
