//! Topics, queues, and the record of what was accepted. Pure but for the `now` it is handed.

use super::rules::Entry;
use super::sts::Session;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// FIFO deduplication lasts five minutes.
const DEDUPLICATION: Duration = Duration::from_secs(300);

/// One accepted message, in the order of acceptance.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accepted {
    /// The topic's ARN or the queue's name.
    pub target: String,
    /// The request it came in.
    pub request: u64,
    /// The message.
    pub entry: Entry,
    /// Whether it was delivered: false for a repeat within the deduplication's time.
    pub delivered: bool,
}

/// What a topic or a queue is.
#[derive(Clone, Debug)]
pub struct Target {
    /// Whether it keeps the order of groups.
    pub fifo: bool,
    /// The limit of a message and of a batch, in bytes.
    pub limit: usize,
    /// Whether repeats are recognised; off, to see what a consumer does with them.
    pub deduplicates: bool,
    /// Refuses to tell of itself, with this code; what is sent it takes.
    pub asked: Option<&'static str>,
}

/// A message in a queue.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) receipt: String,
    pub(super) entry: Entry,
    pub(super) sent_at: i128,
    pub(super) receive_count: u32,
    hidden_until: Option<Instant>,
}

/// Everything the broker knows.
#[derive(Debug, Default)]
pub struct State {
    pub(super) targets: HashMap<String, Target>,
    /// Topic ARN to queue names.
    pub(super) subscriptions: Vec<(String, String)>,
    queues: HashMap<String, Vec<Message>>,
    deduplication: HashMap<(String, String), Instant>,
    /// Everything accepted, in order.
    pub accepted: Vec<Accepted>,
    /// Promises that a client broke.
    pub violations: Vec<String>,
    /// Requests to publish, whatever became of them.
    pub requests: u64,
    /// The objects of each bucket of S3, by key.
    pub buckets: HashMap<String, HashMap<String, Vec<u8>>>,
    /// Requests to put an object, whatever became of them.
    pub puts: u64,
    /// The next requests of S3 are refused with these statuses and codes, one each.
    pub object_faults: VecDeque<(u16, &'static str)>,
    /// Access keys whose requests are refused as expired.
    pub expired_keys: HashSet<String>,
    /// How many requests were refused so.
    pub refused_as_expired: u64,
    /// The roles that were taken on, in order.
    pub sessions: Vec<Session>,
    /// How long a session of a role lasts; an hour where it is not set.
    pub session: Option<Duration>,
    /// The access keys that requests were signed with, each time another.
    pub access_keys: Vec<String>,
    /// The `user-agent` of each request, each once.
    pub user_agents: HashSet<String>,
    /// By target and key, the request that holds the key.
    in_flight: HashMap<(String, String), u64>,
    pub(super) visibility: Duration,
}

impl State {
    /// Whether a queue holds nothing, visible or not.
    #[must_use]
    pub fn is_drained(&self, queue: &str) -> bool {
        self.queues.get(queue).is_none_or(Vec::is_empty)
    }

    /// The key of an entry: its group, or the aggregate of its body.
    fn key(entry: &Entry) -> String {
        let of_body = || {
            serde_json::from_str::<serde_json::Value>(&entry.body).ok()?["aggregate_id"]
                .as_str()
                .map(str::to_owned)
        };
        entry.group.clone().or_else(of_body).unwrap_or_default()
    }

    /// Notes that entries arrived; two of one key at once break a promise.
    ///
    /// Returns the request's number.
    pub(super) fn arrived(&mut self, target: &str, entries: &[Entry]) -> u64 {
        self.requests += 1;
        for entry in entries {
            let key = (target.to_owned(), Self::key(entry));
            if self.in_flight.insert(key.clone(), self.requests).is_some() {
                self.violations
                    .push(format!("two entries of the key {} in flight to {target}", key.1));
            }
        }
        self.requests
    }

    /// Notes that they were answered, or that the client will not wait for it.
    pub(super) fn answered(&mut self, target: &str, entries: &[Entry], request: u64) {
        for entry in entries {
            let key = (target.to_owned(), Self::key(entry));
            // Another request can hold it by now, when a client went away in between.
            if self.in_flight.get(&key) == Some(&request) {
                self.in_flight.remove(&key);
            }
        }
    }

    /// Notes that a client went away with all that it had in flight.
    pub(super) fn forget_in_flight(&mut self) {
        self.in_flight.clear();
    }

    /// Accepts one entry: records it, and delivers it unless it is a repeat.
    pub(super) fn accept(&mut self, target: &str, entry: &Entry, now: Instant, sent_at: i128) {
        let deduplicates = self.targets.get(target).is_some_and(|t| t.fifo && t.deduplicates);
        let repeat = match entry.deduplication.as_ref().filter(|_| deduplicates) {
            None => false,
            Some(id) => {
                let last = self.deduplication.entry((target.to_owned(), id.clone()));
                let mut repeat = true;
                last.or_insert_with(|| {
                    repeat = false;
                    now
                });
                repeat
            }
        };
        self.deduplication.retain(|_, at| now.duration_since(*at) < DEDUPLICATION);
        let request = self.requests;
        self.accepted.push(Accepted {
            target: target.to_owned(),
            request,
            entry: entry.clone(),
            delivered: !repeat,
        });
        if repeat {
            return;
        }
        let mut queues: Vec<String> = self
            .subscriptions
            .iter()
            .filter(|(topic, _)| topic == target)
            .map(|(_, q)| q.clone())
            .collect();
        if !target.starts_with("arn:aws:sns:") {
            queues.push(target.to_owned());
        }
        for queue in queues {
            let message = Message {
                id: Uuid::new_v4().to_string(),
                receipt: String::new(),
                entry: entry.clone(),
                sent_at,
                receive_count: 0,
                hidden_until: None,
            };
            self.queues.entry(queue).or_default().push(message);
        }
    }

    /// Hands out up to `most` messages; of a FIFO queue's group none while one is out.
    pub(super) fn receive(&mut self, queue: &str, most: usize, now: Instant) -> Vec<Message> {
        let fifo = self.targets.get(queue).is_some_and(|t| t.fifo);
        let visibility = self.visibility;
        let Some(messages) = self.queues.get_mut(queue) else {
            return Vec::new();
        };
        let is_out = |m: &Message| m.hidden_until.is_some_and(|until| until > now);
        let blocked: HashSet<String> =
            messages.iter().filter(|m| is_out(m)).filter_map(|m| m.entry.group.clone()).collect();
        let mut taken = Vec::new();
        for message in messages.iter_mut() {
            let held = fifo && message.entry.group.as_ref().is_some_and(|g| blocked.contains(g));
            if taken.len() == most || is_out(message) || held {
                continue;
            }
            message.receipt = Uuid::new_v4().to_string();
            message.receive_count += 1;
            message.hidden_until = Some(now + visibility);
            taken.push(message.clone());
        }
        taken
    }

    pub(super) fn delete(&mut self, queue: &str, receipt: &str) -> bool {
        let Some(messages) = self.queues.get_mut(queue) else {
            return false;
        };
        let before = messages.len();
        messages.retain(|m| m.receipt != receipt);
        messages.len() < before
    }
}
