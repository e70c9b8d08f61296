//! The reading end of the pipeline: connected, connecting, or waiting to try again.

use crate::catalog::{self, CatalogError};
use crate::history;
use crate::secret::Secrets;
use crate::slot::{Passing, Preconditions, Problem, SlotState};
use crate::table::{PrimaryKeys, TableRule};
use crate::wire::{Identity, Session, WireError};
use dsn::Dsn;
use pgoutput::Lsn;
use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// What a session is opened with.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) dsn: Dsn,
    pub(crate) name: String,
    pub(crate) publication: String,
    /// The tables whose primary keys are asked for.
    pub(crate) tables: Vec<TableRule>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The server cannot be asked.
    #[error("cannot ask Postgres about its settings")]
    Ask(#[source] dsn::Error),
    /// Something that a session needs is not there.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The catalogue cannot be read.
    #[error("cannot read the catalogue of Postgres")]
    Catalog(#[from] CatalogError),
    /// The session cannot be had, or is lost.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl SourceError {
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Ask(error) => error.is_transient(),
            Self::Problem(problem) => problem.passing == Passing::ByItself,
            Self::Catalog(_) => true,
            Self::Wire(error) => error.is_transient(),
        }
    }
}

/// A fresh session.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) session: Session,
    pub(crate) identity: Identity,
    /// How often the server wants to hear from us, with room for a slow one.
    pub(crate) status_interval: Duration,
    pub(crate) primary_keys: PrimaryKeys,
    /// The history that the slot began.
    pub(crate) epoch: u64,
    /// The outbox's and each captured table's oid, by schema and name.
    pub(crate) oids: HashMap<(String, String), u32>,
    /// What messages of our own are signed with.
    pub(crate) secrets: Secrets,
    /// What the slot had confirmed before this session.
    pub(crate) confirmed: Lsn,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Box<Connected>, SourceError>> + Send>>;

#[expect(clippy::large_enum_variant, reason = "there is one, and it is not moved about")]
pub(crate) enum Source {
    Connecting(Connecting),
    Waiting(Instant),
    Streaming(Session),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting(_) => "Connecting",
            Self::Waiting(_) => "Waiting",
            Self::Streaming(_) => "Streaming",
        })
    }
}

/// What happened at the reading end.
#[derive(Debug)]
pub(crate) enum SourceEvent {
    Connected(Result<Box<Connected>, SourceError>),
    /// The wait is over.
    TryAgain,
    /// Bytes came, or the connection is lost.
    Filled(Result<(), WireError>),
}

impl Source {
    pub(crate) fn connect(slot: Slot) -> Self {
        Self::Connecting(Box::pin(connect(slot)))
    }

    pub(crate) fn wait(time: Duration) -> Self {
        Self::Waiting(Instant::now() + time)
    }

    /// Waits for the next thing to happen. Cancel-safe.
    pub(crate) async fn next(&mut self) -> SourceEvent {
        match self {
            Self::Connecting(connecting) => SourceEvent::Connected(connecting.await),
            Self::Waiting(until) => {
                tokio::time::sleep_until(*until).await;
                SourceEvent::TryAgain
            }
            Self::Streaming(session) => SourceEvent::Filled(session.fill().await),
        }
    }
}

async fn connect(slot: Slot) -> Result<Box<Connected>, SourceError> {
    let (client, driver) = slot.dsn.connect("relay").await.map_err(SourceError::Ask)?;
    let preconditions =
        Preconditions { client: &client, slot: &slot.name, publication: &slot.publication };
    let held = preconditions.all(&slot.tables).await;
    let interval = status_interval(&client).await;
    let primary_keys = catalog::primary_keys(&client, &slot.tables).await;
    let oids = catalog::oids(&client, &slot.tables).await;
    let secrets = catalog::secrets(&client).await;
    let state = SlotState::read(&client, &slot.name).await.map_err(CatalogError::from);
    // Only where the slot is there: a slot that `relay init` makes later begins its own.
    let epoch = match &held {
        Ok(()) => history::epoch(&client, &slot.name, false).await,
        Err(_) => Ok(0),
    };
    drop(client);
    driver.abort();
    held?;
    let epoch = epoch?;
    let (primary_keys, oids, secrets) = (primary_keys?, oids?, secrets?);
    let confirmed = state?.and_then(|state| state.confirmed()).unwrap_or_default();
    let (session, identity) = Session::start(&slot.dsn, &slot.name, &slot.publication).await?;
    Ok(Box::new(Connected {
        session,
        identity,
        status_interval: interval,
        primary_keys,
        epoch,
        oids,
        secrets,
        confirmed,
    }))
}

/// A quarter of wal_sender_timeout, at most a second: the flush position is
/// reported as often, and what is not reported is sent again after a crash.
async fn status_interval(client: &tokio_postgres::Client) -> Duration {
    const LONGEST: Duration = Duration::from_secs(1);
    const SQL: &str = "select setting::bigint from pg_settings where name = 'wal_sender_timeout'";
    let timeout =
        client.query_one(SQL, &[]).await.ok().and_then(|row| row.try_get::<_, i64>(0).ok());
    match timeout.and_then(|milliseconds| u64::try_from(milliseconds).ok()) {
        None | Some(0) => LONGEST,
        Some(milliseconds) => Duration::from_millis(milliseconds / 4).min(LONGEST),
    }
}
