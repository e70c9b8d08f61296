//! One server after another, until one lets us in.

use crate::{Dsn, Error};
use std::time::Duration;
use tokio_postgres::config::SslMode;

/// How long to wait for a server where the string does not say.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Dsn {
    /// How long a server may take to let us in.
    fn limit(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// Opens a connection to the first server that `open` succeeds with: each host in turn,
    /// each of its addresses, each with the time that `connect_timeout` gives.
    ///
    /// `open` is handed the string with one host at one address, over TLS or not. Where TLS
    /// is only preferred and `no_tls` says that it was not to be had, it is done without.
    ///
    /// # Errors
    /// Why not, of each that was tried.
    pub async fn first<T, E, F>(
        &self,
        open: impl Fn(Self) -> F,
        no_tls: impl Fn(&E) -> bool,
    ) -> Result<T, Vec<E>>
    where
        F: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let mut errors = Vec::new();
        for place in self.order() {
            let host = self.only_host(place);
            let addresses = match host.in_time(host.each_address()).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    errors.push(error.into());
                    continue;
                }
            };
            for one in addresses {
                match one.any_way(&open, &no_tls).await {
                    Ok(opened) => return Ok(opened),
                    Err(mut more) => errors.append(&mut more),
                }
            }
        }
        Err(errors)
    }

    async fn any_way<T, E, F>(
        self,
        open: impl Fn(Self) -> F,
        no_tls: impl Fn(&E) -> bool,
    ) -> Result<T, Vec<E>>
    where
        F: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let mut errors = Vec::new();
        for way in self.ways() {
            match way.in_time(open(way.clone())).await {
                Ok(opened) => return Ok(opened),
                Err(error) => {
                    let other_way = no_tls(&error);
                    errors.push(error);
                    if !other_way {
                        break;
                    }
                }
            }
        }
        Err(errors)
    }

    /// With TLS and then without where it is preferred, else as it must be.
    fn ways(self) -> Vec<Self> {
        if self.config.get_ssl_mode() != SslMode::Prefer {
            return vec![self];
        }
        let with = |mode| {
            let mut one = self.clone();
            one.config.ssl_mode(mode);
            one
        };
        vec![with(SslMode::Require), with(SslMode::Disable)]
    }

    async fn in_time<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let limit = self.limit();
        let late = || Error::TimeOut { dsn: self.to_string(), seconds: limit.as_secs() };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late().into()))
    }
}
