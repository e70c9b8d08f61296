//! The replication session: from a connection string to frames, and status back.
//!
//! `tokio-postgres` has no replication mode, so the session is our own, on
//! `postgres-protocol`'s messages, `tokio-postgres`'s connection strings and rustls. Must not know: what the frames mean.

mod connect;
mod error;
mod login;
mod pace;
mod session;
mod socket;

pub(crate) use error::is_passing;
pub use error::{ServerError, WireError};
pub use session::{Identity, Session};
