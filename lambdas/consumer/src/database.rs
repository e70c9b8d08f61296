//! The connection to the read model, kept across deliveries.
//!
//! Knows: when a connection has to be made anew, and the daily upkeep of the
//! inbox. Must not know: events, handlers, queues.

use crate::begin::{self, within_limit};
use crate::error::{self, Error};
use crate::keep;
use crate::statements::Statements;
use dsn::Dsn;
use std::fmt;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, Transaction};

/// A connection that is given up in the middle of a statement ends it, and with it the locks that
/// the next one would wait for. Not every server's system can.
const END_WITH_US: &str = "set client_connection_check_interval = '500ms'";

/// How often the inbox's partitions are seen to.
const UPKEEP: Duration = Duration::from_hours(24);

/// A read model: where it is, and the connection to it while there is one.
pub(crate) struct Database {
    dsn: Dsn,
    session: Option<Session>,
    /// Whether a pooler stands between, which hands out a server connection for each transaction.
    pooled: bool,
    /// Whether handlers may ask for effects outside the database.
    performs: bool,
    /// When the inbox was last seen to; failures count, they are tried again a day later.
    kept_up: Option<Instant>,
}

/// One connection with what was prepared on it.
pub(crate) struct Session {
    client: Client,
    statements: Statements,
    driver: JoinHandle<()>,
    performs: bool,
    /// A transaction was opened and nobody has seen its end: the connection is of no more use.
    open: bool,
}

impl Database {
    /// Knows where the read model is; connects with the first delivery.
    #[must_use]
    pub(crate) fn new(dsn: Dsn) -> Self {
        Self { dsn, session: None, pooled: false, performs: false, kept_up: None }
    }

    /// Takes it that a transaction-pooling proxy stands between.
    pub(crate) fn through_a_pool(&mut self) {
        self.pooled = true;
    }

    /// Takes it that effects outside the database are performed.
    pub(crate) fn with_effects(&mut self) {
        self.performs = true;
    }

    /// Connects now rather than with the first delivery.
    ///
    /// # Errors
    /// When the read model cannot be reached or lacks the consumer's tables.
    pub(crate) async fn connect(&mut self, application_name: &str) -> Result<(), Error> {
        self.session(application_name).await.map(|_| ())
    }

    /// The connection; made anew when there is none or it is known to be broken.
    pub(crate) async fn session(&mut self, application_name: &str) -> Result<&mut Session, Error> {
        let mut session = match self.session.take().filter(Session::is_usable) {
            Some(session) => session,
            None => self.open(application_name).await?,
        };
        if self.kept_up.is_none_or(|at| at.elapsed() >= UPKEEP) {
            self.kept_up = Some(Instant::now());
            maintain(&mut session.client).await;
        }
        Ok(self.session.insert(session))
    }

    async fn open(&self, application_name: &str) -> Result<Session, Error> {
        if application_name.len() > keep::PROJECTION {
            return Err(Error::Name { most: keep::PROJECTION, found: application_name.len() });
        }
        let (client, driver) = self.dsn.connect(application_name).await?;
        tracing::debug!(read_model = %self.dsn, "connected");
        let session = Session {
            client,
            statements: Statements::new(self.pooled),
            driver,
            performs: self.performs,
            open: false,
        };
        if !self.pooled
            && let Err(error) = session.client.batch_execute(END_WITH_US).await
        {
            tracing::debug!(%error, "the server does not look whether its clients are there");
        }
        session
            .client
            .batch_execute("select from relay.inbox, relay.progress, relay.parked, relay.inbox_horizon limit 0")
            .await
            .map_err(|error| {
                if error::is_missing(&error) {
                    Error::NotInitialised(error)
                } else {
                    Error::Lost(error)
                }
            })?;
        Ok(session)
    }

    /// Has statements prepared anew.
    pub(crate) fn forget_statements(&mut self) {
        if let Some(session) = &mut self.session {
            session.statements.clear();
        }
    }

    /// Gives the connection up, so that the next use makes a new one.
    pub(crate) fn discard(&mut self) {
        self.session = None;
    }
}

impl Session {
    fn is_usable(&self) -> bool {
        !self.open && !self.client.is_closed()
    }

    /// Whether handlers may ask for effects outside the database.
    pub(crate) fn performs(&self) -> bool {
        self.performs
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the connection turns out to be broken.
    pub(crate) async fn begin(&mut self) -> Result<(Transaction<'_>, &mut Statements), Error> {
        let begun = tokio::time::timeout(begin::LIMIT, self.client.transaction()).await;
        Ok((within_limit(begun)?, &mut self.statements))
    }

    /// The connection for a transaction whose begin goes with its first statements. Until
    /// [`Session::committed`] or [`Session::rollback`] has ended it, the connection is not used again.
    pub(crate) fn open(&mut self) -> (&Client, &mut Statements) {
        self.open = true;
        (&self.client, &mut self.statements)
    }

    /// What was opened has been committed.
    pub(crate) fn committed(&mut self) {
        self.open = false;
    }

    /// Rolls back what was opened; where that fails, the next use makes a new connection.
    pub(crate) async fn rollback(&mut self) {
        match self.client.batch_execute("rollback").await {
            Ok(()) => self.open = false,
            Err(error) => tracing::debug!(%error, "the rollback was not acknowledged"),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn maintain(client: &mut Client) {
    // In a transaction, so that a pooler keeps to one server connection.
    let maintained = async {
        let transaction = client.transaction().await?;
        let rows = transaction.query("select relay.maintain_inbox()", &[]).await?;
        // Rows hold on to their statement, which a pooler's next client must not find.
        let done: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        drop(rows);
        transaction.commit().await?;
        Ok(done)
    };
    match maintained.await {
        Ok(lines) => {
            for done in lines {
                tracing::debug!(done, "saw to the inbox's partitions");
            }
        }
        Err(error) => {
            let error: tokio_postgres::Error = error;
            let error = error::describe(&error);
            tracing::warn!(
                error,
                "the inbox's partitions could not be seen to; events still arrive, in its default partition; let the owner of relay.inbox call relay.maintain_inbox() daily"
            );
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("dsn", &self.dsn).finish_non_exhaustive()
    }
}
