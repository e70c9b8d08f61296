//! Ordinary SQL connections.

use crate::{Dsn, Error};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls};

/// How long to wait for a server where the string does not say.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Dsn {
    /// Opens an ordinary connection for SQL; the task drives it and ends with it.
    ///
    /// Each host has the time that `connect_timeout` gives, so that one that does not
    /// answer leaves the next its turn. `application_name` is what `pg_stat_activity` shows, unless the string names one.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the login.
    pub async fn connect(&self, application_name: &str) -> Result<(Client, JoinHandle<()>), Error> {
        let mut config = self.config().clone();
        if config.get_application_name().is_none() {
            config.application_name(application_name);
        }
        let limit = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        config.connect_timeout(limit);
        // That bounds the socket alone; a server that accepts and then says nothing is bounded here.
        let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX);
        let limit = limit.saturating_mul(hosts);
        tokio::time::timeout(limit, self.open(&config))
            .await
            .map_err(|_| Error::TimeOut { dsn: self.to_string(), seconds: limit.as_secs() })?
    }

    async fn open(
        &self,
        config: &tokio_postgres::Config,
    ) -> Result<(Client, JoinHandle<()>), Error> {
        if self.mint.is_none() {
            return self.open_with(config).await;
        }
        // A token is for one host.
        let mut last = Error::NoHost;
        for at in 0..self.hosts() {
            let one = Self { config: config.clone(), ..self.clone() }.only_host(at);
            let opened = async {
                let password = one.password().await?.unwrap_or_default();
                one.open_with(one.config.clone().password(password)).await
            };
            match opened.await {
                Ok(opened) => return Ok(opened),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn open_with(
        &self,
        config: &tokio_postgres::Config,
    ) -> Result<(Client, JoinHandle<()>), Error> {
        let failed = |source| Error::connect(self, source);
        if config.get_ssl_mode() == SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            Ok((client, drive(connection)))
        } else {
            let (client, connection) = config.connect(self.tls()?).await.map_err(failed)?;
            Ok((client, drive(connection)))
        }
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
