//! For tests of projections: events in, rows out, on a real database, however they are delivered.
//!
//! ```no_run
//! # use consumer::{Event, Handler, HandlerError, Tx};
//! # struct Names;
//! # impl Handler for Names {
//! #     fn name(&self) -> &str { "names" }
//! #     async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
//! #         let sql = "insert into names values ($1, $2)";
//! #         tx.write(sql, &[&event.aggregate_id, &event.data::<String>()?]).await?;
//! #         Ok(())
//! #     }
//! # }
//! use consumer::testing::{Failure, ReadModel, event};
//! use serde_json::json;
//!
//! # async fn test() -> Result<(), Failure> {
//! let read_model = ReadModel::from_env("create table names (id text primary key, name text)")?;
//! read_model
//!     .given([event("customer.registered", "customer", "c-1", 1, json!("Ada"))])
//!     .deliver(|| Names)
//!     .then("select id, name from names order by id", &[&["c-1", "Ada"]])
//!     .await
//! # }
//! ```
//!
//! [`Deliveries::then`] tries each of these on a database of its own, made for it and dropped
//! behind it:
//! - clean delivery: one event after the other;
//! - every event twice, and then all of them once more;
//! - all as one batch, and in batches of any size;
//! - reordered as the queue may: anyhow, or on a FIFO queue ([`Given::fifo`]) within each aggregate
//!   as given. What waits for an earlier version is delivered again until it is done;
//! - with failures: a transaction rolled back, a statement refused, a connection killed in the
//!   middle of the work and between deliveries, the host gone before the commit, the host gone
//!   after it and before the queue knew;
//! - all of that at once;
//! - with events parked and replayed behind later ones of their aggregate, and, in the mode
//!   `Versioned`, with an event that has no version behind a later one
//!   ([`Given::without_late_events`] leaves both out).
//!
//! Hosts at work at the same time are not tried.

mod manner;

use crate::error::describe;
use crate::handler::{Handler, Mode};
use crate::record::{Malformed, Record};
use dsn::Dsn;
use envelope::{Position, ordering_key};
use manner::Run;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// The environment variable that repeats a delivery found to differ.
const SEED: &str = "RELAY_TEST_SEED";

/// When the first given event happened; each later one a second after the one before.
const FIRST: OffsetDateTime = time::macros::datetime!(2026-01-15 10:30:00 UTC);

const READ_MODEL: [&str; 8] = [
    include_str!("../../../sql/read_model/V1__inbox.sql"),
    include_str!("../../../sql/read_model/V2__await.sql"),
    include_str!("../../../sql/read_model/V3__effect.sql"),
    include_str!("../../../sql/read_model/V4__notify.sql"),
    include_str!("../../../sql/read_model/V5__progress.sql"),
    include_str!("../../../sql/read_model/V6__identity.sql"),
    include_str!("../../../sql/read_model/V7__upkeep.sql"),
    include_str!("../../../sql/read_model/V8__effect_not_before.sql"),
];

const SOURCE: [&str; 11] = [
    include_str!("../../../sql/source/V1__outbox.sql"),
    include_str!("../../../sql/source/V2__outbox_partitions.sql"),
    include_str!("../../../sql/source/V3__emit.sql"),
    include_str!("../../../sql/source/V4__dead_letter.sql"),
    include_str!("../../../sql/source/V5__destination.sql"),
    include_str!("../../../sql/source/V6__condition.sql"),
    include_str!("../../../sql/source/V7__bounds.sql"),
    include_str!("../../../sql/source/V8__signed_messages.sql"),
    include_str!("../../../sql/source/V9__history.sql"),
    include_str!("../../../sql/source/V10__condition_severities.sql"),
    include_str!("../../../sql/source/V11__upkeep.sql"),
];

/// One event that is given to a projection.
#[derive(Clone, Debug)]
pub struct GivenEvent(Map<String, Value>);

/// An event of this type that happened to this aggregate and made it this version.
#[must_use]
pub fn event(
    event_type: &str,
    aggregate_type: &str,
    aggregate_id: &str,
    version: i64,
    data: Value,
) -> GivenEvent {
    GivenEvent(Map::from_iter([
        ("event_type".to_owned(), json!(event_type)),
        ("aggregate_type".to_owned(), json!(aggregate_type)),
        ("aggregate_id".to_owned(), json!(aggregate_id)),
        ("aggregate_version".to_owned(), json!(version)),
        ("data".to_owned(), data),
    ]))
}

impl GivenEvent {
    /// The same with another field of the event in the relay format: `timestamp`, `event_version`,
    /// `event_id`, `correlation_id`, `metadata`, or `aggregate_version` as null. Otherwise each
    /// event has an id and a position by its place, and happened a second after the one before.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.0.insert(field.to_owned(), value);
        self
    }

    fn text(&self, field: &str) -> &str {
        self.0.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whose events keep an order: tenant, aggregate type and id.
    fn key(&self) -> String {
        let tenant = self.0.get("metadata").and_then(|metadata| metadata.get("tenant_id"));
        let tenant = tenant.and_then(Value::as_str);
        ordering_key(tenant, self.text("aggregate_type"), self.text("aggregate_id"))
    }

    /// The message that a queue would bring.
    fn record(&self, place: u32, fifo: bool) -> Result<Record, Failure> {
        let (Self(mut event), group) = (self.clone(), self.key());
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, &place.to_be_bytes());
        let timestamp = (FIRST + Duration::from_secs(place.into())).format(&Rfc3339);
        let by_place = [
            ("event_id", json!(id)),
            ("timestamp", json!(timestamp.unwrap_or_default())),
            (
                "position",
                json!(
                    Position { epoch: 1, commit_lsn: 0x16b_3748, ordinal: place.into() }
                        .to_string()
                ),
            ),
        ];
        for (field, value) in by_place {
            event.entry(field).or_insert(value);
        }
        let body = Value::Object(event).to_string();
        let attribute = |name: &str| (name == "MessageGroupId").then_some(group.as_str());
        let mut record = Record::new(Some(place.to_string()), Some(body), fifo, attribute);
        match record.content {
            crate::Content::Malformed(reason) => Err(Failure::NotAnEvent { place, reason }),
            _ => {
                record.sent_at = Some(FIRST);
                Ok(record)
            }
        }
    }
}

/// A server on which each delivery gets a database of its own.
#[derive(Clone, Debug)]
pub struct ReadModel {
    server: Dsn,
    sql: Vec<String>,
}

impl ReadModel {
    /// Takes a server and the SQL that makes the projection's tables.
    ///
    /// The role needs the right to create databases. The database that the string names is only
    /// connected to. Those made begin with `relay_test_`; one outlives its test only when the
    /// test's process is killed.
    #[must_use]
    pub fn new(server: &Dsn, sql: &str) -> Self {
        let sql = READ_MODEL.iter().copied().chain([sql]).map(str::to_owned).collect();
        Self { server: server.clone(), sql }
    }

    /// The same on the server of `READ_MODEL_URL`.
    ///
    /// # Errors
    /// When the variable is missing or no connection string.
    pub fn from_env(sql: &str) -> Result<Self, Failure> {
        let url = std::env::var("READ_MODEL_URL").map_err(|_| Failure::NoUrl)?;
        Ok(Self::new(&url.parse()?, sql))
    }

    /// The same with the outbox beside the read model, for handlers that emit events.
    #[must_use]
    pub fn with_outbox(mut self) -> Self {
        self.sql.splice(0..0, SOURCE.map(str::to_owned));
        self
    }

    /// The events, in the order in which they were committed.
    pub fn given(&self, events: impl IntoIterator<Item = GivenEvent>) -> Given {
        let events = events.into_iter().collect();
        let read_model = self.clone();
        Given { read_model, events, fifo: false, seed: None, rounds: 2, late: true }
    }
}

/// Events that have happened, in the order in which they were committed.
#[derive(Clone, Debug)]
pub struct Given {
    read_model: ReadModel,
    events: Vec<GivenEvent>,
    fifo: bool,
    seed: Option<u64>,
    rounds: u64,
    late: bool,
}

impl Given {
    /// Has the queue keep the order of each aggregate, as a FIFO queue does.
    #[must_use]
    pub fn fifo(self) -> Self {
        Self { fifo: true, ..self }
    }

    /// Repeats what was random; without it `RELAY_TEST_SEED` does, or each run has its own.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// Leaves out what comes behind later events of its aggregate although no queue reorders it: the
    /// replay of parked events, and events without a version. For rows that follow the order of the
    /// events, of a projection whose parked events are never replayed.
    #[must_use]
    pub fn without_late_events(self) -> Self {
        Self { late: false, ..self }
    }

    /// How often each random way of delivery is tried, 2 times without it.
    #[must_use]
    pub fn rounds(self, rounds: u64) -> Self {
        Self { rounds, ..self }
    }

    /// Delivers them to the handlers that this makes: one for each host.
    pub fn deliver<H: Handler, F: Fn() -> H>(self, handler: F) -> Deliveries<F> {
        Deliveries { given: self, handler }
    }
}

/// Events and the projection that they go to.
#[must_use = "nothing is delivered before `then`"]
pub struct Deliveries<F> {
    given: Given,
    handler: F,
}

impl<H: Handler, F: Fn() -> H> Deliveries<F> {
    /// Asks for these rows after each way of delivery, and compares them with the expected ones and
    /// with those of clean delivery. Values are as Postgres writes them as text, in UTC, and a null
    /// is `null`; let the query have an `order by`.
    ///
    /// # Errors
    /// When a delivery ends with other rows, or with an event that is never done: the message says
    /// which delivery, how it differs, what was delivered, and the seed that repeats it. When the
    /// server cannot be reached, or the SQL is refused.
    pub async fn then(self, query: &str, rows: &[&[&str]]) -> Result<(), Failure> {
        let Given { read_model, events, fifo, seed, rounds, late } = self.given;
        let records: Result<Vec<_>, _> =
            (1..).zip(&events).map(|(place, event)| event.record(place, fifo)).collect();
        let chosen = std::env::var(SEED).ok().map(|text| text.parse()).transpose();
        let chosen = chosen.map_err(|_| Failure::Seed)?;
        let seed = seed.or(chosen).unwrap_or_else(|| fastrand::u64(..));
        let handler = &self.handler;
        let mut run = Run { records: records?, fifo, seed, query, handler };
        let expected: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|value| (*value).to_owned()).collect()).collect();
        let replays = manner::replays(rounds).filter(|_| late);
        for (manner, round) in manner::all(rounds).into_iter().chain(replays) {
            run.seed = seed.wrapping_add(round);
            let tried = in_scratch(&read_model, async |database| {
                run.try_one(&manner, database, &expected).await
            });
            tried.await.map_err(|how| how.with_seed(seed))?;
        }
        let versioned = handler().mode() == Mode::Versioned;
        if let Some(orders) = unversioned(&events).filter(|_| late && versioned) {
            let mut ends = Vec::new();
            for order in orders {
                let records: Result<Vec<_>, _> =
                    order.iter().map(|(place, event)| event.record(*place, fifo)).collect();
                run.records = records?;
                ends.push(
                    in_scratch(&read_model, async |database| run.rows_after(database).await)
                        .await?,
                );
            }
            let [(in_place, refused), (behind, refused_behind)] = &ends[..] else { return Ok(()) };
            // A handler may refuse what comes without the event before it: that is no row gone back.
            if in_place != behind && refused_behind <= refused {
                let difference = manner::difference(in_place, behind);
                return Err(run.failure(format!(
                    "an event without a version behind a later one: {difference}\nthe rows of: {query}{}",
                    manner::LATE
                )));
            }
        }
        Ok(())
    }
}

/// The events with one of each aggregate without its version, those behind it counted from one less:
/// in its place, and behind all others; each with its place among those given. Nothing where no aggregate has two.
fn unversioned(events: &[GivenEvent]) -> Option<[Vec<(u32, GivenEvent)>; 2]> {
    let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        places.entry(event.key()).or_default().push(at);
    }
    let mut changed: Vec<(u32, GivenEvent)> = (1..).zip(events.iter().cloned()).collect();
    let mut late = Vec::new();
    for places in places.values() {
        let [.., last_but_one, last] = places[..] else { continue };
        let version = |at: usize| events[at].0.get("aggregate_version").and_then(Value::as_i64);
        let (Some(before), Some(after)) = (version(last_but_one), version(last)) else { continue };
        // What is first of its aggregate makes the row.
        if places.len() < 3 || after != before + 1 {
            continue;
        }
        for (at, version) in [(last_but_one, Value::Null), (last, json!(before))] {
            changed[at].1 = changed[at].1.clone().with("aggregate_version", version);
        }
        late.push(last_but_one);
    }
    let is_late = |(place, _): &(u32, GivenEvent)| late.iter().any(|at| *at + 1 == *place as usize);
    let (behind, mut reordered): (Vec<_>, Vec<_>) = changed.iter().cloned().partition(is_late);
    reordered.extend(behind);
    (!late.is_empty()).then_some([changed, reordered])
}

/// Does it with a database of its own, dropped behind it.
async fn in_scratch<T>(
    read_model: &ReadModel,
    work: impl AsyncFnOnce(&Scratch) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let database = Scratch::create(read_model).await?;
    // A handler that panics leaves no database behind either.
    let tried =
        futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(work(&database)));
    let tried = Box::pin(tried).await;
    let dropped = database.drop().await;
    match tried {
        Ok(tried) => dropped.and(tried),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A database for one delivery.
struct Scratch {
    server: Dsn,
    name: String,
}

impl Scratch {
    async fn create(read_model: &ReadModel) -> Result<Self, Failure> {
        let name = format!("relay_test_{}", Uuid::new_v4().simple());
        let database = Self { server: read_model.server.clone(), name };
        database.on_the_server(&format!("create database {}", database.name)).await?;
        for (at, sql) in read_model.sql.iter().enumerate() {
            let what = if at + 1 == read_model.sql.len() { "the projection's" } else { "relay's" };
            let result = execute(&database.dsn(), sql, what).await;
            if result.is_err() {
                database.drop().await?;
                return result.map(|()| database);
            }
        }
        Ok(database)
    }

    fn dsn(&self) -> Dsn {
        self.server.clone().with_database(&self.name)
    }

    async fn drop(&self) -> Result<(), Failure> {
        self.on_the_server(&format!("drop database {} with (force)", self.name)).await
    }

    async fn on_the_server(&self, sql: &str) -> Result<(), Failure> {
        execute(&self.server, sql, "the test's").await
    }
}

async fn execute(dsn: &Dsn, sql: &str, whose: &'static str) -> Result<(), Failure> {
    let (client, driver) = dsn.connect("relay test").await?;
    let result = client.batch_execute(sql).await;
    drop(client);
    driver.await.ok();
    result.map_err(|source| Failure::Sql { whose, source })
}

/// Why a test of a projection fails. `Debug` says the same as `Display`, for tests that return it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// `READ_MODEL_URL` is not set.
    #[error("expected READ_MODEL_URL, the connection string of a Postgres server; found nothing")]
    NoUrl,
    /// The server cannot be reached.
    #[error("the server of the test cannot be reached: {0}")]
    Connect(#[from] dsn::Error),
    /// The server refused something.
    #[error("{whose} SQL was refused: {}", refused(source))]
    Sql {
        /// Author of the SQL, for the message: `relay's`, `the projection's`, `the test's`.
        whose: &'static str,
        /// Refusal of Postgres.
        source: tokio_postgres::Error,
    },
    /// `RELAY_TEST_SEED` is no number.
    #[error("expected {SEED} to be a number from 0 to 18446744073709551615")]
    Seed,
    /// What was given is no event.
    #[error("expected given event {place} to be one; {reason}")]
    NotAnEvent {
        /// Place among those given, from 1.
        place: u32,
        /// What is wrong with it, as a consumer would say.
        reason: Malformed,
    },
    /// A delivery ended otherwise than expected.
    #[error("{projection}: {found}\nthe same deliveries again: {SEED}={seed}")]
    Delivery {
        /// Name of the projection.
        projection: String,
        /// The delivery, how its rows differ, what was delivered and parked.
        found: String,
        /// Number for `RELAY_TEST_SEED` that repeats the same deliveries.
        seed: u64,
    },
}

fn refused(error: &tokio_postgres::Error) -> String {
    let message = error.as_db_error().map(tokio_postgres::error::DbError::message);
    format!("{} ({})", message.unwrap_or_default(), describe(error))
}

impl Failure {
    fn with_seed(self, seed: u64) -> Self {
        match self {
            Self::Delivery { projection, found, .. } => Self::Delivery { projection, found, seed },
            other => other,
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<F> fmt::Debug for Deliveries<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").field("given", &self.given).finish_non_exhaustive()
    }
}
