//! The hosts of a connection string, one by one.

use crate::Dsn;
use std::net::IpAddr;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

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

    /// The same with that host alone; all of it where there is no such host.
    #[must_use]
    pub fn only_host(&self, host: usize) -> Self {
        let Some(name) = self.config.get_hosts().get(host) else {
            return self.clone();
        };
        let mut one = Config::new();
        match name {
            Host::Tcp(name) => one.host(name),
            Host::Unix(folder) => one.host_path(folder),
        };
        one.port(self.port(host));
        if let Some(address) = self.address(host) {
            one.hostaddr(address);
        }
        self.copy_settings(&mut one);
        Self { config: one, ..self.clone() }
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
            .target_session_attrs(from.get_target_session_attrs())
            .channel_binding(from.get_channel_binding())
            .load_balance_hosts(from.get_load_balance_hosts());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::TargetSessionAttrs;

    #[test]
    fn a_host_alone_keeps_all_settings() {
        let text =
            "host=a.example.com,b.example.com port=1,2 user=u password=p dbname=d options='-c x=y'
            application_name=n connect_timeout=3 keepalives_idle=4 channel_binding=require";
        let dsn: Dsn = text.parse().unwrap();
        assert_eq!(dsn.hosts(), 2);
        let one = dsn.only_host(1);
        let same = "host=b.example.com port=2 user=u password=p dbname=d options='-c x=y'
            application_name=n connect_timeout=3 keepalives_idle=4 channel_binding=require
            target_session_attrs=read-write";
        assert_eq!(one.config(), same.parse::<Dsn>().unwrap().config());
        assert_eq!(one.to_string(), "postgres://u@b.example.com:2/d");
        assert_eq!(dsn.config().get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }
}
