//! What a projection author writes, and what is handed to it.
//!
//! Knows: the [`Handler`] seam, the transaction that a handler works in.
//! Must not know: queues, batches, the inbox.

use crate::begin::Begin;
use crate::emit::Cause;
use crate::error::{chain, is_final, misfit};
use crate::statements::{Statements, Step};
use crate::undone::Undone;
use crate::write::Written;
use envelope::Event;
use futures_util::future::try_join;
use std::fmt;
use std::future::Future;
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

/// A projection, a policy, a saga: one function that gives one event its effect.
///
/// The event's inbox row and the handler's writes are one transaction, so an
/// event has its effect once however often it is delivered. A handler reads and
/// writes through `tx` alone: it runs again for an event whose earlier run was
/// rolled back, and whatever it does elsewhere can happen more than once: [`Tx::effect`] is for that.
pub trait Handler: Send + Sync {
    /// The name that its inbox and its progress are kept under.
    ///
    /// A new name starts from nothing: give a rebuilt projection one, such as `orders@2`.
    fn name(&self) -> &str;

    /// How redelivered and reordered events are told from new ones.
    fn mode(&self) -> Mode {
        Mode::Versioned
    }

    /// Gives the event its effect; an event type that does not concern it is `Ok(())`.
    ///
    /// # Errors
    /// [`HandlerError::Retry`] to have the event delivered again,
    /// [`HandlerError::Reject`] to park it. A database error, passed on with `?`, is tried
    /// again, but for data that Postgres cannot store: that is rejected. What was written
    /// through `tx` is rolled back in each case.
    fn handle(
        &self,
        event: &Event,
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// How a projection tells new events from old ones.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mode {
    /// By the inbox alone: each event once, in whatever order it arrives.
    Once,
    /// By the inbox and the aggregate's version: each event once and in order.
    /// An equal or lower version is a duplicate; a gap waits for what is
    /// missing. An event without a version is taken as in [`Mode::Once`].
    #[default]
    Versioned,
    /// The last write wins: an event is applied if its aggregate's version, then its position in
    /// the stream, is higher than that of every event applied before; an older one is stale and
    /// has no effect. For handlers that write an aggregate's whole state, or its deletion, from
    /// each event. The mark of the last event stays when the handler deletes its row, so a late
    /// older event does not raise the dead. An event with neither version nor position is taken
    /// as in [`Mode::Once`].
    Latest,
}

/// Why an event did not have its effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// Not now: the event goes back to the queue.
    #[error("to be tried again: {0}")]
    Retry(String),
    /// Not before so long: as [`HandlerError::Retry`], and a host that can tell the queue so does
    /// (`host::poll`). Lambda's event source mapping knows no delay of single messages.
    #[error("to be tried again after {after:?}: {reason}")]
    RetryAfter {
        /// Time from now on; a queue of SQS takes 12 hours at most.
        after: Duration,
        /// Reason for the log, and for `relay.parked` after the last delivery.
        reason: String,
    },
    /// Never: the event is parked in `relay.parked` with this reason, and counts as done.
    #[error("refused: {0}")]
    Reject(String),
    /// The database refused or is gone: the event goes back to the queue.
    #[error("the database refused")]
    Database(#[source] tokio_postgres::Error),
}

/// Postgres says in class 22 that the data itself is at fault (a NUL in a text, a number out of
/// range), in class 54 that a limit of the server is (a value that no index holds): it stays so
/// however often it comes, and the event is rejected.
impl From<tokio_postgres::Error> for HandlerError {
    fn from(error: tokio_postgres::Error) -> Self {
        if is_final(&error) {
            return Self::Reject(format!("the data cannot be stored: {}", chain(&error)));
        }
        Self::Database(error)
    }
}

/// A payload of another shape than expected stays so: the event is rejected.
impl From<serde_json::Error> for HandlerError {
    fn from(error: serde_json::Error) -> Self {
        Self::Reject(format!("data does not have the expected shape: {}", misfit(&error)))
    }
}

/// The transaction that an event has its effect in.
///
/// Statements are prepared once for each connection and kept by their text, so
/// pass values as parameters rather than in the text.
pub struct Tx<'a> {
    pub(crate) client: &'a Client,
    pub(crate) statements: &'a mut Statements,
    begin: Begin,
    /// Postgres refused something: the transaction may be dead although the handler says all is well.
    pub(crate) suspect: bool,
    /// What was sent and is not waited for yet.
    pub(crate) written: Written<'a>,
    /// What is being handled, for the events that the handler emits.
    pub(crate) cause: Option<Cause>,
    /// Whether the consumer performs effects outside the database.
    pub(crate) performs: bool,
    /// What the handler has noted to be done after the commit.
    pub(crate) effect: Option<String>,
}

impl<'a> Tx<'a> {
    /// In a transaction that has begun on the connection.
    pub(crate) fn new(client: &'a Client, statements: &'a mut Statements) -> Self {
        Self {
            client,
            statements,
            begin: Begin::Done,
            suspect: false,
            written: Written::default(),
            cause: None,
            performs: false,
            effect: None,
        }
    }

    /// In one that begins with its first statements.
    pub(crate) fn to_begin(
        client: &'a Client,
        statements: &'a mut Statements,
        begin: &'static str,
    ) -> Self {
        Self { begin: Begin::Due(begin), ..Self::new(client, statements) }
    }

    /// Whether the transaction is known to have begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.begin == Begin::Done
    }

    /// Runs a statement and returns how many rows it touched. Where that does not matter,
    /// [`Tx::write`] spares the round trip.
    ///
    /// # Errors
    /// When Postgres refuses it or is gone.
    pub async fn execute(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, tokio_postgres::Error> {
        let result = match self.statements.get(self.client, sql).await {
            Ok(statement) => self.client.execute(&statement, parameters).await,
            Err(error) => Err(error),
        };
        self.suspect |= result.is_err();
        result
    }

    /// Runs a query and returns its rows.
    ///
    /// # Errors
    /// When Postgres refuses it or is gone.
    pub async fn query(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let result = match self.statements.get(self.client, sql).await {
            Ok(statement) => self.client.query(&statement, parameters).await,
            Err(error) => Err(error),
        };
        self.suspect |= result.is_err();
        result
    }

    /// Runs a query and returns its first row, if there is one.
    ///
    /// # Errors
    /// When Postgres refuses it or is gone.
    pub async fn query_first(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, tokio_postgres::Error> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// Runs all of them in one round trip, in their order; returns the rows of each. The
    /// transaction's begin goes with the first.
    pub(crate) async fn together(&mut self, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>, Undone> {
        let (client, begin) = (self.client, self.begin);
        let run = async { self.statements.run_all(client, steps).await.map_err(Undone::of_ours) };
        let ((), rows) = try_join(begin.send(client), run).await?;
        self.begin = Begin::Done;
        Ok(rows)
    }

    /// The next statements are for this event.
    pub(crate) fn begin_event(&mut self, projection: &str, event: &Event) {
        self.cause = Some(Cause::new(projection, event));
        self.effect = None;
    }

    /// To be said before the transaction ends, with how its work went, where nothing was written
    /// without a wait.
    pub(crate) fn ends<T, E>(self, worked: &Result<T, E>) {
        self.statements.transaction_ends(worked.is_ok());
    }

    /// Fails if a statement before has left the transaction aborted.
    ///
    /// A handler may swallow a database error; the commit of an aborted
    /// transaction is a rollback that reports no error, and would lose the event
    /// (test `a_swallowed_database_error_does_not_lose_the_event`).
    pub(crate) async fn ensure_alive(&mut self) -> Result<(), tokio_postgres::Error> {
        if self.suspect {
            self.client.batch_execute("select").await?;
            self.suspect = false;
        }
        Ok(())
    }
}

impl fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}
