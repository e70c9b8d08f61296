//! What the operator decides: one file, each key also an environment variable.
//!
//! Knows: the keys, their defaults, and how the two sources are merged. Must
//! not know: the process's environment, which is handed in.

use crate::pipeline::OnPoison;
use crate::publish::Address;
use crate::publish::schedule::Ordering;
use crate::table::TableRule;
use crate::value::Numeric;
use bytesize::ByteSize;
use envelope::Format;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

mod destination;
mod error;
mod keys;
mod table;

pub use destination::{Destination, Settings};
pub use error::ConfigError;
pub use keys::KEYS;
pub use table::Table;

use keys::{OTHER_VARIABLES, explain, nearest, set};

/// A text that no log may show.
#[derive(Clone, Default, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text; for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where changes are read.
    pub postgres: Postgres,
    /// Where events go, and how many at a time.
    pub publish: Publish,
    /// How the outbox table is kept.
    pub outbox: Outbox,
    /// Which aggregate types go elsewhere than `publish.to`.
    pub route: Vec<Route>,
    /// What holds for one destination and not for the others.
    pub destination: Vec<Destination>,
    /// How values of tables are written.
    pub values: Values,
    /// The tables whose changes are events, beside the outbox.
    pub table: Vec<Table>,
}

/// `[postgres]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Postgres {
    /// The connection string of the source database.
    pub url: Secret,
    /// The replication slot; it is also the lock between two relays.
    pub slot: String,
    /// The publication that names the outbox.
    pub publication: String,
    /// A file that holds the password and nothing else.
    pub password_file: Option<String>,
    /// What the login shows.
    pub login: Login,
    /// Whether standbys keep a copy of the slot, from PostgreSQL 17 on.
    pub failover: bool,
    /// How often a sign of life is written into the log; never where it is not set.
    #[serde(deserialize_with = "some_duration")]
    pub heartbeat: Option<Duration>,
}

/// What is shown to Postgres at the login.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// The password, wherever it comes from.
    #[default]
    Password,
    /// A token of AWS IAM, made for each connection.
    AwsIam,
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            slot: "relay".to_owned(),
            publication: "relay".to_owned(),
            password_file: None,
            login: Login::default(),
            failover: false,
            heartbeat: None,
        }
    }
}

/// `[publish]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    /// Where events go that no route sends elsewhere.
    pub to: Option<String>,
    /// The `source` of the events; the database's name where it is not set.
    pub source: Option<String>,
    /// What messages look like.
    pub format: Format,
    /// How many bytes of events may be on their way.
    pub bytes_in_flight: ByteSize,
    /// Which events wait for each other.
    pub ordering: Ordering,
    /// What is done with an event that its destination refuses for good.
    pub on_poison: OnPoison,
    /// How many requests one destination may have in flight at most; how many are of use is
    /// found out.
    pub requests_in_flight: u32,
    /// And at least, whatever is found out.
    pub requests_in_flight_at_least: u32,
    /// How long a shutdown waits for events that are on their way.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
}

impl Default for Publish {
    fn default() -> Self {
        Self {
            to: None,
            source: None,
            format: Format::default(),
            bytes_in_flight: ByteSize::mib(32),
            ordering: Ordering::default(),
            on_poison: OnPoison::default(),
            requests_in_flight: 512,
            requests_in_flight_at_least: 1,
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

/// `[outbox]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Outbox {
    /// For how many coming days there is a partition.
    pub partitions_ahead: u16,
    /// How long a partition is kept after its events were published.
    #[serde(deserialize_with = "duration")]
    pub keep: Duration,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { partitions_ahead: 7, keep: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// `[values]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Values {
    /// How a `numeric` is written in the events of tables.
    pub numeric: Numeric,
}

/// `[[route]]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The aggregate type whose events it takes.
    pub aggregate_type: String,
    /// Where they go.
    pub to: String,
}

fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(|_| {
        serde::de::Error::custom(format!(
            "expected a duration such as 10s or 7days, found {text:?}"
        ))
    })
}

fn some_duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

impl Config {
    /// Merges a file's text and the environment; a variable wins over the file.
    ///
    /// # Errors
    /// When a key or a `RELAY_` variable is unknown, or a value is of another type.
    pub fn from_sources(
        file: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let invalid = |message: String| ConfigError::Invalid { message };
        let mut table: toml::Table =
            file.parse().map_err(|e: toml::de::Error| invalid(e.to_string()))?;
        for (name, value) in environment {
            if let Some((key, ..)) = KEYS.iter().find(|(_, variable, _)| *variable == name) {
                set(&mut table, key, &value)
                    .map_err(|message| invalid(format!("{name}: {message}")))?;
            } else if name.starts_with("RELAY_") && !OTHER_VARIABLES.contains(&name.as_str()) {
                let nearest = nearest(&name, KEYS.iter().map(|(_, variable, _)| *variable));
                return Err(ConfigError::UnknownVariable { found: name, nearest });
            }
        }
        let config: Self =
            table.try_into().map_err(|e: toml::de::Error| invalid(explain(e.message())))?;
        config.check()
    }

    fn check(self) -> Result<Self, ConfigError> {
        if !(1..=4096).contains(&self.publish.requests_in_flight) {
            return Err(ConfigError::Range {
                key: "publish.requests_in_flight",
                expected: "1 to 4096",
                found: self.publish.requests_in_flight.to_string(),
            });
        }
        let most = self.publish.requests_in_flight;
        if !(1..=most).contains(&self.publish.requests_in_flight_at_least) {
            return Err(ConfigError::Range {
                key: "publish.requests_in_flight_at_least",
                expected: "1 to publish.requests_in_flight",
                found: self.publish.requests_in_flight_at_least.to_string(),
            });
        }
        let slot = &self.postgres.slot;
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !(1..=63).contains(&slot.len()) || !slot.bytes().all(legal) {
            return Err(ConfigError::Range {
                key: "postgres.slot",
                expected: "1 to 63 lower-case letters, digits and underscores",
                found: slot.clone(),
            });
        }
        for table in &self.table {
            table.rule()?;
        }
        Ok(self)
    }

    /// The tables whose changes are events.
    ///
    /// # Errors
    /// When a name cannot be one.
    pub fn tables(&self) -> Result<Vec<TableRule>, ConfigError> {
        self.table.iter().map(Table::rule).collect()
    }

    /// The connection string.
    ///
    /// # Errors
    /// When it is not set.
    pub fn database_url(&self) -> Result<&str, ConfigError> {
        match self.postgres.url.reveal() {
            "" => Err(ConfigError::Missing { key: "postgres.url", variable: "DATABASE_URL" }),
            url => Ok(url),
        }
    }

    /// The addresses that events go to, each once, and which aggregate types go to which.
    ///
    /// # Errors
    /// When there is none, one is not an address, or a section is of none of them.
    pub fn destinations(&self) -> Result<Destinations, ConfigError> {
        let mut addresses = Vec::new();
        let mut place = |key: String, text: &str| -> Result<usize, ConfigError> {
            let address: Address =
                text.parse().map_err(|source| ConfigError::Address { key, source })?;
            if let Some(at) = addresses.iter().position(|known| *known == address) {
                return Ok(at);
            }
            addresses.push(address);
            Ok(addresses.len() - 1)
        };
        let default = match &self.publish.to {
            Some(text) => Some(place("publish.to (RELAY_TOPIC_ARN)".to_owned(), text)?),
            None => None,
        };
        let mut by_type = BTreeMap::new();
        for route in &self.route {
            let key = format!("route of {:?}", route.aggregate_type);
            by_type.insert(route.aggregate_type.clone(), place(key, &route.to)?);
        }
        if addresses.is_empty() {
            return Err(ConfigError::Missing { key: "publish.to", variable: "RELAY_TOPIC_ARN" });
        }
        let settings = destination::settings(&self.publish, &self.destination, &addresses)?;
        Ok(Destinations { addresses, settings, default, by_type })
    }
}

/// Where events go.
#[derive(Clone, Debug)]
pub struct Destinations {
    /// The addresses; a place in this list names a destination.
    pub addresses: Vec<Address>,
    /// What holds for each address, in the same order.
    pub settings: Vec<Settings>,
    /// Where events go that no route sends elsewhere.
    pub default: Option<usize>,
    /// Where the events of an aggregate type go.
    pub by_type: BTreeMap<String, usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:orders.fifo";

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn two_variables_are_enough() {
        let config = Config::from_sources(
            "",
            env(&[("DATABASE_URL", "postgres://u@h/d"), ("RELAY_TOPIC_ARN", TOPIC), ("HOME", "/")]),
        )
        .unwrap();
        assert_eq!(config.database_url().unwrap(), "postgres://u@h/d");
        assert_eq!(config.destinations().unwrap().addresses[0].to_string(), TOPIC);
    }

    #[test]
    fn a_variable_wins_over_the_file() {
        let file =
            "[postgres]\nslot = 'a'\n[publish]\nshutdown_grace = '5s'\nbytes_in_flight = '1MiB'\n";
        let config = Config::from_sources(
            file,
            env(&[("RELAY_SLOT", "b"), ("RELAY_REQUESTS_IN_FLIGHT", "3")]),
        )
        .unwrap();
        assert_eq!(config.postgres.slot, "b");
        assert_eq!(config.publish.requests_in_flight, 3);
        assert_eq!(config.publish.shutdown_grace, Duration::from_secs(5));
        assert_eq!(config.publish.bytes_in_flight, ByteSize::mib(1));
    }

    #[test]
    fn what_is_unknown_is_refused_with_the_nearest() {
        let error =
            Config::from_sources("[postgres]\nslott = 'a'", env(&[])).unwrap_err().to_string();
        assert!(error.contains("`slott`") && error.contains("did you mean `slot`"), "{error}");
        let error = Config::from_sources("", env(&[("RELAY_SLOTT", "a")])).unwrap_err().to_string();
        assert!(error.contains("did you mean RELAY_SLOT?"), "{error}");
    }

    #[test]
    fn wrong_values_are_named() {
        for (name, value, said) in [
            ("RELAY_SLOT", "My-Slot", "lower-case"),
            ("RELAY_REQUESTS_IN_FLIGHT", "0", "1 to 4096"),
            ("RELAY_REQUESTS_IN_FLIGHT", "many", "expected a number"),
            ("RELAY_SHUTDOWN_GRACE", "soon", "a duration such as"),
            ("RELAY_ROUTES", "order", "TYPE=ADDRESS"),
            ("RELAY_FAILOVER", "yes", "true or false"),
        ] {
            let error = Config::from_sources("", env(&[(name, value)])).unwrap_err().to_string();
            assert!(error.contains(said), "{name}: {error}");
        }
    }

    #[test]
    fn routes_share_destinations() {
        let routes =
            format!("order={TOPIC}, customer=arn:aws:sqs:eu-west-1:123456789012:customers");
        let config =
            Config::from_sources("", env(&[("RELAY_TOPIC_ARN", TOPIC), ("RELAY_ROUTES", &routes)]))
                .unwrap();
        let destinations = config.destinations().unwrap();
        assert_eq!(destinations.addresses.len(), 2);
        assert_eq!(destinations.by_type["order"], 0);
    }

    #[test]
    fn no_secret_is_shown() {
        let config =
            Config::from_sources("", env(&[("DATABASE_URL", "postgres://u:hunter2@h/d")])).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
