//! Ordinary SQL connections.

use crate::{Dsn, Error};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

impl Dsn {
    /// Opens an ordinary connection for SQL; the task drives it and ends with it.
    ///
    /// The servers are tried as [`Dsn::first`] has it. `application_name` is what
    /// `pg_stat_activity` shows, unless the string names one.
    ///
    /// # Errors
    /// When no server can be reached, or none lets us in.
    pub async fn connect(&self, application_name: &str) -> Result<(Client, JoinHandle<()>), Error> {
        let mut named = self.clone();
        if named.config.get_application_name().is_none() {
            named.config.application_name(application_name);
        }
        // A connection that is not used ends with its client, so one that comes too late does too.
        let opened = named.first(|one| Box::pin(one.open()), Error::is_no_tls);
        opened.await.map_err(Error::of_each)
    }

    async fn open(self) -> Result<(Client, JoinHandle<()>), Error> {
        let mut config = self.config().clone();
        // The same role as the replication session's, where the string names none.
        config.user(self.user());
        if let Some(password) = self.password().await? {
            config.password(password);
        }
        let failed = |source| Error::connect(&self, source);
        let (client, driver) = if config.get_ssl_mode() == SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            (client, drive(connection))
        } else {
            let (client, connection) = config.connect(self.tls()?).await.map_err(failed)?;
            (client, drive(connection))
        };
        self.ask(&client).await?;
        Ok((client, driver))
    }

    /// Whether it is the server that is meant.
    async fn ask(&self, client: &Client) -> Result<(), Error> {
        let Some(question) = self.question() else {
            return Ok(());
        };
        let failed = |source| Error::connect(self, source);
        let answer = client.simple_query(question).await.map_err(failed)?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        self.answered(row.and_then(|row| row.get(0)))
    }
}

fn drive<F>(connection: F) -> JoinHandle<()>
where
    F: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to Postgres ended");
        }
    })
}
