//! A recording SNS and SQS server that is as strict as AWS and misbehaves on request.
//!
//! Knows: the two wire formats, AWS's rules and codes, what was accepted and in
//! which order. It watches a promise by itself: never two entries of one key in
//! flight to one destination.

mod fault;
mod publish;
pub mod rules;
mod s3;
mod server;
mod sns;
mod sqs;
mod state;
mod sts;

pub use fault::Fault;
pub use state::{Accepted, State, Target};
pub use sts::Session;

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
        std::thread::spawn(move || server::serve(listener, serving, stopped));
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
        let target =
            Target { fifo: name.ends_with(".fifo"), limit, deduplicates: true, asked: None };
        self.shared.state().targets.insert(key.to_owned(), target);
    }

    /// Makes a bucket of S3.
    pub fn bucket(&self, name: &str) {
        self.shared.state().buckets.insert(name.to_owned(), HashMap::new());
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
