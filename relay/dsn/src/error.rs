//! What can be wrong with a connection string or a connection.

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
    Syntax(#[source] tokio_postgres::Error),
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
        source: std::io::Error,
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

/// The server's own words, where it said something.
fn said(source: &tokio_postgres::Error) -> String {
    source
        .as_db_error()
        .map(|e| format!(": {}", e.message()))
        .unwrap_or_default()
}

impl Error {
    pub(crate) fn connect(dsn: &crate::Dsn, source: tokio_postgres::Error) -> Self {
        let refused = [
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        ];
        match source.as_db_error() {
            Some(error) if refused.contains(error.code()) => Self::Login {
                dsn: dsn.to_string(),
                user: dsn.user().to_owned(),
                message: error.message().to_owned(),
            },
            _ if source.to_string().contains("password") => Self::Login {
                dsn: dsn.to_string(),
                user: dsn.user().to_owned(),
                message: "a password is needed, and the connection string has none".to_owned(),
            },
            _ => Self::Connect {
                dsn: dsn.to_string(),
                source,
            },
        }
    }

    /// Whether a later try could go well without a change of the configuration.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TimeOut { .. } => true,
            Self::Connect { source, .. } => {
                !matches!(source.code(), Some(&SqlState::INVALID_CATALOG_NAME))
            }
            Self::Syntax(_)
            | Self::NoHost
            | Self::Setting { .. }
            | Self::PlainToRemote { .. }
            | Self::RootFile { .. }
            | Self::NoRoots
            | Self::Tls(_)
            | Self::Login { .. } => false,
        }
    }
}
