//! Ordinary SQL connections.

use crate::{BUILTIN_NAMES, Dsn, Error};
use std::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Notification, SimpleQueryMessage};

/// A connection, what it hears, and the task that drives it.
pub type Listening = (Client, UnboundedReceiver<Notification>, JoinHandle<()>);

impl Dsn {
    /// Opens an ordinary connection for SQL; the task drives it and ends with it.
    ///
    /// The servers are tried as [`Dsn::first`] has it. `application_name` is what
    /// `pg_stat_activity` shows, unless the string names one.
    ///
    /// # Errors
    /// When no server can be reached, or none lets us in.
    pub async fn connect(&self, application_name: &str) -> Result<(Client, JoinHandle<()>), Error> {
        let (client, _, driver) = self.connect_to_listen(application_name).await?;
        Ok((client, driver))
    }

    /// Opens the same with the notifications that the server sends after a `LISTEN`; they end with
    /// the connection.
    ///
    /// # Errors
    /// As [`Dsn::connect`].
    pub async fn connect_to_listen(&self, application_name: &str) -> Result<Listening, Error> {
        let mut named = self.clone();
        if named.config.get_application_name().is_none() {
            named.config.application_name(application_name);
        }
        // A connection that is not used ends with its client, so one that comes too late does too.
        let opened = named.first(|one| Box::pin(one.open()), Error::is_no_tls);
        opened.await.map_err(Error::of_each)
    }

    async fn open(self) -> Result<Listening, Error> {
        let mut config = self.config().clone();
        // The same role as the replication session's, where the string names none.
        config.user(self.user());
        if self.builtin_names {
            // The last of two options of one name is taken.
            let own = config.get_options().unwrap_or_default().to_owned();
            config.options(format!("{own} {BUILTIN_NAMES}"));
        }
        if let Some(password) = self.password().await? {
            config.password(password);
        }
        let failed = |source| Error::connect(&self, source);
        let (hear, heard) = unbounded_channel();
        let (client, driver) = if config.get_ssl_mode() == SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            (client, drive(connection, hear))
        } else {
            let (client, connection) = config.connect(self.tls()?).await.map_err(failed)?;
            (client, drive(connection, hear))
        };
        self.ask(&client).await?;
        Ok((client, heard, driver))
    }

    /// Whether it is the server that is meant, and a session of its own.
    async fn ask(&self, client: &Client) -> Result<(), Error> {
        // SHOW looks up no name.
        let path = self.builtin_names.then_some("show search_path");
        let questions: Vec<&str> = path.into_iter().chain(self.question()).collect();
        if questions.is_empty() {
            return Ok(());
        }
        let failed = |source| Error::connect(self, source);
        let answers = client.simple_query(&questions.join("; ")).await.map_err(failed)?;
        let mut answers = answers.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0)),
            _ => None,
        });
        // A pooler may pass over the option. To set the path later is no way out: another client
        // would get the server connection with it.
        if path.is_some() {
            let found = answers.next().flatten().unwrap_or_default().replace(' ', "");
            if !BUILTIN_NAMES.ends_with(&format!("={found}")) {
                return Err(Error::Pooler { dsn: self.to_string() });
            }
        }
        self.answered(answers.next().flatten())
    }
}

fn drive<S, T>(
    mut connection: Connection<S, T>,
    hear: UnboundedSender<Notification>,
) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                // Few callers listen; the others have let the receiver go.
                Ok(AsyncMessage::Notification(notification)) => drop(hear.send(notification)),
                Ok(AsyncMessage::Notice(notice)) => {
                    let (severity, message) = (notice.severity(), notice.message());
                    // A notice, such as that a schema exists already, is for who looks closely.
                    if notice.parsed_severity() == Some(Severity::Warning) {
                        tracing::warn!("{severity}: {message}");
                    } else {
                        tracing::debug!("{severity}: {message}");
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "the connection to Postgres ended");
                    return;
                }
            }
        }
    })
}
