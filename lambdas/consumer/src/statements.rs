//! Prepared statements, kept for the life of their connection.

use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use std::collections::HashMap;
use std::fmt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

/// A handler that writes values into its SQL makes a new text each time; past
/// this many, statements are no longer kept, so such a handler is slow rather
/// than a leak in the server.
const KEPT: usize = 256;

/// The statements of one connection by their text.
#[derive(Default)]
pub(crate) struct Statements {
    prepared: HashMap<Box<str>, Statement>,
    /// Whether each transaction may have another server connection, which knows none of them.
    pooled: bool,
}

/// A statement with its parameters, to go with others in one round trip.
pub(crate) struct Step<'a> {
    sql: &'static str,
    parameters: Vec<Box<dyn ToSql + Sync + Send + 'a>>,
}

impl<'a> Step<'a> {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self { sql, parameters: Vec::new() }
    }

    pub(crate) fn with(mut self, parameter: impl ToSql + Sync + Send + 'a) -> Self {
        self.parameters.push(Box::new(parameter));
        self
    }

    fn parameters(&self) -> impl ExactSizeIterator<Item = &(dyn ToSql + Sync)> {
        self.parameters.iter().map(|parameter| -> &(dyn ToSql + Sync) { &**parameter })
    }
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("sql", &self.sql).finish_non_exhaustive()
    }
}

impl Statements {
    pub(crate) fn new(pooled: bool) -> Self {
        Self { pooled, ..Self::default() }
    }

    pub(crate) async fn get(
        &mut self,
        client: &Client,
        sql: &str,
    ) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = client.prepare(sql).await?;
        self.keep(sql, &statement);
        Ok(statement)
    }

    /// Each of them; those that were not there are prepared in one round trip.
    async fn get_all(
        &mut self,
        client: &Client,
        steps: &[Step<'_>],
    ) -> Result<Vec<Statement>, tokio_postgres::Error> {
        let kept = |step: &Step<'_>| self.prepared.get(step.sql).cloned();
        let kept: Vec<Option<Statement>> = steps.iter().map(kept).collect();
        let wanted = steps.iter().zip(kept).map(|(step, kept)| async move {
            match kept {
                Some(statement) => Ok(statement),
                None => client.prepare(step.sql).await,
            }
        });
        let statements = try_join_all(wanted).await?;
        for (step, statement) in steps.iter().zip(&statements) {
            self.keep(step.sql, statement);
        }
        Ok(statements)
    }

    /// Prepares them in one round trip.
    pub(crate) async fn prepare(
        &mut self,
        client: &Client,
        all: &[&'static str],
    ) -> Result<(), tokio_postgres::Error> {
        let steps: Vec<Step<'_>> = all.iter().map(|sql| Step::new(sql)).collect();
        self.get_all(client, &steps).await.map(drop)
    }

    /// Runs all of them in one round trip, in their order; returns the rows of each.
    pub(crate) async fn run_all(
        &mut self,
        client: &Client,
        steps: &[Step<'_>],
    ) -> Result<Vec<Vec<Row>>, tokio_postgres::Error> {
        let statements = self.get_all(client, steps).await?;
        let runs = steps.iter().zip(&statements).map(|(step, statement)| async move {
            let rows = client.query_raw(statement, step.parameters()).await?;
            rows.try_collect().await
        });
        // Each future sends its statement when it is polled first, and they are polled in order.
        try_join_all(runs).await
    }

    fn keep(&mut self, sql: &str, statement: &Statement) {
        if self.prepared.len() < KEPT && !self.prepared.contains_key(sql) {
            self.prepared.insert(sql.into(), statement.clone());
        }
    }

    /// Whether a pooler hands out a server connection for each transaction.
    pub(crate) fn are_pooled(&self) -> bool {
        self.pooled
    }

    /// Forgets them where the next transaction may not find them: behind a pooler they are closed
    /// while the server connection is still ours. So too after an error, which may be one of theirs.
    pub(crate) fn transaction_ends(&mut self, well: bool) {
        if self.pooled || !well {
            self.clear();
        }
    }

    /// Forgets them all: after a change of a table an old plan can fail for ever.
    pub(crate) fn clear(&mut self) {
        self.prepared.clear();
    }
}
