//! The figures of each delivery: a line of CloudWatch's Embedded Metric Format.
//!
//! Knows: that format (a JSON object a line, from which CloudWatch Logs makes metrics, without a
//! call of its API). Must not know: where lines go, how the figures come about.
//! Source: "Specification: Embedded metric format" in Amazon CloudWatch's user guide.

use crate::batch::{Outcome, Report};
use serde_json::{Map, Value, json};
use std::fmt;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// The namespace of all metrics.
const NAMESPACE: &str = "Relay";

/// The one dimension: CloudWatch bills each combination of values as a metric.
const DIMENSION: &str = "projection";

/// Each outcome with the metric that counts it; a probe counts nowhere.
const COUNTS: [(Outcome, &str); 7] = [
    (Outcome::Applied, "applied"),
    (Outcome::Duplicate, "duplicate"),
    (Outcome::Gap, "gap"),
    (Outcome::Stale, "stale"),
    (Outcome::Parked, "parked"),
    (Outcome::Failed, "failed"),
    (Outcome::HeldBack, "held_back"),
];

/// Where the lines go.
pub(crate) struct Metrics {
    /// Never locked: it makes the consumer one that threads can share.
    writer: Mutex<Box<dyn Write + Send>>,
    /// Nothing was delivered yet.
    cold: bool,
}

impl Metrics {
    pub(crate) fn new(writer: impl Write + Send + 'static) -> Self {
        Self { writer: Mutex::new(Box::new(writer)), cold: true }
    }

    /// Writes the line of a delivery that took so long.
    pub(crate) fn write(&mut self, projection: &str, report: &Report, took: Duration) {
        let now = SystemTime::now();
        let mut line = line(projection, report, took, self.cold, now).to_string();
        self.cold = false;
        line.push('\n');
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        let written = writer.write_all(line.as_bytes()).and_then(|()| writer.flush());
        if let Err(error) = written {
            tracing::debug!(%error, "the figures of a delivery could not be written");
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("cold", &self.cold).finish_non_exhaustive()
    }
}

/// The line itself. PURE.
fn line(projection: &str, report: &Report, took: Duration, cold: bool, now: SystemTime) -> Value {
    let mut metrics: Vec<Value> = Vec::new();
    let mut values = Map::new();
    let mut add = |name: &str, unit: &str, value: Value| {
        metrics.push(json!({ "Name": name, "Unit": unit }));
        values.insert(name.to_owned(), value);
    };
    for (outcome, name) in COUNTS {
        add(name, "Count", report.count(outcome).into());
    }
    add("version_restarted", "Count", report.restarted.into());
    add("batch_duration", "Milliseconds", milliseconds(took).into());
    if let Some(oldest) = report.oldest {
        let lag = OffsetDateTime::from(now) - oldest;
        // The writer's clock may be ahead of ours.
        add("lag", "Milliseconds", milliseconds(lag.try_into().unwrap_or_default()).into());
    }
    if cold {
        add("cold_start", "Count", 1.into());
    }
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let directive = json!({
        "Namespace": NAMESPACE, "Dimensions": [[DIMENSION]], "Metrics": metrics,
    });
    let about = json!({
        "Timestamp": milliseconds(since_1970), "CloudWatchMetrics": [directive],
    });
    values.insert("_aws".to_owned(), about);
    values.insert(DIMENSION.to_owned(), projection.into());
    Value::Object(values)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn report(oldest: Option<OffsetDateTime>) -> Report {
        let outcomes = [Outcome::Applied, Outcome::Applied, Outcome::Parked, Outcome::Skipped];
        Report { outcomes: outcomes.map(|o| (None, o)).into(), oldest, ..Report::default() }
    }

    #[test]
    fn a_line_declares_each_figure_that_it_carries_under_one_dimension() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_768_473_000_500);
        let oldest = OffsetDateTime::from(now) - Duration::from_millis(1_250);
        let line = line("orders", &report(Some(oldest)), Duration::from_millis(7), true, now);
        assert_eq!(line["_aws"]["Timestamp"], 1_768_473_000_500_u64);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Namespace"], "Relay");
        assert_eq!(directive["Dimensions"], json!([["projection"]]));
        assert_eq!(line["projection"], "orders");
        let declared: HashSet<&str> = directive["Metrics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|metric| metric["Name"].as_str().unwrap())
            .collect();
        let carried: HashSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        let others = HashSet::from(["_aws", "projection"]);
        assert_eq!(carried.difference(&others).copied().collect::<HashSet<_>>(), declared);
        for (name, value) in [
            ("applied", 2),
            ("parked", 1),
            ("failed", 0),
            ("lag", 1_250),
            ("batch_duration", 7),
            ("cold_start", 1),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
    }

    #[test]
    fn a_clock_that_is_ahead_is_no_lag_and_only_the_first_delivery_is_cold() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let ahead = OffsetDateTime::from(now) + Duration::from_secs(5);
        let line = line("orders", &report(Some(ahead)), Duration::ZERO, false, now);
        assert_eq!(line["lag"], 0);
        assert_eq!(line.get("cold_start"), None);
        let without = super::line("orders", &report(None), Duration::ZERO, false, now);
        assert_eq!(without.get("lag"), None);
    }
}
