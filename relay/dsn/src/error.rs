//! What can be wrong with a connection string or a connection.

use crate::{Dsn, causes};
use std::io;
use std::path::PathBuf;
use tokio_postgres::error::SqlState;

/// Why there is no connection. No variant shows a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The string is no connection string.
    #[error(
        "expected a connection string such as postgres://USER:PASSWORD@HOST:5432/DATABASE, found one that cannot be read"
    )]
    Syntax(#[source] Malformed),
    /// No host is named.
    #[error(
        "expected a host in the connection string, found none; write postgres://USER@HOST:5432/DATABASE"
    )]
    NoHost,
    /// A setting has a value that is not known.
    #[error("expected {setting} to be {expected}, found {found:?}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A setting of libpq that is not known here.
    #[error("expected no {setting} in the connection string: {what} not supported yet")]
    Unsupported {
        /// The setting's name.
        setting: &'static str,
        /// What it is for.
        what: &'static str,
    },
    /// TLS is switched off for a host that is not local.
    #[error(
        "expected TLS to {host}, found sslmode=disable; a host that is not local is only reached over TLS: remove sslmode, and name the server's CA with sslrootcert if it is not among the system's"
    )]
    PlainToRemote {
        /// The host.
        host: String,
    },
    /// The file of trusted certificates cannot be used.
    #[error("expected certificates in PEM form in {path} (sslrootcert)")]
    RootFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The client's certificate or key cannot be used.
    #[error("expected a PEM certificate (sslcert) or a PEM key (sslkey) in {path}")]
    ClientCertificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("expected {missing} beside {there} in the connection string, found none")]
    HalfCertificate {
        /// What is there.
        there: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// The password file cannot be used.
    #[error("expected a password in the file {path}")]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others may read a file that holds a secret.
    #[error(
        "expected the {what} {path} to be its owner's alone, found that others may read it; run chmod 600 {path}"
    )]
    OpenFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A token would go over a connection that is not encrypted.
    #[error(
        "expected TLS to {dsn}, found none; a login token is a password in clear text: set sslmode=verify-full"
    )]
    TokenWithoutTls {
        /// The server.
        dsn: String,
    },
    /// No token could be had.
    #[error("no login token for {dsn}; check the credentials and the region")]
    Mint {
        /// The server.
        dsn: String,
        /// Why not.
        #[source]
        source: crate::MintError,
    },
    /// The host's name has no address, or it cannot be asked for.
    #[error("no address for the host of {dsn}; check its name")]
    Name {
        /// The server, without the password.
        dsn: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The server takes no writes: a standby, or one that was set to read only.
    #[error(
        "expected {dsn} to take writes, found it read-only; a standby becomes the primary after a failover (target_session_attrs=any takes it as it is)"
    )]
    ReadOnly {
        /// The server, without the password.
        dsn: String,
    },
    /// The server is a standby.
    #[error(
        "expected {dsn} to be the primary, found a standby; it becomes the primary after a failover (target_session_attrs=any takes it as it is)"
    )]
    Standby {
        /// The server, without the password.
        dsn: String,
    },
    /// The server does not take the session's search_path, because a pooler stands between.
    #[error(
        "expected {dsn} to be the server itself, found that it does not take the search_path of a session: it leads to a pooler (pgbouncer, RDS Proxy) or to something else that has no replication; name the server itself"
    )]
    Pooler {
        /// The server, without the password.
        dsn: String,
    },
    /// None of several servers is to be had.
    #[error("none of the servers is to be had:{}", each(errors))]
    Servers {
        /// Why not, of each.
        errors: Vec<Error>,
    },
    /// No certificate authority is known.
    #[error(
        "expected certificate authorities to verify the server with, found none; install ca-certificates or set sslrootcert"
    )]
    NoRoots,
    /// rustls refuses the set-up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The server cannot be reached in time.
    #[error(
        "cannot reach {dsn}: no answer within {seconds} s; check the host, the port and the firewall"
    )]
    TimeOut {
        /// The server, without the password.
        dsn: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Nothing answers there, or the host's name is not known.
    #[error("cannot reach {dsn}; check that the server runs, and the host and the port")]
    Unreachable {
        /// The server, without the password.
        dsn: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server has no TLS, or its certificate is not trusted.
    #[error(
        "no TLS with {dsn}; check that the server has TLS on and that its certificate names this host, and name its CA with sslrootcert if it is not among the system's"
    )]
    Handshake {
        /// The server, without the password.
        dsn: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The password is wrong or missing.
    #[error(
        "{dsn} refused the login of {user}: {message}; check the user and the password in the connection string"
    )]
    Login {
        /// The server, without the password.
        dsn: String,
        /// The role.
        user: String,
        /// The server's words.
        message: String,
    },
    /// The database does not exist.
    #[error(
        "{dsn} has no database {database:?}; create it, or name another at the end of the connection string"
    )]
    NoDatabase {
        /// The server, without the password.
        dsn: String,
        /// The database.
        database: String,
    },
    /// The connection failed in another way.
    #[error("cannot connect to {dsn}{}", said(source))]
    Connect {
        /// The server, without the password.
        dsn: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// What makes a connection string unreadable. It repeats nothing but a setting's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// It is neither of the two forms.
    #[error("it is neither a URL nor a row of name=value pairs")]
    Shape,
    /// It is a URL of something else.
    #[error("a URL of Postgres begins with postgres:// or postgresql://")]
    Scheme,
    /// It has an `@` too many.
    #[error("an @ in the user or in the password is written %40")]
    At,
    /// A setting is not known.
    #[error("the setting {name} is not known")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A setting has a value that it cannot have.
    #[error("the value of {name} cannot be read")]
    Value {
        /// Its name.
        name: String,
    },
}

impl Malformed {
    /// What tokio-postgres found, without its words: they repeat parts of the string.
    pub(crate) fn of(error: &tokio_postgres::Error) -> Self {
        let said = std::error::Error::source(error).map(ToString::to_string);
        let said = said.unwrap_or_default();
        let name = said.split('`').nth(1).unwrap_or_default().to_owned();
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        match is_name {
            true if said.starts_with("unknown option") => Self::Unknown { name },
            true if said.starts_with("invalid value") => Self::Value { name },
            _ => Self::Shape,
        }
    }
}

/// The server's own words, where it said something.
fn said(source: &tokio_postgres::Error) -> String {
    source.as_db_error().map(|e| format!(": {}", e.message())).unwrap_or_default()
}

/// Each error with its causes, in a line of its own.
pub fn each<E: std::error::Error + 'static>(errors: &[E]) -> String {
    let mut said = String::new();
    for error in errors {
        said.push_str(&format!("\n  {}", causes(error)));
    }
    said
}

impl Error {
    /// One error of all that was tried.
    pub(crate) fn of_each(mut errors: Vec<Self>) -> Self {
        match (errors.len(), errors.pop()) {
            (1, Some(error)) => error,
            (_, None) => Self::NoHost,
            (_, Some(last)) => {
                errors.push(last);
                Self::Servers { errors }
            }
        }
    }

    pub(crate) fn is_no_tls(&self) -> bool {
        matches!(self, Self::Handshake { .. })
    }

    /// Whether the server refused the password, or there is none to show it.
    #[must_use]
    pub fn is_login(&self) -> bool {
        match self {
            Self::Servers { errors } => errors.iter().any(Self::is_login),
            Self::Login { .. } | Self::PasswordFile { .. } | Self::OpenFile { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn connect(dsn: &Dsn, source: tokio_postgres::Error) -> Self {
        let login = |message: &str| Self::Login {
            dsn: dsn.to_string(),
            user: dsn.user().to_owned(),
            message: message.to_owned(),
        };
        let place = dsn.to_string();
        if let Some(error) = source.as_db_error() {
            return match error.code() {
                &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                    login(error.message())
                }
                // "unsupported startup parameter: options", as pgbouncer says it.
                &SqlState::PROTOCOL_VIOLATION if error.message().contains("startup parameter") => {
                    Self::Pooler { dsn: place }
                }
                &SqlState::INVALID_CATALOG_NAME => {
                    Self::NoDatabase { dsn: place, database: dsn.database().to_owned() }
                }
                _ => Self::Connect { dsn: place, source },
            };
        }
        // tokio-postgres keeps the kind of its error to itself: its words tell, and
        // `each_failure_has_its_own_error` notices when they change.
        let cause = std::error::Error::source(&source).map(ToString::to_string);
        match (source.to_string().as_str(), cause.as_deref()) {
            (_, Some("password missing")) => {
                login("a password is needed, and the connection string has none")
            }
            ("error performing TLS handshake", _) => Self::Handshake { dsn: place, source },
            ("error connecting to server", _) => Self::Unreachable { dsn: place, source },
            _ => Self::Connect { dsn: place, source },
        }
    }

    /// Whether a later try could go well without a change of the configuration.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            // A certificate is renewed and a name comes to be known on the other side.
            Self::TimeOut { .. }
            | Self::Unreachable { .. }
            | Self::Handshake { .. }
            | Self::Mint { .. }
            | Self::Name { .. }
            | Self::ReadOnly { .. }
            | Self::Standby { .. }
            | Self::Connect { .. } => true,
            // One that may come back is worth waiting for.
            Self::Servers { errors } => errors.iter().any(Self::is_transient),
            Self::Syntax(_)
            | Self::NoHost
            | Self::Setting { .. }
            | Self::Unsupported { .. }
            | Self::PlainToRemote { .. }
            | Self::RootFile { .. }
            | Self::ClientCertificate { .. }
            | Self::HalfCertificate { .. }
            | Self::PasswordFile { .. }
            | Self::OpenFile { .. }
            | Self::TokenWithoutTls { .. }
            | Self::NoRoots
            | Self::Tls(_)
            | Self::Login { .. }
            | Self::NoDatabase { .. }
            | Self::Pooler { .. } => false,
        }
    }

    /// Whether the connection string itself is wrong, so that no server was asked.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Syntax(_)
            | Self::NoHost
            | Self::Setting { .. }
            | Self::Unsupported { .. }
            | Self::PlainToRemote { .. }
            | Self::RootFile { .. }
            | Self::ClientCertificate { .. }
            | Self::HalfCertificate { .. }
            | Self::PasswordFile { .. }
            | Self::OpenFile { .. }
            | Self::TokenWithoutTls { .. } => true,
            Self::Servers { errors } => errors.iter().all(Self::is_configuration),
            Self::Mint { .. }
            | Self::Name { .. }
            | Self::ReadOnly { .. }
            | Self::Standby { .. }
            | Self::Pooler { .. }
            | Self::NoRoots
            | Self::Tls(_)
            | Self::TimeOut { .. }
            | Self::Unreachable { .. }
            | Self::Handshake { .. }
            | Self::Login { .. }
            | Self::NoDatabase { .. }
            | Self::Connect { .. } => false,
        }
    }
}
