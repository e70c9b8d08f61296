//! A connection string to a [`Dsn`]: the URL form and the `key=value` form.

use crate::{ClientCertificate, Dsn, Error, Malformed, Roots};
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

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

/// The settings that tokio-postgres does not understand, or not as libpq does.
#[derive(Default)]
struct Taken {
    ssl_mode: Option<String>,
    root_cert: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    pass_file: Option<String>,
    session_attrs: Option<String>,
}

impl Taken {
    /// Keeps the setting and returns true if it is one of ours.
    fn take(&mut self, name: &str, value: &str) -> Result<bool, Error> {
        match name {
            "sslmode" => self.ssl_mode = Some(value.to_owned()),
            "sslrootcert" => self.root_cert = Some(value.to_owned()),
            "sslcert" => self.certificate = Some(value.to_owned()),
            "sslkey" => self.key = Some(value.to_owned()),
            "passfile" => self.pass_file = Some(value.to_owned()),
            "target_session_attrs" => self.session_attrs = Some(value.to_owned()),
            _ => {
                return match UNSUPPORTED.into_iter().find(|(known, _)| *known == name) {
                    Some((setting, what)) => Err(Error::Unsupported { setting, what }),
                    None => Ok(false),
                };
            }
        }
        Ok(true)
    }
}

impl FromStr for Dsn {
    type Err = Error;

    /// Reads a connection string.
    ///
    /// Beside what tokio-postgres reads, it knows `sslmode=verify-ca` and
    /// `verify-full`, `sslrootcert`, `sslcert`, `sslkey`, `passfile` and
    /// `target_session_attrs=primary`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let (rest, taken) = if is_url(text)? { split_url(text)? } else { split_pairs(text)? };
        let config =
            rest.parse::<Config>().map_err(|error| Error::Syntax(Malformed::of(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(Error::NoHost);
        }
        let roots = match taken.root_cert.as_deref() {
            None | Some("system") => Roots::System,
            Some(path) => Roots::File(path.into()),
        };
        let client_certificate = client_certificate(&taken)?;
        let pass_file = taken.pass_file.as_deref().map(Into::into);
        let any_name = false;
        let mut dsn = Self { config, roots, any_name, client_certificate, pass_file, mint: None };
        let mode = ssl_mode(&dsn, taken.ssl_mode.as_deref())?;
        dsn.any_name = taken.ssl_mode.as_deref() == Some("verify-ca") && dsn.is_local();
        dsn.config.ssl_mode(mode);
        let attrs = session_attrs(&dsn, taken.session_attrs.as_deref())?;
        dsn.config.target_session_attrs(attrs);
        keep_alive(&mut dsn.config);
        Ok(dsn)
    }
}

fn client_certificate(taken: &Taken) -> Result<Option<ClientCertificate>, Error> {
    match (&taken.certificate, &taken.key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            Ok(Some(ClientCertificate { certificate: certificate.into(), key: key.into() }))
        }
        (Some(_), None) => Err(Error::HalfCertificate { there: "sslcert", missing: "sslkey" }),
        (None, Some(_)) => Err(Error::HalfCertificate { there: "sslkey", missing: "sslcert" }),
    }
}

/// A relay writes its dead letters and a consumer its read model: of several hosts it is the
/// one that can be written to that is meant, unless the string says otherwise.
fn session_attrs(dsn: &Dsn, named: Option<&str>) -> Result<TargetSessionAttrs, Error> {
    match named {
        None if dsn.hosts() > 1 => Ok(TargetSessionAttrs::ReadWrite),
        None | Some("any") => Ok(TargetSessionAttrs::Any),
        Some("read-write" | "primary") => Ok(TargetSessionAttrs::ReadWrite),
        Some(other) => Err(Error::Setting {
            setting: "target_session_attrs",
            expected: "read-write, primary or any",
            found: other.to_owned(),
        }),
    }
}

fn keep_alive(config: &mut Config) {
    if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
}

fn ssl_mode(dsn: &Dsn, named: Option<&str>) -> Result<SslMode, Error> {
    let mut hosts = dsn.config.get_hosts().iter();
    let only_sockets = hosts.all(|host| matches!(host, Host::Unix(_)));
    match (named, dsn.is_local()) {
        // There is no TLS on a unix socket; libpq passes over the mode there too.
        (Some("require" | "verify-ca" | "verify-full"), true) if only_sockets => {
            Ok(SslMode::Disable)
        }
        (Some("disable"), false) => Err(Error::PlainToRemote { host: dsn.to_string() }),
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

/// Whether it is a URL, of a scheme that names Postgres.
fn is_url(text: &str) -> Result<bool, Error> {
    match text.split_once("://") {
        Some(("postgres" | "postgresql", _)) => Ok(true),
        // Read as pairs it would be refused by its first word: all of it, password and all.
        Some((scheme, _)) if !scheme.contains(|c: char| c == '=' || c.is_whitespace()) => {
            Err(Error::Syntax(Malformed::Scheme))
        }
        Some(_) | None => Ok(false),
    }
}

fn split_url(text: &str) -> Result<(String, Taken), Error> {
    let mut taken = Taken::default();
    let behind_login = text.find('@').map_or(0, |at| at.saturating_add(1));
    let (login, address) = text.split_at(behind_login);
    let (place, query) = match address.split_once('?') {
        Some((place, query)) => (place, query),
        None => (address, ""),
    };
    // The end of a password would be taken for a host, and be shown as one.
    if behind_login > 0 && place.contains('@') {
        return Err(Error::Syntax(Malformed::At));
    }
    let mut rest = format!("{login}{place}");
    let mut mark = '?';
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !taken.take(&percent_decoded(name), &percent_decoded(value))? {
            rest.push(mark);
            rest.push_str(pair);
            mark = '&';
        }
    }
    Ok((rest, taken))
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (code, part.get(2..)) {
            (Some(byte), Some(rest)) => {
                bytes.push(byte);
                bytes.extend(rest.as_bytes());
            }
            _ => {
                bytes.push(b'%');
                bytes.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads `name = value` pairs by libpq's rules; ours are taken, the rest is written again.
fn split_pairs(text: &str) -> Result<(String, Taken), Error> {
    let (mut taken, mut kept, mut rest) = (Taken::default(), String::new(), text);
    while !rest.is_empty() {
        let shape = || Error::Syntax(Malformed::Shape);
        let (name, behind) = rest.split_once('=').ok_or_else(shape)?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(shape());
        }
        let (value, behind) = pair_value(behind.trim_start()).ok_or_else(shape)?;
        if !taken.take(name, &value)? {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            kept.push_str(&format!("{name}='{value}' "));
        }
        rest = behind.trim_start();
    }
    Ok((kept, taken))
}

/// The value that the text begins with, and what stands behind it; none if a quote stays open.
fn pair_value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(behind) => (true, behind),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        let behind = chars.as_str();
        match chars.next() {
            Some('\\') => value.extend(chars.next()),
            Some('\'') if quoted => return Some((value, chars.as_str())),
            Some(c) if !quoted && c.is_whitespace() => return Some((value, behind)),
            Some(c) => value.push(c),
            None => return (!quoted).then_some((value, "")),
        }
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
            "postgres://u:hun@hunter2@h/d",
            "postgres://u:hun@12/hunter2@h/d",
            "postgresql+ssl://u:hunter2@h/d?sslmode=require",
            "postgres://u:hunter2@h/d?sslkey=a&sslpassword=hunter2",
            "postgres://u:hunter2@h/d?sslmode=hunter",
            "nonsense hunter2",
            "nonsense=hunter2",
            "host=h password='hunter2",
            "postgres:/u:hunter2@h/d?x=y",
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
        assert_eq!(read.pass_file.unwrap(), std::path::Path::new("p"));
        let error = "host=h sslcert=c.pem".parse::<Dsn>().unwrap_err();
        assert!(error.to_string().contains("sslkey"), "{error}");
        let error = "host=h target_session_attrs=standby".parse::<Dsn>().unwrap_err();
        assert!(error.to_string().contains("\"standby\""), "{error}");
    }

    #[test]
    fn a_setting_that_no_one_knows_is_named() {
        let error = "postgres://u@h/d?pgbouncer=true".parse::<Dsn>().unwrap_err();
        let Error::Syntax(Malformed::Unknown { name }) = error else {
            panic!("expected an unknown setting, found {error:?}");
        };
        assert_eq!(name, "pgbouncer");
    }

    #[test]
    fn pairs_are_read_by_the_rules_of_libpq() {
        let read =
            dsn("  host = h user=a\\ b\n password='it\\'s \\\\ a://b' sslmode = 'verify-full' ");
        assert_eq!(read.user(), "a b");
        assert_eq!(read.config().get_password(), Some(&b"it's \\ a://b"[..]));
        for wrong in ["host", "host h=1", "=h", "host='h"] {
            let error = wrong.parse::<Dsn>().unwrap_err();
            assert!(matches!(error, Error::Syntax(Malformed::Shape)), "{wrong}");
        }
    }

    #[test]
    fn a_password_in_a_url_may_hold_what_is_not_an_at_sign() {
        let read = dsn("postgres://u:p?s/s%40%3A=&@db.example.com/d?sslmode=verify-full\n");
        assert_eq!(read.config().get_password(), Some(&b"p?s/s@:=&"[..]));
        assert_eq!(read.to_string(), "postgres://u@db.example.com:5432/d");
        let error = "postgres://u:p@ss@h/d".parse::<Dsn>().unwrap_err();
        assert!(matches!(error, Error::Syntax(Malformed::At)));
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
}
