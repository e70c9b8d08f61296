//! A connection string to a [`Dsn`]: the URL form and the `key=value` form.

use crate::{Dsn, Error, Roots};
use std::str::FromStr;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// The settings that tokio-postgres does not understand, or not as libpq does.
#[derive(Default)]
struct Taken {
    ssl_mode: Option<String>,
    root_cert: Option<String>,
}

impl Taken {
    /// Keeps the setting and returns true if it is one of ours.
    fn take(&mut self, name: &str, value: &str) -> bool {
        match name {
            "sslmode" => self.ssl_mode = Some(value.to_owned()),
            "sslrootcert" => self.root_cert = Some(value.to_owned()),
            _ => return false,
        }
        true
    }
}

impl FromStr for Dsn {
    type Err = Error;

    /// Reads a connection string.
    ///
    /// Beside what tokio-postgres reads, it knows `sslmode=verify-ca` and
    /// `verify-full`, and `sslrootcert`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (rest, taken) = if text.contains("://") {
            split_url(text)
        } else {
            split_pairs(text)
        };
        let config = rest.parse::<Config>().map_err(Error::Syntax)?;
        if config.get_hosts().is_empty() {
            return Err(Error::NoHost);
        }
        let roots = match taken.root_cert.as_deref() {
            None | Some("system") => Roots::System,
            Some(path) => Roots::File(path.into()),
        };
        let mut dsn = Self { config, roots };
        let mode = ssl_mode(&dsn, taken.ssl_mode.as_deref())?;
        dsn.config.ssl_mode(mode);
        Ok(dsn)
    }
}

fn ssl_mode(dsn: &Dsn, named: Option<&str>) -> Result<SslMode, Error> {
    match (named, dsn.is_local()) {
        (Some("disable"), false) => Err(Error::PlainToRemote {
            host: dsn.to_string(),
        }),
        // Verified in full: what libpq's weaker modes would let pass is refused.
        (None | Some("prefer" | "require" | "verify-ca" | "verify-full"), false)
        | (Some("require" | "verify-ca" | "verify-full"), true) => Ok(SslMode::Require),
        // Nothing leaves the machine.
        (None | Some("disable" | "prefer"), true) => Ok(SslMode::Disable),
        (Some(other), _) => Err(Error::Setting {
            setting: "sslmode",
            expected: "disable, prefer, require, verify-ca or verify-full",
            found: other.to_owned(),
        }),
    }
}

fn split_url(text: &str) -> (String, Taken) {
    let mut taken = Taken::default();
    let Some((base, query)) = text.split_once('?') else {
        return (text.to_owned(), taken);
    };
    let others: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            !taken.take(name, &value.replace("%2F", "/").replace("%2f", "/"))
        })
        .collect();
    let rest = if others.is_empty() {
        base.to_owned()
    } else {
        format!("{base}?{}", others.join("&"))
    };
    (rest, taken)
}

/// Splits at white space outside single quotes; ours are taken, the rest is kept as it is.
fn split_pairs(text: &str) -> (String, Taken) {
    let mut taken = Taken::default();
    let mut quoted = false;
    let mut escaped = false;
    let words = text.split(|c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => quoted = !quoted,
            _ => {}
        }
        c.is_whitespace() && !quoted
    });
    let words: Vec<&str> = words
        .filter(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            !taken.take(name, value.trim_matches('\''))
        })
        .collect();
    (words.join(" "), taken)
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
            (
                "postgres://u@db.example.com/d?sslmode=prefer",
                SslMode::Require,
            ),
            (
                "postgres://u@db.example.com/d?sslmode=verify-full&connect_timeout=3",
                SslMode::Require,
            ),
            (
                "host=db.example.com user=u sslmode=verify-ca",
                SslMode::Require,
            ),
            ("postgres://u@127.0.0.1/d", SslMode::Disable),
            ("postgres://u@localhost/d?sslmode=require", SslMode::Require),
            ("host=/var/run/postgresql user=u", SslMode::Disable),
        ] {
            assert_eq!(dsn(text).config().get_ssl_mode(), mode, "{text}");
        }
    }

    #[test]
    fn plain_text_to_a_remote_host_is_refused_with_the_cure() {
        let error = "postgres://u:secret@db.example.com/d?sslmode=disable"
            .parse::<Dsn>()
            .unwrap_err();
        assert!(matches!(error, Error::PlainToRemote { .. }));
        assert!(error.to_string().contains("sslrootcert") && !error.to_string().contains("secret"));
    }

    #[test]
    fn the_root_file_is_taken_out_in_both_forms() {
        let url = dsn("postgres://u@h/d?sslrootcert=%2Fetc%2Frds.pem&application_name=a");
        assert_eq!(url.roots, Roots::File("/etc/rds.pem".into()));
        assert_eq!(url.config().get_application_name(), Some("a"));
        let pairs = dsn("host=h user=u password='a b' sslrootcert='/etc/my ca.pem'");
        assert_eq!(pairs.roots, Roots::File("/etc/my ca.pem".into()));
        assert_eq!(pairs.config().get_password(), Some(&b"a b"[..]));
    }

    #[test]
    fn no_text_form_shows_the_password() {
        let dsn = dsn("postgres://u:hunter2@127.0.0.1:5433/shop");
        assert_eq!(dsn.to_string(), "postgres://u@127.0.0.1:5433/shop");
        assert!(!format!("{dsn:?}").contains("hunter2"));
        for wrong in [
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@/d",
            "nonsense hunter2",
        ] {
            let error = wrong.parse::<Dsn>().unwrap_err();
            let shown = format!(
                "{error} {error:?} {:?}",
                std::error::Error::source(&error).map(ToString::to_string)
            );
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn an_unknown_mode_is_named() {
        let error = "postgres://u@h/d?sslmode=allow".parse::<Dsn>().unwrap_err();
        assert!(error.to_string().contains("\"allow\""), "{error}");
    }
}
