//! The text of a connection string: the URL form and the `name=value` form.

use crate::settings::Taken;
use crate::{Dsn, Error, Malformed};
use std::str::FromStr;
use tokio_postgres::Config;

impl FromStr for Dsn {
    type Err = Error;

    /// Reads a connection string.
    ///
    /// Beside what tokio-postgres reads, it knows `sslmode=verify-ca` and
    /// `verify-full`, `sslrootcert`, `sslcert`, `sslkey`, `passfile`,
    /// `target_session_attrs=primary`, `keepalives_count`, and
    /// `tcp_user_timeout` in milliseconds as libpq has it.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let (rest, taken) = if is_url(text)? { split_url(text)? } else { split_pairs(text)? };
        let config =
            rest.parse::<Config>().map_err(|error| Error::Syntax(Malformed::of(&error)))?;
        taken.into_dsn(config)
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
    use crate::Roots;

    fn dsn(text: &str) -> Dsn {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
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
}
