//! A recording SNS and SQS server that is as strict as AWS and misbehaves on request.
//!
//! Knows: the two wire formats, AWS's rules and codes, what was accepted and in
//! which order. It watches a promise by itself: never two entries of one key in
//! flight to one destination.

mod fault;
pub mod rules;
mod sns;
mod sqs;
mod state;

pub use fault::Fault;
pub use state::{Accepted, State, Target};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode};
use rules::{Entry, Refusal};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

const ACCOUNT: &str = "arn:aws:sns:us-east-1:000000000000:";

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Faults {
    scripted: VecDeque<Fault>,
    /// What the requests meet that no scripted fault is left for.
    drawn: Option<fault::Draw>,
}

/// A running broker; dropped, it is gone.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    endpoint: String,
    /// Dropped, it ends the server.
    _stop: oneshot::Sender<()>,
}

impl Broker {
    /// Starts a broker on a free port of 127.0.0.1.
    #[must_use]
    ///
    /// # Panics
    /// When no port can be bound.
    #[expect(clippy::expect_used, reason = "a test without a broker cannot go on")]
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        shared.state().visibility = Duration::from_secs(30);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
        let address = listener.local_addr().expect("read the port");
        let (stop, stopped) = oneshot::channel();
        // A thread of its own: a test that waits for a command blocks its own runtime.
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || serve(listener, serving, stopped));
        Self { shared, endpoint: format!("http://{address}"), _stop: stop }
    }

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a topic; a name that ends in `.fifo` makes a FIFO topic. Returns its ARN.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        let arn = format!("{ACCOUNT}{name}");
        self.target(&arn, name, 262_144);
        arn
    }

    /// Makes a queue; a name that ends in `.fifo` makes a FIFO queue. Returns its URL.
    #[must_use]
    pub fn queue(&self, name: &str) -> String {
        self.target(name, name, 1_048_576);
        format!("{}/000000000000/{name}", self.endpoint)
    }

    fn target(&self, key: &str, name: &str, limit: usize) {
        let target = Target { fifo: name.ends_with(".fifo"), limit, deduplicates: true };
        self.shared.state().targets.insert(key.to_owned(), target);
    }

    /// Changes a topic (by ARN) or a queue (by name).
    pub fn change(&self, key: &str, change: impl FnOnce(&mut Target)) {
        if let Some(target) = self.shared.state().targets.get_mut(key) {
            change(target);
        }
    }

    /// Delivers a topic's messages to a queue, raw.
    ///
    /// # Panics
    /// When a standard topic is to feed a FIFO queue, which AWS refuses.
    pub fn subscribe(&self, topic: &str, queue: &str) {
        assert!(
            topic.ends_with(".fifo") || !queue.ends_with(".fifo"),
            "a standard topic cannot feed a FIFO queue"
        );
        self.shared.state().subscriptions.push((topic.to_owned(), queue.to_owned()));
    }

    /// The next requests to publish meet these faults, one each.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.faults().scripted.extend(faults);
    }

    /// From now on `percent` of the requests to publish meet a random transient fault.
    pub fn misbehave(&self, seed: u64, percent: u8) {
        let mut rng = fastrand::Rng::with_seed(seed);
        self.draw(move |_| (rng.u8(0..100) < percent).then(|| fault::transient(&mut rng)));
    }

    /// From now on this decides what a request to publish meets, by its topic's ARN or its
    /// queue's name; a scripted fault goes first.
    pub fn draw(&self, next: impl FnMut(&str) -> Option<Fault> + Send + 'static) {
        self.shared.faults().drawn = Some(fault::Draw(Box::new(next)));
    }

    /// No more faults, but for requests that hang already.
    pub fn calm(&self) {
        *self.shared.faults() = Faults::default();
    }

    /// Takes note that the client is gone with all that it had in flight.
    pub fn client_is_gone(&self) {
        self.shared.state().forget_in_flight();
    }

    /// The state, to look at; do not hold it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn summary(&self) -> String {
        let state = self.state();
        format!("requests {}, accepted {}", state.requests, state.accepted.len())
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub async fn wait(&self, what: &str, limit: Duration, condition: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + limit;
        loop {
            let changed = self.shared.changed.notified();
            if condition(&self.state()) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "expected {what} within {limit:?}; {}", self.summary());
            let _ = tokio::time::timeout(left.min(Duration::from_millis(100)), changed).await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self, target: &str) -> Option<Fault> {
        let mut faults = self.faults();
        if let Some(fault) = faults.scripted.pop_front() {
            return Some(fault);
        }
        let fault::Draw(next) = faults.drawn.as_mut()?;
        next(target)
    }
}

#[expect(clippy::expect_used, reason = "a test without a broker cannot go on")]
fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(async move {
        listener.set_nonblocking(true).expect("make the port asynchronous");
        let listener = tokio::net::TcpListener::from_std(listener).expect("take over the port");
        let app = axum::Router::new()
            .fallback(move |headers: HeaderMap, body: Bytes| {
                answer(Arc::clone(&shared), headers, body)
            })
            .layer(axum::extract::DefaultBodyLimit::max(8 << 20));
        tokio::select! {
            _ = axum::serve(listener, app) => {}
            _ = stopped => {}
        }
    });
}

/// Which of the two protocols a request speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Sns,
    Sqs,
}

impl Protocol {
    fn respond(self, status: u16, body: String) -> Response<Body> {
        let kind = match self {
            Self::Sns => "text/xml",
            Self::Sqs => "application/x-amz-json-1.0",
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", axum::http::HeaderValue::from_static(kind));
        response
    }

    fn refuse(self, status: u16, refusal: &Refusal) -> Response<Body> {
        match self {
            Self::Sns => self.respond(status, sns::error(refusal)),
            Self::Sqs => {
                let body = json!({ "__type": format!("com.amazonaws.sqs#{}", refusal.code), "message": refusal.message });
                self.respond(status, body.to_string())
            }
        }
    }
}

fn refusal(code: &'static str, message: &str) -> Refusal {
    Refusal { code, message: message.to_owned() }
}

async fn answer(shared: Arc<Shared>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    let protocol = if target.is_some() { Protocol::Sqs } else { Protocol::Sns };
    let signed = headers.get("authorization").and_then(|v| v.to_str().ok());
    if !signed.is_some_and(|v| v.starts_with("AWS4-HMAC-SHA256 ")) {
        return protocol.refuse(
            403,
            &refusal("MissingAuthenticationToken", "Request is missing Authentication Token"),
        );
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

async fn answer_sns(shared: &Shared, fields: &sns::Fields) -> Response<Body> {
    let arn = fields.get("TopicArn").cloned().unwrap_or_default();
    let known = shared.state().targets.get(&arn).cloned();
    let Some(topic) = known else {
        shared.state().requests += 1;
        return Protocol::Sns.refuse(404, &refusal("NotFound", "Topic does not exist"));
    };
    match fields.get("Action").map(String::as_str) {
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
        let code =
            axum::http::HeaderValue::from_static("AWS.SimpleQueueService.NonExistentQueue;Sender");
        response.headers_mut().insert("x-amzn-query-error", code);
        return response;
    };
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

async fn receive(shared: &Shared, queue: &str, most: usize, wait: Duration) -> Vec<state::Message> {
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

async fn publish(
    shared: &Shared,
    protocol: Protocol,
    key: &str,
    target: &Target,
    entries: &[Entry],
) -> Response<Body> {
    let request = shared.state().arrived(key, entries);
    let fault = shared.next_fault(key);
    let response = misbehave(shared, protocol, key, target, entries, request, fault).await;
    shared.state().answered(key, entries, request);
    response
}

async fn misbehave(
    shared: &Shared,
    protocol: Protocol,
    key: &str,
    target: &Target,
    entries: &[Entry],
    request: u64,
    fault: Option<Fault>,
) -> Response<Body> {
    let take_in =
        |order: Order, failed| take(shared, protocol, key, target, entries, order, failed);
    let take = |failed| take_in(Order::AsSent, failed);
    match fault {
        None => take(HashMap::new()),
        Some(Fault::Throttle) if protocol == Protocol::Sns => {
            protocol.refuse(429, &refusal("Throttled", "Rate exceeded"))
        }
        Some(Fault::Throttle) => {
            protocol.refuse(400, &refusal("RequestThrottled", "Rate exceeded"))
        }
        Some(Fault::ServerError) => {
            protocol.refuse(500, &refusal("InternalError", "We had a problem"))
        }
        Some(Fault::Hang(time)) => {
            // The client gives up before this is over, and may send again.
            shared.state().answered(key, entries, request);
            tokio::time::sleep(time).await;
            cut()
        }
        Some(Fault::CutBefore) => cut(),
        Some(Fault::CutAfter) => {
            drop(take(HashMap::new()));
            cut()
        }
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            take(HashMap::new())
        }
        Some(Fault::Refuse(code)) => {
            protocol.refuse(400, &refusal(code, "Refused as the test asked"))
        }
        Some(Fault::Forbid(code)) => {
            protocol.refuse(403, &refusal(code, "The security token is not valid, or not any more"))
        }
        Some(Fault::Shuffle) => take_in(Order::Reversed, HashMap::new()),
        Some(Fault::FailEntries { places, code, sender_fault }) => {
            let failed = places
                .into_iter()
                .map(|at| (at, (refusal(code, "Failed as the test asked"), sender_fault)));
            take(failed.collect())
        }
    }
}

/// The order in which an answer names the entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Order {
    AsSent,
    Reversed,
}

/// Takes a batch by AWS's rules.
fn take(
    shared: &Shared,
    protocol: Protocol,
    key: &str,
    target: &Target,
    entries: &[Entry],
    order: Order,
    mut failed: HashMap<usize, (Refusal, bool)>,
) -> Response<Body> {
    if let Err(refusal) = rules::batch(entries, target.limit) {
        return protocol.refuse(400, &refusal);
    }
    let sent_at = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    for (at, entry) in entries.iter().enumerate() {
        if let Err(refusal) = rules::entry(entry, target.fifo) {
            failed.insert(at, (refusal, true));
        }
        if !failed.contains_key(&at) {
            shared.state().accept(key, entry, Instant::now(), sent_at);
        }
    }
    let mut named: Vec<(usize, &Entry)> = entries.iter().enumerate().collect();
    if order == Order::Reversed {
        named.reverse();
    }
    match protocol {
        Protocol::Sns => protocol.respond(200, sns::published(&named, &failed)),
        Protocol::Sqs => protocol.respond(200, sqs::sent(&named, &failed).to_string()),
    }
}

/// An answer that breaks off: the connection is closed before it is whole.
fn cut() -> Response<Body> {
    let broken =
        futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    let mut response = Response::new(Body::from_stream(broken));
    response.headers_mut().insert("content-length", axum::http::HeaderValue::from_static("1000"));
    response
}
