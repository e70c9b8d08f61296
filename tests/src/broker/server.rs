//! The server: which of the services a request is for, who sent it, and what each answers but for
//! batches of messages.

use super::publish::publish;
use super::rules::Refusal;
use super::state::Message;
use super::{Session, Shared, s3, sns, sqs, sts};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

#[expect(clippy::expect_used, reason = "a test without a broker cannot go on")]
pub(super) fn serve(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(async move {
        listener.set_nonblocking(true).expect("make the port asynchronous");
        let listener = tokio::net::TcpListener::from_std(listener).expect("take over the port");
        let app = axum::Router::new()
            .fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
                answer(Arc::clone(&shared), method, uri, headers, body)
            })
            .layer(axum::extract::DefaultBodyLimit::max(80 << 20));
        tokio::select! {
            _ = axum::serve(listener, app) => {}
            _ = stopped => {}
        }
    });
}

/// Which of the two protocols a request speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    Sns,
    Sqs,
}

impl Protocol {
    pub(super) fn respond(self, status: u16, body: String) -> Response<Body> {
        let kind = match self {
            Self::Sns => "text/xml",
            Self::Sqs => "application/x-amz-json-1.0",
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
        response
    }

    pub(super) fn refuse(self, status: u16, refusal: &Refusal) -> Response<Body> {
        match self {
            Self::Sns => self.respond(status, sns::error(refusal)),
            Self::Sqs => {
                let body = json!({ "__type": format!("com.amazonaws.sqs#{}", refusal.code), "message": refusal.message });
                self.respond(status, body.to_string())
            }
        }
    }
}

pub(super) fn refusal(code: &'static str, message: &str) -> Refusal {
    Refusal { code, message: message.to_owned() }
}

async fn answer(
    shared: Arc<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    let protocol = if target.is_some() { Protocol::Sqs } else { Protocol::Sns };
    let signed = headers.get("authorization").and_then(|v| v.to_str().ok());
    let Some(signed) = signed.filter(|v| v.starts_with("AWS4-HMAC-SHA256 ")) else {
        return protocol.refuse(
            403,
            &refusal("MissingAuthenticationToken", "Request is missing Authentication Token"),
        );
    };
    if is_expired(&shared, signed, &headers) {
        shared.changed.notify_waiters();
        if s3::is_s3(signed) {
            return s3::refuse(400, "ExpiredToken");
        }
        return protocol.refuse(403, &refusal("ExpiredToken", "The security token is expired"));
    }
    if sts::is_sts(signed) {
        let response = sts::answer(&shared, access_key(signed), &sns::parse(&body));
        shared.changed.notify_waiters();
        return response;
    }
    if s3::is_s3(signed) {
        let response = s3::answer(&shared, &method, &uri, &headers, &body);
        shared.changed.notify_waiters();
        return response;
    }
    let response = match target.and_then(|t| t.strip_prefix("AmazonSQS.")) {
        Some(action) => {
            let request = serde_json::from_slice(&body).unwrap_or_default();
            answer_sqs(&shared, action, &request).await
        }
        None => answer_sns(&shared, &sns::parse(&body)).await,
    };
    shared.changed.notify_waiters();
    response
}

/// Notes who sent a request; says whether his credentials are expired.
fn is_expired(shared: &Shared, authorization: &str, headers: &HeaderMap) -> bool {
    let mut state = shared.state();
    if let Some(agent) = headers.get("user-agent").and_then(|v| v.to_str().ok()) {
        state.user_agents.insert(agent.to_owned());
    }
    let key = access_key(authorization).to_owned();
    let now = Instant::now();
    let is_over = |session: &Session| session.access_key == key && session.ends <= now;
    let expired = state.expired_keys.contains(&key) || state.sessions.iter().any(is_over);
    state.refused_as_expired += u64::from(expired);
    if state.access_keys.last() != Some(&key) {
        state.access_keys.push(key);
    }
    expired
}

/// The access key that a request was signed with.
fn access_key(authorization: &str) -> &str {
    let key = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next());
    key.unwrap_or_default()
}

async fn answer_sns(shared: &Shared, fields: &sns::Fields) -> Response<Body> {
    let arn = fields.get("TopicArn").cloned().unwrap_or_default();
    let known = shared.state().targets.get(&arn).cloned();
    let Some(topic) = known else {
        shared.state().requests += 1;
        return Protocol::Sns.refuse(404, &refusal("NotFound", "Topic does not exist"));
    };
    let action = fields.get("Action").map(String::as_str);
    if let (Some("GetTopicAttributes"), Some(code)) = (action, topic.asked) {
        return Protocol::Sns.refuse(403, &refusal(code, "The role may not ask"));
    }
    match action {
        Some("GetTopicAttributes") => {
            // Returned only where it was set, as AWS does.
            let limit = Some(topic.limit).filter(|limit| *limit != 262_144);
            Protocol::Sns.respond(200, sns::topic_attributes(&arn, topic.fifo, limit))
        }
        Some("PublishBatch") => {
            let entries = sns::entries(fields);
            publish(shared, Protocol::Sns, &arn, &topic, &entries).await
        }
        _ => Protocol::Sns.refuse(400, &refusal("InvalidAction", "The action is not known here")),
    }
}

async fn answer_sqs(shared: &Shared, action: &str, request: &Value) -> Response<Body> {
    let name = sqs::queue(request);
    let known = shared.state().targets.get(&name).cloned();
    let Some(queue) = known else {
        shared.state().requests += 1;
        let mut response = Protocol::Sqs
            .refuse(400, &refusal("QueueDoesNotExist", "The specified queue does not exist."));
        let code = HeaderValue::from_static("AWS.SimpleQueueService.NonExistentQueue;Sender");
        response.headers_mut().insert("x-amzn-query-error", code);
        return response;
    };
    if let ("GetQueueUrl" | "GetQueueAttributes", Some(code)) = (action, queue.asked) {
        return Protocol::Sqs.refuse(403, &refusal(code, "The role may not ask"));
    }
    let ok = |value: Value| Protocol::Sqs.respond(200, value.to_string());
    match action {
        "GetQueueUrl" => ok(json!({ "QueueUrl": format!("http://localhost/000000000000/{name}") })),
        "GetQueueAttributes" => {
            ok(json!({ "Attributes": { "MaximumMessageSize": queue.limit.to_string() } }))
        }
        "SendMessageBatch" => {
            publish(shared, Protocol::Sqs, &name, &queue, &sqs::entries(request)).await
        }
        "ReceiveMessage" => {
            let most = request["MaxNumberOfMessages"]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(1);
            let wait = Duration::from_secs(request["WaitTimeSeconds"].as_u64().unwrap_or(0));
            ok(sqs::received(&receive(shared, &name, most.min(10), wait).await))
        }
        "DeleteMessageBatch" => {
            let mut done = Vec::new();
            for entry in request["Entries"].as_array().into_iter().flatten() {
                shared.state().delete(&name, entry["ReceiptHandle"].as_str().unwrap_or_default());
                done.push(json!({ "Id": entry["Id"] }));
            }
            ok(json!({ "Successful": done, "Failed": [] }))
        }
        _ => Protocol::Sqs.refuse(400, &refusal("InvalidAction", "The action is not known here")),
    }
}

async fn receive(shared: &Shared, queue: &str, most: usize, wait: Duration) -> Vec<Message> {
    let deadline = Instant::now() + wait;
    loop {
        let changed = shared.changed.notified();
        let taken = shared.state().receive(queue, most, Instant::now());
        let left = deadline.saturating_duration_since(Instant::now());
        if !taken.is_empty() || left.is_zero() {
            return taken;
        }
        let _ = tokio::time::timeout(left.min(Duration::from_millis(50)), changed).await;
    }
}
