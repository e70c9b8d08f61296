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
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

mod aws;
mod claim_check;
mod destination;
mod error;
mod keys;
mod kind;
mod merge;
mod table;

pub use aws::Aws;
pub use claim_check::ClaimCheck;
pub use destination::{Destination, Settings};
pub use error::{ConfigError, Origin};
pub use keys::{KEYS, Key};
pub use kind::Kind;
pub use table::Table;

use merge::Merged;

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
    /// What can be seen from outside.
    pub observe: Observe,
    /// Which aggregate types go elsewhere than `publish.to`.
    pub route: Vec<Route>,
    /// What holds for one destination and not for the others.
    pub destination: Vec<Destination>,
    /// Where bodies go that are too large for a message.
    pub claim_check: ClaimCheck,
    /// In whose name the broker is reached, and by which endpoints.
    pub aws: Aws,
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

/// `[observe]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Observe {
    /// Where metrics and health are served over HTTP; nowhere where it is not set.
    pub listen: Option<SocketAddr>,
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
    /// Merges a file's text and the environment; a variable wins over the file. Spaces around a
    /// value are not part of it, and an empty value counts as not set.
    ///
    /// # Errors
    /// When a key is unknown, a `RELAY_` variable resembles a known one, a value is none that its
    /// key may have, or something configured would have no effect.
    pub fn from_sources(
        file: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut merged = Merged::of_file(file)?;
        for (name, value) in environment {
            merged.variable(&name, &value)?;
        }
        merged.check()?;
        let table = toml::Value::Table(merged.table.clone());
        let config: Self = serde_path_to_error::deserialize(table).map_err(|error| {
            let path = error.path().to_string();
            ConfigError::Invalid {
                message: format!("{path}: {}", keys::explain(error.inner().message())),
            }
        })?;
        config.check(&merged)?;
        Ok(config)
    }

    /// The same from the environment as the system has it.
    ///
    /// # Errors
    /// Those of [`from_sources`](Self::from_sources), and a variable of ours that is no UTF-8.
    pub fn from_system(
        file: &str,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        Self::from_sources(file, merge::texts(environment)?)
    }

    /// What values mean together, and the entries of lists.
    fn check(&self, merged: &Merged) -> Result<(), ConfigError> {
        let publish = &self.publish;
        if publish.requests_in_flight_at_least > publish.requests_in_flight {
            return Err(merged.wrong(
                "publish.requests_in_flight_at_least",
                "at most publish.requests_in_flight (RELAY_REQUESTS_IN_FLIGHT)",
                format!(
                    "{} over {}",
                    publish.requests_in_flight_at_least, publish.requests_in_flight
                ),
            ));
        }
        if self.postgres.login == Login::AwsIam && self.postgres.password_file.is_some() {
            return Err(merged.wrong(
                "postgres.password_file",
                "left out with postgres.login = \"aws-iam\" (RELAY_LOGIN), which shows a token in place of a password",
                "a file that would not be read".to_owned(),
            ));
        }
        for (key, needed) in [
            ("aws.external_id", "aws.role_arn"),
            ("claim_check.prefix", "claim_check.bucket"),
            ("claim_check.above", "claim_check.bucket"),
            ("claim_check.largest", "claim_check.bucket"),
        ] {
            if merged.has(key) && !merged.has(needed) {
                let expected =
                    format!("set only with {needed} ({})", keys::of_name(needed).variable);
                return Err(merged.wrong(key, &expected, "a value without it".to_owned()));
            }
        }
        self.check_routes(merged)?;
        table::check(&self.table, merged.origin("table"))?;
        if self.publish.to.is_some() || !self.route.is_empty() {
            self.destinations()?;
        }
        Ok(())
    }

    fn check_routes(&self, merged: &Merged) -> Result<(), ConfigError> {
        let wrong = |expected: &str, found| Err(merged.wrong("route", expected, found));
        for (at, route) in self.route.iter().enumerate() {
            let number = at + 1;
            if route.aggregate_type.is_empty() {
                return wrong(
                    "of an aggregate type each",
                    format!("entry {number} with an empty one"),
                );
            }
            if Kind::Address.check(&toml::Value::from(route.to.as_str())).is_err() {
                let found = format!("{} in entry {number}", kind::shown(&route.to));
                return wrong(&format!("to {}", Kind::Address.expected()), found);
            }
            let same = |other: &Route| other.aggregate_type == route.aggregate_type;
            if let Some(first) = self.route[..at].iter().position(same) {
                return wrong(
                    "one for each aggregate type, because an event has one destination",
                    format!(
                        "entry {} (to {}) and entry {number} (to {}) for {}",
                        first + 1,
                        self.route[first].to,
                        route.to,
                        kind::shown(&route.aggregate_type)
                    ),
                );
            }
        }
        Ok(())
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
        let mut place = |name: &str, text: &str| -> Result<usize, ConfigError> {
            let key = keys::of_name(name);
            let address: Address = text.parse().map_err(|_| ConfigError::Value {
                key: key.name,
                variable: key.variable,
                expected: Kind::Address.expected(),
                found: kind::shown(text),
                origin: Origin::File,
            })?;
            if let Some(at) = addresses.iter().position(|known| *known == address) {
                return Ok(at);
            }
            addresses.push(address);
            Ok(addresses.len() - 1)
        };
        let default = match &self.publish.to {
            Some(text) => Some(place("publish.to", text)?),
            None => None,
        };
        let mut by_type = BTreeMap::new();
        for route in &self.route {
            by_type.insert(route.aggregate_type.clone(), place("route", &route.to)?);
        }
        if addresses.is_empty() {
            return Err(ConfigError::Missing { key: "publish.to", variable: "RELAY_TOPIC_ARN" });
        }
        let settings = destination::settings(self, &addresses)?;
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
mod tests;
