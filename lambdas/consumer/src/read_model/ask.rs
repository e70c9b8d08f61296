//! The connection that waits share, and what is said over it.
//!
//! Knows: the functions of `sql/read_model/V2__await.sql`. Must not know: who
//! waits, and when to ask.

use super::Target;
use crate::error::{self, Error};
use dsn::Dsn;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Notification, Row};
use uuid::Uuid;

/// A server that is silent for so long is taken for gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Beyond its end a wait stays announced for so long: clocks differ, and answers take time.
const MARGIN: Duration = Duration::from_secs(5);

const VERSIONS: &str =
    "select place from unnest($1::bigint[], $2::pg_catalog.text[], $3::pg_catalog.text[],
        $4::pg_catalog.text[], $5::bigint[], $6::pg_catalog.text[])
      as w (place, projection, aggregate_type, aggregate_id, version, tenant_id)
    where relay.version_reached(projection, tenant_id, aggregate_type, aggregate_id, version)";

const EVENTS: &str = "select place
    from unnest($1::bigint[], $2::pg_catalog.text[], $3::pg_catalog.uuid[])
      as w (place, projection, event_id)
    where relay.event_reached(projection, event_id)";

/// Announces, and says under which key each wait is announced.
///
/// Its commit need not outlive a crash. That is set for this transaction alone: behind a pooler the
/// session is another client's next.
const ANNOUNCE: &str = "with quick as (
      select pg_catalog.set_config('synchronous_commit', 'off', true)
    ), wanted as (
      select place, remaining, relay.await_key(projection, tenant_id, aggregate_type, aggregate_id) as key
      from unnest($2::bigint[], $3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[],
          $6::double precision[], $11::pg_catalog.text[])
        as w (place, projection, aggregate_type, aggregate_id, remaining, tenant_id)
      union all
      select place, remaining, relay.await_key(projection, event_id)
      from unnest($7::bigint[], $8::pg_catalog.text[], $9::pg_catalog.uuid[], $10::double precision[])
        as w (place, projection, event_id, remaining)
    ), announced as (
      insert into relay.awaited (key, waiter, expires_at)
      select key, $1, pg_catalog.clock_timestamp() operator(pg_catalog.+)
        (pg_catalog.max(remaining) operator(pg_catalog.*) interval '1 second')
      from wanted group by key
      on conflict (key, waiter) do update
        set expires_at = greatest(relay.awaited.expires_at, excluded.expires_at)
    )
    select place, key from wanted cross join quick";

/// Takes back what is no longer waited for, and what others have left behind.
const FORGET: &str = "with quick as (
      select pg_catalog.set_config('synchronous_commit', 'off', true)
    )
    delete from relay.awaited using quick
    where (waiter operator(pg_catalog.=) $1 and key operator(pg_catalog.=) any($2))
      or expires_at operator(pg_catalog.<)
        (pg_catalog.clock_timestamp() operator(pg_catalog.-) interval '1 minute')";

/// One connection to the read model.
#[derive(Debug)]
pub(super) struct Asking {
    client: Client,
    heard: UnboundedReceiver<Notification>,
    driver: JoinHandle<()>,
    /// Under which name the waits are announced.
    waiter: Uuid,
    /// Whether announcing is of use: not on a standby, nor for a role that may not.
    pub(super) announces: bool,
}

/// The waits of one question, in columns; a place is the index among all of them.
#[derive(Default)]
struct Columns<'a> {
    versions: Versions<'a>,
    events: Events<'a>,
}

#[derive(Default)]
struct Versions<'a> {
    places: Vec<i64>,
    projections: Vec<&'a str>,
    tenants: Vec<&'a str>,
    types: Vec<&'a str>,
    ids: Vec<&'a str>,
    versions: Vec<i64>,
    /// For how long each is announced, in seconds.
    remaining: Vec<f64>,
}

#[derive(Default)]
struct Events<'a> {
    places: Vec<i64>,
    projections: Vec<&'a str>,
    ids: Vec<Uuid>,
    remaining: Vec<f64>,
}

impl<'a> Columns<'a> {
    /// The targets with the time that is left for each.
    fn new(targets: &[(&'a Target, Duration)]) -> Self {
        let Self { mut versions, mut events } = Self::default();
        for (place, (target, remaining)) in (0_i64..).zip(targets) {
            let remaining = (*remaining + MARGIN).as_secs_f64();
            match target {
                Target::Version {
                    projection,
                    tenant_id,
                    aggregate_type,
                    aggregate_id,
                    version,
                } => {
                    versions.places.push(place);
                    versions.projections.push(projection);
                    versions.tenants.push(tenant_id);
                    versions.types.push(aggregate_type);
                    versions.ids.push(aggregate_id);
                    versions.versions.push(*version);
                    versions.remaining.push(remaining);
                }
                Target::Event { projection, event_id } => {
                    events.places.push(place);
                    events.projections.push(projection);
                    events.ids.push(*event_id);
                    events.remaining.push(remaining);
                }
            }
        }
        Self { versions, events }
    }
}

impl Asking {
    /// Connects. Behind a pooler (`pooled`) nothing is announced: what listens there is not ours.
    pub(super) async fn open(dsn: &Dsn, pooled: bool) -> Result<Self, Error> {
        let (client, heard, driver) = dsn.connect_to_listen("read_model").await?;
        let mut asking = Self { client, heard, driver, waiter: Uuid::new_v4(), announces: !pooled };
        // Called with empty arrays, to fail early if the functions are missing or may not be executed.
        asking.versions_reached(&Versions::default()).await?;
        asking.events_reached(&Events::default()).await?;
        if !pooled
            && let Err(error) = answered(asking.client.batch_execute("listen relay_progress")).await
        {
            asking.go_without(error)?;
        }
        Ok(asking)
    }

    /// The places of the targets that are reached.
    pub(super) async fn reached(
        &self,
        targets: &[(&Target, Duration)],
    ) -> Result<Vec<usize>, Error> {
        let Columns { versions, events } = Columns::new(targets);
        let mut rows = Vec::new();
        if !versions.places.is_empty() {
            rows.extend(self.versions_reached(&versions).await?);
        }
        if !events.places.is_empty() {
            rows.extend(self.events_reached(&events).await?);
        }
        Ok(rows.iter().filter_map(place).collect())
    }

    async fn versions_reached(&self, asked: &Versions<'_>) -> Result<Vec<Row>, Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
            (&asked.places, Type::INT8_ARRAY),
            (&asked.projections, Type::TEXT_ARRAY),
            (&asked.types, Type::TEXT_ARRAY),
            (&asked.ids, Type::TEXT_ARRAY),
            (&asked.versions, Type::INT8_ARRAY),
            (&asked.tenants, Type::TEXT_ARRAY),
        ];
        answered(self.client.query_typed(VERSIONS, &parameters)).await
    }

    async fn events_reached(&self, asked: &Events<'_>) -> Result<Vec<Row>, Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 3] = [
            (&asked.places, Type::INT8_ARRAY),
            (&asked.projections, Type::TEXT_ARRAY),
            (&asked.ids, Type::UUID_ARRAY),
        ];
        answered(self.client.query_typed(EVENTS, &parameters)).await
    }

    /// Has consumers notify what is waited for; the key of each place.
    pub(super) async fn announce(
        &mut self,
        targets: &[(&Target, Duration)],
    ) -> Result<Vec<(usize, i64)>, Error> {
        let Columns { versions, events } = Columns::new(targets);
        let parameters: [(&(dyn ToSql + Sync), Type); 11] = [
            (&self.waiter, Type::UUID),
            (&versions.places, Type::INT8_ARRAY),
            (&versions.projections, Type::TEXT_ARRAY),
            (&versions.types, Type::TEXT_ARRAY),
            (&versions.ids, Type::TEXT_ARRAY),
            (&versions.remaining, Type::FLOAT8_ARRAY),
            (&events.places, Type::INT8_ARRAY),
            (&events.projections, Type::TEXT_ARRAY),
            (&events.ids, Type::UUID_ARRAY),
            (&events.remaining, Type::FLOAT8_ARRAY),
            (&versions.tenants, Type::TEXT_ARRAY),
        ];
        match answered(self.client.query_typed(ANNOUNCE, &parameters)).await {
            Ok(rows) => Ok(rows
                .iter()
                .filter_map(|row| place(row).map(|place| (place, row.get(1))))
                .collect()),
            Err(error) => self.go_without(error).map(|()| Vec::new()),
        }
    }

    /// Takes the keys back.
    pub(super) async fn forget(&self, keys: &[i64]) -> Result<(), Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&self.waiter, Type::UUID), (&keys, Type::INT8_ARRAY)];
        answered(self.client.query_typed(FORGET, &parameters)).await.map(drop)
    }

    /// The next key that was notified; `None` when the connection is gone.
    pub(super) async fn hear(&mut self) -> Option<i64> {
        loop {
            // Others may notify the channel of what they like.
            if let Ok(key) = self.heard.recv().await?.payload().parse() {
                return Some(key);
            }
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.client.is_closed()
    }

    /// Goes on by asking alone where Postgres refuses to notify; other errors are passed on.
    fn go_without(&mut self, error: Error) -> Result<(), Error> {
        let refused = match &error {
            Error::NotInitialised(_) => true,
            Error::Lost(cause) => cause.as_db_error().is_some() && !error::is_lost(cause),
            _ => false,
        };
        if !refused {
            return Err(error);
        }
        self.announces = false;
        let error = error::chain(&error);
        tracing::info!(
            error,
            "waits are not woken, they ask again and again; to be woken they need a primary and insert, update and delete on relay.awaited"
        );
        Ok(())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn place(row: &Row) -> Option<usize> {
    usize::try_from(row.get::<_, i64>(0)).ok()
}

async fn answered<T>(
    question: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match timeout(ANSWER_LIMIT, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if error::is_missing(&error) => Err(Error::NotInitialised(error)),
        Ok(Err(error)) => Err(Error::of_any(error).unwrap_or_else(Error::Lost)),
        Err(_) => Err(Error::Silent { seconds: ANSWER_LIMIT.as_secs() }),
    }
}
