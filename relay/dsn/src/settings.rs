//! What the settings of a connection string mean: those that tokio-postgres does not
//! know, or not as libpq does, and the defaults of this house.

use crate::password::Passwords;
use crate::{ClientCertificate, Dsn, Error, Roots, Target};
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};

/// How long a connection may be silent before the other side is asked whether it
/// is there; tokio-postgres would wait two hours for a server that is gone.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// What libpq knows and this does not: better said than ignored.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("sslpassword", "keys that are encrypted are"),
    ("sslcrl", "revocation lists are"),
    ("sslcrldir", "revocation lists are"),
    ("service", "service files are"),
];

/// The settings that are taken out before tokio-postgres reads the rest.
#[derive(Default)]
pub(crate) struct Taken {
    ssl_mode: Option<String>,
    root_cert: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    pass_file: Option<String>,
    session_attrs: Option<String>,
    keepalives_count: Option<String>,
    tcp_user_timeout: Option<String>,
}

impl Taken {
    /// Keeps the setting and returns true if it is one of ours.
    pub(crate) fn take(&mut self, name: &str, value: &str) -> Result<bool, Error> {
        let place = match name {
            "sslmode" => &mut self.ssl_mode,
            "sslrootcert" => &mut self.root_cert,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            "passfile" => &mut self.pass_file,
            "target_session_attrs" => &mut self.session_attrs,
            "keepalives_count" => &mut self.keepalives_count,
            "tcp_user_timeout" => &mut self.tcp_user_timeout,
            _ => {
                return match UNSUPPORTED.into_iter().find(|(known, _)| *known == name) {
                    Some((setting, what)) => Err(Error::Unsupported { setting, what }),
                    None => Ok(false),
                };
            }
        };
        *place = Some(value.to_owned());
        Ok(true)
    }

    /// Puts them together with what tokio-postgres has read.
    pub(crate) fn into_dsn(self, config: Config) -> Result<Dsn, Error> {
        if config.get_hosts().is_empty() {
            return Err(Error::NoHost);
        }
        let roots = match self.root_cert.as_deref() {
            None | Some("system") => Roots::System,
            Some(path) => Roots::File(path.into()),
        };
        let client_certificate = self.client_certificate()?;
        let passwords =
            Passwords { lines: self.pass_file.as_deref().map(Into::into), ..Passwords::default() };
        let (target, any_name) = (Target::Any, false);
        let target_is_named = self.session_attrs.is_some();
        let mut dsn = Dsn {
            config,
            roots,
            any_name,
            client_certificate,
            target,
            target_is_named,
            builtin_names: false,
            passwords,
        };
        counted(&dsn)?;
        let mode = ssl_mode(&dsn, self.ssl_mode.as_deref())?;
        if dsn.config.get_ssl_negotiation() == SslNegotiation::Direct && mode != SslMode::Require {
            return Err(Error::Setting {
                setting: "sslmode",
                expected: "require, verify-ca or verify-full beside sslnegotiation=direct",
                found: self.ssl_mode.unwrap_or_else(|| "none".to_owned()),
            });
        }
        dsn.any_name = self.ssl_mode.as_deref() == Some("verify-ca") && dsn.is_local();
        dsn.config.ssl_mode(mode);
        dsn.target = target_of(&dsn, self.session_attrs.as_deref())?;
        // It is asked for here, after the login, as tokio-postgres knows no primary.
        dsn.config.target_session_attrs(TargetSessionAttrs::Any);
        self.keep_alive(&mut dsn.config)?;
        Ok(dsn)
    }

    fn client_certificate(&self) -> Result<Option<ClientCertificate>, Error> {
        match (&self.certificate, &self.key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                Ok(Some(ClientCertificate { certificate: certificate.into(), key: key.into() }))
            }
            (Some(_), None) => Err(Error::HalfCertificate { there: "sslcert", missing: "sslkey" }),
            (None, Some(_)) => Err(Error::HalfCertificate { there: "sslkey", missing: "sslcert" }),
        }
    }

    fn keep_alive(&self, config: &mut Config) -> Result<(), Error> {
        if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
            config.keepalives_idle(KEEPALIVE_IDLE);
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_interval(KEEPALIVE_INTERVAL);
        }
        // libpq's name for it; tokio-postgres has another.
        if let Some(count) = number("keepalives_count", self.keepalives_count.as_deref())? {
            config.keepalives_retries(count);
        }
        if config.get_keepalives_retries().is_none() {
            config.keepalives_retries(KEEPALIVE_RETRIES);
        }
        // In milliseconds, as libpq has it; tokio-postgres would take them for seconds.
        match number("tcp_user_timeout", self.tcp_user_timeout.as_deref())? {
            None | Some(0) => {}
            Some(milliseconds) => {
                config.tcp_user_timeout(Duration::from_millis(milliseconds.into()));
            }
        }
        Ok(())
    }
}

fn number(setting: &'static str, text: Option<&str>) -> Result<Option<u32>, Error> {
    let read = |text: &str| {
        let found = text.to_owned();
        text.parse().map_err(|_| Error::Setting { setting, expected: "a number", found })
    };
    text.map(read).transpose()
}

/// One port for all hosts or each its own; each its own address, or none.
fn counted(dsn: &Dsn) -> Result<(), Error> {
    let (hosts, ports) = (dsn.hosts(), dsn.config.get_ports().len());
    let wrong = |setting, expected, found: usize| {
        Err(Error::Setting { setting, expected, found: format!("{found} for {hosts} hosts") })
    };
    match dsn.config.get_hostaddrs().len() {
        0 => {}
        addresses if addresses == hosts => {}
        addresses => return wrong("hostaddr", "one for each host", addresses),
    }
    if ports > 1 && ports != hosts {
        return wrong("port", "one for all hosts, or one for each", ports);
    }
    Ok(())
}

/// A relay writes its dead letters and a consumer its read model: of several hosts it is the
/// one that can be written to that is meant, unless the string says otherwise.
fn target_of(dsn: &Dsn, named: Option<&str>) -> Result<Target, Error> {
    match named {
        None if dsn.hosts() > 1 => Ok(Target::ReadWrite),
        None | Some("any") => Ok(Target::Any),
        Some("read-write") => Ok(Target::ReadWrite),
        Some("primary") => Ok(Target::Primary),
        Some(other) => Err(Error::Setting {
            setting: "target_session_attrs",
            expected: "read-write, primary or any",
            found: other.to_owned(),
        }),
    }
}

fn ssl_mode(dsn: &Dsn, named: Option<&str>) -> Result<SslMode, Error> {
    let mut hosts = dsn.config.get_hosts().iter();
    let only_sockets = hosts.all(|host| matches!(host, Host::Unix(_)));
    match (named, dsn.is_local()) {
        // There is no TLS on a unix socket; libpq passes over the mode there too.
        (Some("prefer" | "require" | "verify-ca" | "verify-full"), true) if only_sockets => {
            Ok(SslMode::Disable)
        }
        (Some("disable"), false) => Err(Error::PlainToRemote { host: dsn.to_string() }),
        // Verified in full: what libpq's weaker modes would let pass is refused.
        (None | Some("prefer" | "require" | "verify-ca" | "verify-full"), false)
        | (Some("require" | "verify-ca" | "verify-full"), true) => Ok(SslMode::Require),
        // Nothing leaves the machine.
        (None | Some("disable"), true) => Ok(SslMode::Disable),
        (Some("prefer"), true) => Ok(SslMode::Prefer),
        (Some(other), _) => Err(Error::Setting {
            setting: "sslmode",
            expected: "disable, prefer, require, verify-ca or verify-full",
            found: other.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dsn(text: &str) -> Dsn {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_remote_host_always_has_tls_and_a_local_one_only_when_asked() {
        for (text, mode) in [
            ("postgres://u@db.example.com/d", SslMode::Require),
            ("postgres://u@db.example.com/d?sslmode=prefer", SslMode::Require),
            (
                "postgres://u@db.example.com/d?sslmode=verify-full&connect_timeout=3",
                SslMode::Require,
            ),
            ("host=db.example.com user=u sslmode=verify-ca", SslMode::Require),
            ("postgres://u@127.0.0.1/d", SslMode::Disable),
            ("postgres://u@127.0.0.1/d?sslmode=prefer", SslMode::Prefer),
            ("host=/tmp user=u sslmode=prefer", SslMode::Disable),
            ("postgres://u@localhost/d?sslmode=require", SslMode::Require),
            ("host=/var/run/postgresql user=u", SslMode::Disable),
            ("host=/tmp user=u sslmode=verify-full", SslMode::Disable),
            ("host=localhost,db.example.com user=u", SslMode::Require),
            ("host=localhost hostaddr=192.0.2.1 user=u", SslMode::Require),
            ("postgres://u@[::1]/d", SslMode::Disable),
            ("postgres://u@db.example.com/d?ssl%6dode=prefer", SslMode::Require),
        ] {
            assert_eq!(dsn(text).config().get_ssl_mode(), mode, "{text}");
        }
    }

    #[test]
    fn plain_text_to_a_remote_host_is_refused_with_the_cure() {
        let error =
            "postgres://u:secret@db.example.com/d?sslmode=disable".parse::<Dsn>().unwrap_err();
        assert!(matches!(error, Error::PlainToRemote { .. }));
        assert!(error.to_string().contains("sslrootcert") && !error.to_string().contains("secret"));
    }

    #[test]
    fn an_unknown_mode_is_named() {
        let error = "postgres://u@h/d?sslmode=allow".parse::<Dsn>().unwrap_err();
        assert!(error.to_string().contains("\"allow\""), "{error}");
    }

    #[test]
    fn what_libpq_knows_and_this_does_not_is_said() {
        for (text, named) in
            [("postgres://u@h/d?sslcrl=c.pem", "sslcrl"), ("host=h service=shop", "service")]
        {
            let error = text.parse::<Dsn>().unwrap_err();
            assert!(matches!(error, Error::Unsupported { setting, .. } if setting == named));
        }
    }

    #[test]
    fn half_a_client_certificate_and_a_session_that_cannot_write_are_refused() {
        let read = dsn("postgres://u@h/d?sslcert=c.pem&sslkey=k.pem&passfile=p");
        assert_eq!(read.client_certificate.unwrap().key, std::path::Path::new("k.pem"));
        assert_eq!(read.passwords.lines.unwrap(), std::path::Path::new("p"));
        let error = "host=h sslcert=c.pem".parse::<Dsn>().unwrap_err();
        assert!(error.to_string().contains("sslkey"), "{error}");
        let error = "host=h target_session_attrs=standby".parse::<Dsn>().unwrap_err();
        assert!(error.to_string().contains("\"standby\""), "{error}");
    }

    #[test]
    fn a_server_that_is_gone_is_noticed_within_two_minutes() {
        let config = dsn("postgres://u@h/d").config().clone();
        let noticed = config.get_keepalives_idle()
            + config.get_keepalives_interval().unwrap() * config.get_keepalives_retries().unwrap();
        assert!(config.get_keepalives() && noticed < Duration::from_secs(120));
        let config = dsn("postgres://u@h/d?keepalives_idle=7").config().clone();
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7));
    }

    #[test]
    fn times_and_counts_are_those_of_libpq() {
        let read = dsn("postgres://u@h/d?tcp_user_timeout=30000&keepalives_count=9");
        assert_eq!(read.config().get_tcp_user_timeout(), Some(&Duration::from_secs(30)));
        assert_eq!(read.config().get_keepalives_retries(), Some(9));
        assert_eq!(dsn("host=h tcp_user_timeout=0").config().get_tcp_user_timeout(), None);
        let error = "host=h tcp_user_timeout=soon".parse::<Dsn>().unwrap_err();
        assert!(error.to_string().contains("tcp_user_timeout to be a number"), "{error}");
    }

    #[test]
    fn addresses_and_ports_are_one_for_each_host() {
        for (text, setting) in [
            ("host=a,b hostaddr=127.0.0.1", "hostaddr"),
            ("host=a hostaddr=127.0.0.1,127.0.0.2", "hostaddr"),
            ("host=a,b,c port=1,2", "port"),
        ] {
            let error = text.parse::<Dsn>().unwrap_err();
            assert!(matches!(error, Error::Setting { setting: s, .. } if s == setting), "{error}");
        }
        dsn("host=a,b port=1");
        dsn("host=a,b hostaddr=127.0.0.1,::1 port=1,2");
    }

    #[test]
    fn tls_from_the_first_byte_needs_tls() {
        let error = "host=/tmp sslnegotiation=direct".parse::<Dsn>().unwrap_err();
        assert!(error.to_string().contains("sslnegotiation=direct"), "{error}");
        dsn("host=h sslnegotiation=direct");
        dsn("host=localhost sslnegotiation=direct sslmode=verify-full");
    }

    #[test]
    fn of_several_hosts_one_that_takes_writes_is_meant() {
        for (text, question) in [
            ("host=a", None),
            ("host=a,b", Some("show transaction_read_only")),
            ("host=a,b target_session_attrs=any", None),
            ("host=a target_session_attrs=read-write", Some("show transaction_read_only")),
            ("host=a,b target_session_attrs=primary", Some("show in_hot_standby")),
        ] {
            assert_eq!(dsn(text).question(), question, "{text}");
        }
        let primary = dsn("host=a target_session_attrs=primary");
        assert!(primary.answered(Some("off")).is_ok());
        assert!(matches!(primary.answered(Some("on")), Err(Error::Standby { .. })));
        assert!(matches!(primary.answered(None), Err(Error::Standby { .. })));
    }
}
