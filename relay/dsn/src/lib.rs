//! A Postgres connection string and the TLS it asks for.
//!
//! Knows: libpq's names for TLS, which hosts are local, where a password comes
//! from, in which order servers are tried, how a connection is opened. Must not know: what is said over the connection. Reads no
//! environment; what is handed in decides.
//!
//! Closed by default: a host that is not local is only ever spoken to over TLS
//! with its certificate and its name verified, whatever `sslmode` says short of
//! `disable`, which is refused.

mod attempt;
mod causes;
mod connect;
mod endpoint;
mod error;
#[cfg(feature = "iam")]
pub mod iam;
mod parse;
mod password;
mod settings;
mod target;
mod tls;

pub use attempt::CONNECT_TIMEOUT;
pub use causes::causes;
pub use connect::Listening;
pub use error::{Error, Malformed, each};
pub use password::{Mint, MintError};

use password::Passwords;
use std::fmt;
use std::path::PathBuf;
use target::Target;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The search_path of [`Dsn::with_builtin_names`], as a startup option: the server takes it before
/// anything else, and neither a role's nor a database's setting comes before it. `pg_temp` stands in
/// it to be last; left out it would be first.
pub const BUILTIN_NAMES: &str = "-c search_path=pg_catalog,pg_temp";

/// Where the certificates of trusted authorities come from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Roots {
    /// The system's.
    #[default]
    System,
    /// A PEM file, as `sslrootcert` names it; RDS needs its own bundle.
    File(PathBuf),
}

/// A parsed connection string. Neither `Debug` nor `Display` shows the password.
#[derive(Clone)]
pub struct Dsn {
    config: Config,
    roots: Roots,
    /// Whether the server's certificate may name another host: `verify-ca` on this machine.
    any_name: bool,
    client_certificate: Option<ClientCertificate>,
    target: Target,
    /// Whether the string has `target_session_attrs`.
    target_is_named: bool,
    /// Whether names are looked up among Postgres's own alone.
    builtin_names: bool,
    passwords: Passwords,
}

/// What the client shows of itself: PEM files, as `sslcert` and `sslkey` name them.
#[derive(Clone, Debug, Eq, PartialEq)]
struct ClientCertificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Dsn {
    /// What tokio-postgres makes of it.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same for sessions that look up names among Postgres's own alone ([`BUILTIN_NAMES`]):
    /// whatever search_path the string, the role or the database has, nobody's function or
    /// operator is called in place of one of `pg_catalog`.
    #[must_use]
    pub fn with_builtin_names(self) -> Self {
        Self { builtin_names: true, ..self }
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_database(mut self, database: &str) -> Self {
        self.config.dbname(database);
        self
    }

    /// The database's name: the user's where the string names none, as libpq does.
    #[must_use]
    pub fn database(&self) -> &str {
        self.config.get_dbname().or_else(|| self.config.get_user()).unwrap_or("postgres")
    }

    /// The role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or("postgres")
    }

    /// Whether every host is this machine: a loopback address, `localhost` or a unix socket.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let local_name = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost"
                    || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        };
        self.config.get_hosts().iter().all(local_name)
            && self.config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", self.user())?;
        for (at, host) in self.config.get_hosts().iter().enumerate() {
            let port = self.port(at);
            let comma = if at == 0 { "" } else { "," };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}:{port}")?,
                Host::Unix(path) => write!(f, "{comma}{}:{port}", path.display())?,
            }
        }
        write!(f, "/{}", self.database())?;
        // Which of a name's addresses it is about.
        match (self.config.get_hosts(), self.config.get_hostaddrs()) {
            ([Host::Tcp(name)], [address]) if *name != address.to_string() => {
                write!(f, " ({address})")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self})")
    }
}
