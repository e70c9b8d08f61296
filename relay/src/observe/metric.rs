//! The metrics: their names, what they mean, and the places where they are counted.
//!
//! Gauges are set once in each status interval, counters once for each request.

use crate::condition::Severity;
use crate::publish::schedule::{LaneState, Verdict};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

type Gauge<N = u64> = prometheus_client::metrics::gauge::Gauge<N, AtomicU64>;

/// Whether a metric only rises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It only rises, and starts at 0 with the process.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const STREAMING: &str = "relay_streaming";
const OPEN_TRANSACTIONS: &str = "relay_open_transactions";
const UNCONFIRMED_BYTES: &str = "relay_unconfirmed_bytes";
const CONFIRMED_TIME: &str = "relay_confirmed_time_seconds";
const HELD_BYTES: &str = "relay_held_bytes";
const BUDGET_BYTES: &str = "relay_budget_bytes";
const DEAD_LETTERS: &str = "relay_dead_letters_total";
const FORGED_MESSAGES: &str = "relay_forged_messages_total";
const PUBLISHED: &str = "relay_published_total";
const REQUESTS: &str = "relay_requests_total";
const IN_FLIGHT: &str = "relay_requests_in_flight";
const ALLOWED: &str = "relay_requests_allowed";
const UP: &str = "relay_destination_up";
const DESTINATION_EVENTS: &str = "relay_destination_held_events";
const DESTINATION_BYTES: &str = "relay_destination_held_bytes";

const CONDITIONS: &str = "relay_conditions";

const DESTINATION: &str = "destination";
const OUTCOME: &str = "outcome";

/// All of them: the reference table of the manual.
pub const METRICS: &[Metric] = &[
    gauge(STREAMING, &[], "1 while a session with Postgres streams, else 0"),
    gauge(UNCONFIRMED_BYTES, &[], "bytes of write-ahead log received and not yet confirmed"),
    gauge(OPEN_TRANSACTIONS, &[], "transactions with events on their way"),
    gauge(
        CONFIRMED_TIME,
        &[],
        "when the newest confirmed transaction was committed, in seconds since 1970; 0 before the first",
    ),
    gauge(HELD_BYTES, &[], "bytes of memory of the events on their way"),
    gauge(BUDGET_BYTES, &[], "publish.bytes_in_flight: at that many held bytes the reading stops"),
    counter(DEAD_LETTERS, &[], "events set aside in relay.dead_letter"),
    counter(
        FORGED_MESSAGES,
        &[],
        "messages under the relay's prefixes that relay.emit or relay.redrive did not sign; passed over",
    ),
    counter(PUBLISHED, &[DESTINATION], "events that the destination accepted"),
    counter(
        REQUESTS,
        &[DESTINATION, OUTCOME],
        "requests by outcome: answered, throttled, failed (or wrong: missing or closed to the relay)",
    ),
    gauge(IN_FLIGHT, &[DESTINATION], "requests in flight"),
    gauge(ALLOWED, &[DESTINATION], "requests that may be in flight, by latency and throttling"),
    gauge(UP, &[DESTINATION], "1 while it takes events, 0 while it is left alone or halted"),
    gauge(DESTINATION_EVENTS, &[DESTINATION], "events on their way to it"),
    gauge(DESTINATION_BYTES, &[DESTINATION], "bytes of memory of these"),
    gauge(
        CONDITIONS,
        &["kind", "severity"],
        "conditions as `relay status` prints them; severity from the worst: losing, blocked, at-risk, partial, notice",
    ),
];

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

/// How the relay as a whole stands.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Whether a session streams.
    pub streaming: bool,
    /// Transactions that have events on their way.
    pub open_transactions: usize,
    /// Bytes of log between what was received and what is confirmed.
    pub unconfirmed: u64,
    /// When the newest confirmed transaction was committed, in microseconds since 2000-01-01.
    pub confirmed_time: Option<i64>,
    /// Bytes of memory of the events on their way.
    pub held: usize,
    /// And how many there may be.
    pub budget: usize,
}

/// Where the pipeline counts.
#[derive(Debug)]
pub struct Meters {
    streaming: Gauge,
    open_transactions: Gauge,
    unconfirmed: Gauge,
    confirmed_time: Gauge<f64>,
    held: Gauge,
    budget: Gauge,
    dead_letters: Counter,
    forged: Counter,
    destinations: Vec<DestinationMeters>,
    conditions: Family<OfConditions, Gauge>,
}

#[derive(Debug)]
struct DestinationMeters {
    published: Counter,
    answered: Counter,
    throttled: Counter,
    failed: Counter,
    wrong: Counter,
    in_flight: Gauge,
    allowed: Gauge,
    up: Gauge,
    events: Gauge,
    bytes: Gauge,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OfDestination {
    destination: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OfRequests {
    destination: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OfConditions {
    kind: &'static str,
    severity: &'static str,
}

/// The metrics that have a value for each destination.
#[derive(Default)]
struct Families {
    published: Family<OfDestination, Counter>,
    requests: Family<OfRequests, Counter>,
    in_flight: Family<OfDestination, Gauge>,
    allowed: Family<OfDestination, Gauge>,
    up: Family<OfDestination, Gauge>,
    events: Family<OfDestination, Gauge>,
    bytes: Family<OfDestination, Gauge>,
}

impl Families {
    fn of(&self, name: &str) -> DestinationMeters {
        let destination = OfDestination { destination: name.to_owned() };
        let requests = |outcome| {
            let labels = OfRequests { destination: name.to_owned(), outcome };
            self.requests.get_or_create_owned(&labels)
        };
        DestinationMeters {
            published: self.published.get_or_create_owned(&destination),
            answered: requests("answered"),
            throttled: requests("throttled"),
            failed: requests("failed"),
            wrong: requests("wrong"),
            in_flight: self.in_flight.get_or_create_owned(&destination),
            allowed: self.allowed.get_or_create_owned(&destination),
            up: self.up.get_or_create_owned(&destination),
            events: self.events.get_or_create_owned(&destination),
            bytes: self.bytes.get_or_create_owned(&destination),
        }
    }
}

impl Meters {
    /// For destinations of these names, in the order of their ids; and the registry that they
    /// are read from.
    #[must_use]
    pub fn new<'a>(destinations: impl IntoIterator<Item = &'a str>) -> (Self, Registry) {
        let families = Families::default();
        let meters = Self {
            streaming: Gauge::default(),
            open_transactions: Gauge::default(),
            unconfirmed: Gauge::default(),
            confirmed_time: Gauge::default(),
            held: Gauge::default(),
            budget: Gauge::default(),
            dead_letters: Counter::default(),
            forged: Counter::default(),
            destinations: destinations.into_iter().map(|name| families.of(name)).collect(),
            conditions: Family::default(),
        };
        let registry = meters.register(&families);
        (meters, registry)
    }

    fn register(&self, families: &Families) -> Registry {
        let mut registry = Registry::default();
        for Metric { name, help, .. } in METRICS {
            // The registry appends this to the name of a counter by itself.
            let stem = name.trim_end_matches("_total");
            match *name {
                STREAMING => registry.register(stem, *help, self.streaming.clone()),
                OPEN_TRANSACTIONS => registry.register(stem, *help, self.open_transactions.clone()),
                UNCONFIRMED_BYTES => registry.register(stem, *help, self.unconfirmed.clone()),
                CONFIRMED_TIME => registry.register(stem, *help, self.confirmed_time.clone()),
                HELD_BYTES => registry.register(stem, *help, self.held.clone()),
                BUDGET_BYTES => registry.register(stem, *help, self.budget.clone()),
                DEAD_LETTERS => registry.register(stem, *help, self.dead_letters.clone()),
                FORGED_MESSAGES => registry.register(stem, *help, self.forged.clone()),
                PUBLISHED => registry.register(stem, *help, families.published.clone()),
                REQUESTS => registry.register(stem, *help, families.requests.clone()),
                IN_FLIGHT => registry.register(stem, *help, families.in_flight.clone()),
                ALLOWED => registry.register(stem, *help, families.allowed.clone()),
                UP => registry.register(stem, *help, families.up.clone()),
                DESTINATION_EVENTS => registry.register(stem, *help, families.events.clone()),
                DESTINATION_BYTES => registry.register(stem, *help, families.bytes.clone()),
                CONDITIONS => registry.register(stem, *help, self.conditions.clone()),
                _ => {}
            }
        }
        registry
    }

    /// An event was set aside.
    pub fn dead_letter(&self) {
        self.dead_letters.inc();
    }

    /// So many messages were passed over that nobody signed who may.
    pub fn forged(&self, count: u64) {
        self.forged.inc_by(count);
    }

    /// Sets the number of conditions of each kind; those that have passed have no line.
    pub fn conditions(&self, counts: &BTreeMap<(&'static str, Severity), u64>) {
        self.conditions.clear();
        for ((kind, severity), count) in counts {
            let labels = OfConditions { kind, severity: severity.as_str() };
            self.conditions.get_or_create(&labels).set(*count);
        }
    }

    /// A request came back.
    pub fn answered(&self, destination: usize, verdict: Verdict, accepted: usize) {
        let Some(meters) = self.destinations.get(destination) else { return };
        match verdict {
            Verdict::Answered => meters.answered.inc(),
            Verdict::NotAsked => 0,
            Verdict::Throttled => meters.throttled.inc(),
            Verdict::Failed { wrong: false } => meters.failed.inc(),
            Verdict::Failed { wrong: true } => meters.wrong.inc(),
        };
        meters.published.inc_by(accepted as u64);
    }

    /// Sets the gauges.
    #[expect(clippy::cast_precision_loss, reason = "microseconds, and a float has 53 bits")]
    pub fn set(&self, sample: Sample, destinations: impl Iterator<Item = LaneState>) {
        const POSTGRES_EPOCH: f64 = 946_684_800.0;
        self.streaming.set(sample.streaming.into());
        self.open_transactions.set(sample.open_transactions as u64);
        self.unconfirmed.set(sample.unconfirmed);
        if let Some(time) = sample.confirmed_time {
            self.confirmed_time.set(POSTGRES_EPOCH + time as f64 / 1e6);
        }
        self.held.set(sample.held as u64);
        self.budget.set(sample.budget as u64);
        for (meters, state) in self.destinations.iter().zip(destinations) {
            meters.in_flight.set(state.requests as u64);
            meters.allowed.set(state.allowed as u64);
            meters.up.set((!state.open && !state.halted).into());
            meters.events.set(state.held as u64);
            meters.bytes.set(state.weight as u64);
        }
    }
}
