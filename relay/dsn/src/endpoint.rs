//! The hosts of a connection string, one by one, and each of their addresses.

use crate::{Dsn, Error};
use std::net::IpAddr;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode};

impl Dsn {
    /// How many hosts it names.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.config.get_hosts().len()
    }

    /// The port of the host at this place: one for all, or each its own.
    #[must_use]
    pub fn port(&self, host: usize) -> u16 {
        match self.config.get_ports() {
            [] => 5432,
            [port] => *port,
            ports => ports.get(host).copied().unwrap_or(5432),
        }
    }

    /// The address that stands for the name of the host at this place, if one is given.
    #[must_use]
    pub fn address(&self, host: usize) -> Option<IpAddr> {
        self.config.get_hostaddrs().get(host).copied()
    }

    /// The places of the hosts in the order they are tried.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.hosts()).collect();
        self.balance(&mut places);
        places
    }

    fn balance<T>(&self, list: &mut [T]) {
        if self.config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            fastrand::shuffle(list);
        }
    }

    /// The same with that host alone; all of it where there is no such host.
    #[must_use]
    pub(crate) fn only_host(&self, host: usize) -> Self {
        let Some(name) = self.config.get_hosts().get(host) else {
            return self.clone();
        };
        let mut one = Config::new();
        one.port(self.port(host));
        self.copy_settings(&mut one);
        match name {
            Host::Tcp(name) => one.host(name),
            // There is no TLS on a unix socket, whatever the other hosts need.
            Host::Unix(folder) => one.host_path(folder).ssl_mode(SslMode::Disable),
        };
        if let Some(address) = self.address(host) {
            one.hostaddr(address);
        }
        Self { config: one, ..self.clone() }
    }

    /// The only host once for each of its addresses; a unix socket as it is.
    pub(crate) async fn each_address(&self) -> Result<Vec<Self>, Error> {
        let Some(Host::Tcp(name)) = self.config.get_hosts().first() else {
            return Ok(vec![self.clone()]);
        };
        let mut addresses = match self.address(0) {
            Some(address) => vec![address],
            None => self.look_up(name).await?,
        };
        // A name of this machine that leads elsewhere is no longer local.
        if self.config.get_ssl_mode() != SslMode::Require
            && !addresses.iter().all(IpAddr::is_loopback)
        {
            return Err(Error::PlainToRemote { host: self.to_string() });
        }
        self.balance(&mut addresses);
        Ok(addresses.into_iter().map(|address| self.at(address)).collect())
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        let found = tokio::net::lookup_host((name, self.port(0))).await;
        let found = found.map_err(|source| Error::Name { dsn: self.to_string(), source })?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address.ip()) {
                addresses.push(address.ip());
            }
        }
        Ok(addresses)
    }

    fn at(&self, address: IpAddr) -> Self {
        let mut one = self.clone();
        if one.address(0).is_none() {
            one.config.hostaddr(address);
        }
        one
    }

    /// Everything but the hosts.
    fn copy_settings(&self, to: &mut Config) {
        let from = &self.config;
        if let Some(user) = from.get_user() {
            to.user(user);
        }
        if let Some(password) = from.get_password() {
            to.password(password);
        }
        if let Some(database) = from.get_dbname() {
            to.dbname(database);
        }
        if let Some(options) = from.get_options() {
            to.options(options);
        }
        if let Some(name) = from.get_application_name() {
            to.application_name(name);
        }
        if let Some(limit) = from.get_connect_timeout() {
            to.connect_timeout(*limit);
        }
        if let Some(limit) = from.get_tcp_user_timeout() {
            to.tcp_user_timeout(*limit);
        }
        if let Some(interval) = from.get_keepalives_interval() {
            to.keepalives_interval(interval);
        }
        if let Some(retries) = from.get_keepalives_retries() {
            to.keepalives_retries(retries);
        }
        to.ssl_mode(from.get_ssl_mode())
            .ssl_negotiation(from.get_ssl_negotiation())
            .keepalives(from.get_keepalives())
            .keepalives_idle(from.get_keepalives_idle())
            .channel_binding(from.get_channel_binding())
            .load_balance_hosts(from.get_load_balance_hosts());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_alone_keeps_all_settings() {
        let rest = "user=u password=p dbname=d options='-c x=y' application_name=n
            connect_timeout=3 keepalives_idle=4 keepalives_interval=5 keepalives_count=6
            tcp_user_timeout=7 channel_binding=require load_balance_hosts=random
            target_session_attrs=primary";
        let dsn: Dsn = format!("host=a.example.com,b.example.com port=1,2 {rest}").parse().unwrap();
        assert_eq!(dsn.hosts(), 2);
        let one = dsn.only_host(1);
        let same: Dsn = format!("host=b.example.com port=2 {rest}").parse().unwrap();
        assert_eq!(one.config(), same.config());
        assert_eq!(one.question(), same.question());
        assert_eq!(one.to_string(), "postgres://u@b.example.com:2/d");
    }

    #[test]
    fn a_unix_socket_among_remote_hosts_is_used_as_one() {
        let dsn: Dsn = "host=/tmp,db.example.com user=u".parse().unwrap();
        assert_eq!(dsn.only_host(0).config().get_ssl_mode(), SslMode::Disable);
        assert_eq!(dsn.only_host(1).config().get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn hosts_are_tried_in_their_order_unless_they_share_the_load() {
        let names: Vec<String> = (0..32).map(|n| format!("h{n}.example.com")).collect();
        let text = format!("host={} user=u", names.join(","));
        let dsn: Dsn = text.parse().unwrap();
        let in_order: Vec<usize> = (0..32).collect();
        assert_eq!(dsn.order(), in_order);
        let dsn: Dsn = format!("{text} load_balance_hosts=random").parse().unwrap();
        let mut shuffled = dsn.order();
        assert_ne!(shuffled, in_order);
        shuffled.sort_unstable();
        assert_eq!(shuffled, in_order);
    }

    #[tokio::test]
    async fn a_name_of_this_machine_that_leads_elsewhere_is_not_spoken_to_in_plain_text() {
        let mut dsn: Dsn = "host=localhost user=u".parse().unwrap();
        dsn.config.hostaddr("192.0.2.1".parse().unwrap());
        assert!(matches!(dsn.each_address().await, Err(Error::PlainToRemote { .. })));
    }
}
