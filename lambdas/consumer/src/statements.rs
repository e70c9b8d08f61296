//! Prepared statements, kept for the life of their connection.

use std::collections::HashMap;
use tokio_postgres::{Statement, Transaction};

/// A handler that writes values into its SQL makes a new text each time; past
/// this many, statements are no longer kept, so such a handler is slow rather
/// than a leak in the server.
const KEPT: usize = 256;

/// The statements of one connection by their text.
#[derive(Default)]
pub(crate) struct Statements {
    prepared: HashMap<Box<str>, Statement>,
}

impl Statements {
    pub(crate) async fn get(
        &mut self,
        transaction: &Transaction<'_>,
        sql: &str,
    ) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = transaction.prepare(sql).await?;
        if self.prepared.len() < KEPT {
            self.prepared.insert(sql.into(), statement.clone());
        }
        Ok(statement)
    }

    /// Forgets them all: after a change of a table an old plan can fail for ever.
    pub(crate) fn clear(&mut self) {
        self.prepared.clear();
    }
}
