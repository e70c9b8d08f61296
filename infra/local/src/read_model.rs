//! A read model of a test's own.

use crate::postgres::Postgres;
use crate::{migrations, workspace};
use anyhow::{Context, Result};
use tokio_postgres::Client;

/// A server with a database that has the consumers' tables.
#[derive(Debug)]
pub struct ReadModel {
    /// The server.
    pub postgres: Postgres,
    /// The database's name.
    pub database: String,
    /// A connection to it.
    pub client: Client,
}

impl ReadModel {
    /// With the tables of these files of the workspace too.
    ///
    /// # Errors
    /// When Postgres does not start, or refuses a file.
    pub async fn start(files: &[&str]) -> Result<Self> {
        let postgres = Postgres::start(&[]).await?;
        let database = postgres.create_database().await?;
        let client = postgres.connect(&database).await?;
        migrations::apply(&client, "sql/read_model").await?;
        // Twice: such a file is safe to repeat.
        for file in files.iter().chain(files) {
            let sql = std::fs::read_to_string(workspace().join(file));
            let sql = sql.with_context(|| format!("read {file}"))?;
            client.batch_execute(&sql).await.with_context(|| format!("apply {file}"))?;
        }
        Ok(Self { postgres, database, client })
    }

    /// Its connection string.
    #[must_use]
    pub fn url(&self) -> String {
        self.postgres.url(&self.database)
    }

    /// Why events were parked, in the order in which they were.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn parked(&self) -> Result<Vec<String>> {
        let sql = "select reason from relay.parked order by id";
        let rows = self.client.query(sql, &[]).await.context("read relay.parked")?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
