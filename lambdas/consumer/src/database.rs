//! The connection to the read model, kept across deliveries.
//!
//! Knows: when a connection has to be made anew, and the daily upkeep of the
//! inbox. Must not know: events, handlers, queues.

use crate::begin::{self, begin_beside, within_limit};
use crate::error::{self, Error};
use crate::keep;
use crate::statements::Statements;
use crate::{effect, inbox, ledger};
use dsn::Dsn;
use futures_util::future::join3;
use std::fmt;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage, Transaction};

/// A connection that is given up in the middle of a statement ends it, and with it the locks that
/// the next one would wait for. Not every server's system can.
const END_WITH_US: &str = "set client_connection_check_interval = '500ms'";

/// How often the inbox's partitions are seen to.
const UPKEEP: Duration = Duration::from_hours(24);

/// How long that may take. It waits 2 s for each lock.
const UPKEEP_LIMIT: Duration = Duration::from_secs(20);

/// The most that a rollback may take before the connection is given up instead.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(5);

/// Whether the server takes writes, what BEGIN must differ from, and that the role may read the tables.
const PROBE: &str = "select pg_catalog.current_setting('transaction_read_only'),
      pg_catalog.current_setting('default_transaction_deferrable'),
      (select pg_catalog.count(*) from (
        select from relay.inbox, relay.progress, relay.parked, relay.inbox_horizon limit 0) as tables)";

/// Statements that name every column which the consumer writes; the last is for effects. Postgres
/// reads them without running them: tables of an earlier version are found out before an event is
/// taken.
const NEEDED: [&str; 3] = [ledger::MOVED_AND_NEW, inbox::PARK, effect::NOTE];
/// So many steps of the upkeep at once: a delivery waits for them.
const STEPS: u32 = 10;

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
    /// How its transactions begin.
    begin: &'static str,
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
            match tokio::time::timeout(UPKEEP_LIMIT, maintain(&mut session.client)).await {
                Ok(false) => {}
                // What is left goes with the next deliveries, some steps at each.
                Ok(true) => self.kept_up = None,
                Err(_) => {
                    tracing::warn!(
                        "expected the upkeep of the inbox's partitions to end within {} s, found no end; it is tried again tomorrow",
                        UPKEEP_LIMIT.as_secs()
                    );
                    session = self.open(application_name).await?;
                }
            }
        }
        Ok(self.session.insert(session))
    }

    async fn open(&self, application_name: &str) -> Result<Session, Error> {
        if application_name.len() > keep::PROJECTION {
            return Err(Error::Name { most: keep::PROJECTION, found: application_name.len() });
        }
        let (client, driver) = self.dsn.connect(application_name).await?;
        tracing::debug!(read_model = %self.dsn, "connected");
        let mut session = Session {
            client,
            statements: Statements::new(self.pooled),
            driver,
            performs: self.performs,
            begin: begin_beside(false),
            open: false,
        };
        let proven = tokio::time::timeout(begin::LIMIT, session.prove()).await;
        proven.unwrap_or(Err(Error::Silent { seconds: begin::LIMIT.as_secs() }))?;
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

    /// Sees that the server takes writes, and that the tables are there, as this version needs them.
    async fn prove(&mut self) -> Result<(), Error> {
        let needed = if self.performs { &NEEDED[..] } else { &NEEDED[..NEEDED.len() - 1] };
        if self.statements.are_pooled() {
            // In a transaction, so that the pooler keeps to one server connection.
            let (transaction, statements) = self.begin().await?;
            let probed = transaction.client().simple_query(PROBE).await;
            let prepared = statements.prepare(transaction.client(), needed).await;
            statements.clear();
            let begin = judge(probed, prepared)?;
            transaction.commit().await.map_err(Error::of_ours)?;
            self.begin = begin;
            return Ok(());
        }
        // In one round trip.
        let (set, probed, prepared) = join3(
            self.client.batch_execute(END_WITH_US),
            self.client.simple_query(PROBE),
            self.statements.prepare(&self.client, needed),
        )
        .await;
        if let Err(error) = set {
            let error = error::describe(&error);
            tracing::debug!(error, "the server does not look whether its clients are there");
        }
        self.begin = judge(probed, prepared)?;
        Ok(())
    }

    /// The BEGIN that goes with the first statements of a transaction.
    pub(crate) fn begin_sql(&self) -> &'static str {
        self.begin
    }

    /// Whether the server takes writes, as far as it answers. To be asked outside of transactions.
    pub(crate) async fn takes_writes(&self) -> bool {
        let asked = self.client.simple_query("show transaction_read_only");
        match tokio::time::timeout(begin::LIMIT, asked).await {
            Ok(Ok(answer)) => !is_on(&answer, 0),
            Ok(Err(_)) | Err(_) => true,
        }
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
        let rolled_back = self.client.batch_execute("rollback");
        match tokio::time::timeout(ROLLBACK_LIMIT, rolled_back).await {
            Ok(Ok(())) => self.open = false,
            Ok(Err(error)) => {
                let error = error::describe(&error);
                tracing::debug!(error, "the rollback was not acknowledged");
            }
            Err(_) => tracing::debug!("the rollback was not acknowledged in time"),
        }
    }
}

/// Whether a setting is on, by the row that shows it.
fn is_on(answer: &[SimpleQueryMessage], column: usize) -> bool {
    answer.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(column) == Some("on"),
        _ => false,
    })
}

/// How transactions begin on a server that can be worked with, by its answers.
fn judge(
    probed: Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>,
    prepared: Result<(), tokio_postgres::Error>,
) -> Result<&'static str, Error> {
    let answer = probed.map_err(Error::of_ours)?;
    if is_on(&answer, 0) {
        return Err(Error::ReadOnly);
    }
    prepared.map_err(Error::of_ours)?;
    Ok(begin_beside(is_on(&answer, 1)))
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Does what there is to do for the inbox, in as many transactions: a lock of one step is not held
/// through the next. Says whether there may be more to do than it did.
async fn maintain(client: &mut Client) -> bool {
    for _ in 0..STEPS {
        match maintain_step(client).await {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                let error = error::describe(&error);
                tracing::warn!(
                    error,
                    "the inbox's partitions could not be seen to; events still arrive, in its default partition; let the owner of relay.inbox call relay.maintain_inbox() every minute"
                );
                return false;
            }
        }
    }
    true
}

/// Whether there may be another step.
async fn maintain_step(client: &mut Client) -> Result<bool, tokio_postgres::Error> {
    // In a transaction, so that a pooler keeps to one server connection.
    let transaction = client.transaction().await?;
    let rows = transaction.query("select step, what from relay.maintain_inbox()", &[]).await?;
    // Rows hold on to their statement, which a pooler's next client must not find.
    let done: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    drop(rows);
    transaction.commit().await?;
    for (step, what) in &done {
        tracing::debug!(step, what, "saw to the inbox's partitions");
    }
    // An insert may wait for a drop: one attempt is enough.
    Ok(done.iter().any(|(step, _)| matches!(step.as_str(), "create" | "empty" | "delete")))
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("dsn", &self.dsn).finish_non_exhaustive()
    }
}
