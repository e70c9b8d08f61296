//! What a session must be able to do: libpq's `target_session_attrs`.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-TARGET-SESSION-ATTRS>

use crate::{Dsn, Error};

/// Which of several servers is meant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Target {
    /// The first that lets us in.
    #[default]
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that is no standby, whether it takes writes or not.
    Primary,
}

impl Dsn {
    /// The same, for one who writes: where the string has no `target_session_attrs`, a server that
    /// takes writes is meant. After a failover the name of a host may still lead to the old primary.
    #[must_use]
    pub fn or_read_write(mut self) -> Self {
        if !self.target_is_named {
            self.target = Target::ReadWrite;
        }
        self
    }

    /// What a server is asked after the login, to know whether it is the one that is meant:
    /// its answer belongs to [`Dsn::answered`]. `None` where any will do.
    #[must_use]
    pub fn question(&self) -> Option<&'static str> {
        match self.target {
            Target::Any => None,
            Target::ReadWrite => Some("show transaction_read_only"),
            // Since PostgreSQL 14.
            Target::Primary => Some("show in_hot_standby"),
        }
    }

    /// Takes the answer to [`Dsn::question`].
    ///
    /// # Errors
    /// When the server is not the one that is meant.
    pub fn answered(&self, answer: Option<&str>) -> Result<(), Error> {
        let dsn = || self.to_string();
        match (self.target, answer) {
            (Target::Any, _) | (Target::ReadWrite | Target::Primary, Some("off")) => Ok(()),
            (Target::ReadWrite, _) => Err(Error::ReadOnly { dsn: dsn() }),
            (Target::Primary, _) => Err(Error::Standby { dsn: dsn() }),
        }
    }
}
