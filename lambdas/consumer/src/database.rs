//! The connection to the read model: kept across invocations, made anew when it is stale.

use crate::ConsumerError;
use dsn::Dsn;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement, Transaction};

/// How often the inbox's partitions are looked after.
const MAINTENANCE: Duration = Duration::from_secs(24 * 3600);

/// Prepared statements by their text: each is prepared once for a connection.
pub(crate) type Statements = HashMap<String, Statement>;

/// A connection with its statements.
pub(crate) struct Open {
    pub(crate) client: Client,
    pub(crate) statements: Statements,
}

/// The read model, connected or not.
pub(crate) struct Database {
    dsn: Dsn,
    open: Option<Open>,
    maintained: Option<Instant>,
}

impl Database {
    pub(crate) fn new(dsn: Dsn) -> Self {
        Self {
            dsn,
            open: None,
            maintained: None,
        }
    }

    /// A connection that was not known to be broken a moment ago.
    pub(crate) async fn open(&mut self) -> Result<&mut Open, ConsumerError> {
        let open = match self.open.take() {
            Some(open) if !open.client.is_closed() => open,
            _ => {
                let (client, _driver) = self.dsn.connect("relay consumer").await?;
                Open {
                    client,
                    statements: Statements::new(),
                }
            }
        };
        if self.maintained.is_none_or(|at| at.elapsed() > MAINTENANCE) {
            // Not fatal: without a partition of its own a day's events go to the default one.
            if let Err(error) = open
                .client
                .execute("select relay.maintain_inbox()", &[])
                .await
            {
                tracing::warn!(%error, "the inbox's partitions could not be looked after");
            }
            self.maintained = Some(Instant::now());
        }
        Ok(self.open.insert(open))
    }

    /// Forgets a connection that may be broken.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }
}

/// The transaction that an event has its effect in.
pub struct Tx<'a> {
    transaction: &'a Transaction<'a>,
    statements: &'a mut Statements,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

/// A statement's parameters.
pub type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl<'a> Tx<'a> {
    pub(crate) fn new(transaction: &'a Transaction<'a>, statements: &'a mut Statements) -> Self {
        Self {
            transaction,
            statements,
        }
    }

    /// Runs a statement; returns how many rows it changed.
    ///
    /// # Errors
    /// When the database refuses it; the transaction is then of no use any more.
    pub async fn execute(&mut self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        let statement = self.prepared(sql).await?;
        self.transaction.execute(&statement, parameters).await
    }

    /// Runs a query; returns its rows.
    ///
    /// # Errors
    /// When the database refuses it; the transaction is then of no use any more.
    pub async fn query(
        &mut self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql).await?;
        self.transaction.query(&statement, parameters).await
    }

    /// Runs a query; returns its row, if there is one.
    ///
    /// # Errors
    /// When the database refuses it, or there is more than one row.
    pub async fn query_opt(
        &mut self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Error> {
        let statement = self.prepared(sql).await?;
        self.transaction.query_opt(&statement, parameters).await
    }

    async fn prepared(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.transaction.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}
