//! What can go wrong on a replication connection.

use std::fmt;

/// What the server said in an ErrorResponse.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServerError {
    /// The SQLSTATE.
    pub code: String,
    /// The message.
    pub message: String,
    /// The detail, where there is one.
    pub detail: Option<String>,
}

impl ServerError {
    /// Reads the fields of an ErrorResponse: a type byte and a text each, a zero byte at the end.
    pub(super) fn parse(mut body: &[u8]) -> Self {
        let mut error = Self::default();
        while let [kind, rest @ ..] = body {
            let Some(end) = rest.iter().position(|byte| *byte == 0) else {
                break;
            };
            let (text, after) = rest.split_at(end);
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                _ => {}
            }
            body = after.get(1..).unwrap_or_default();
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, "; {detail}"))
    }
}

/// Why there is no replication session, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The connection string or its TLS settings cannot be used.
    #[error("the replication connection cannot be set up")]
    Dsn(#[from] dsn::Error),
    /// The connection failed.
    #[error("{doing} {server}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The server, without the password.
        server: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// No answer came in time.
    #[error("{doing} {server}: no answer within {seconds} s")]
    TimeOut {
        /// What was being done.
        doing: &'static str,
        /// The server, without the password.
        server: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server does not offer TLS.
    #[error(
        "expected TLS from {server}, found that the server does not offer it; switch ssl on there"
    )]
    NoTls {
        /// The server, without the password.
        server: String,
    },
    /// The server's certificate is not trusted, or it does not trust ours.
    #[error(
        "no TLS with {server}; check that its certificate names this host, and name its CA with sslrootcert if it is not among the system's"
    )]
    Handshake {
        /// The server, without the password.
        server: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// None of several servers is to be had.
    #[error("none of the servers is to be had:{}", dsn::each(errors))]
    Servers {
        /// Why not, of each.
        errors: Vec<WireError>,
    },
    /// The login is refused, or asks for what cannot be given.
    #[error(
        "{server} refused the login of {user}: {message}; check the user and the password in DATABASE_URL"
    )]
    Login {
        /// The server, without the password.
        server: String,
        /// The role.
        user: String,
        /// What was refused.
        message: String,
    },
    /// Another process reads from the slot.
    #[error("the slot {slot} is in use: {message}")]
    SlotInUse {
        /// The slot.
        slot: String,
        /// The server's words, with the process id.
        message: String,
    },
    /// The slot is not there.
    #[error(
        "expected a replication slot {slot}, found none; run `relay init`, or set RELAY_SLOT to the slot that is there"
    )]
    SlotMissing {
        /// The slot.
        slot: String,
    },
    /// The server refused something else.
    #[error("the server refused: {0}")]
    Server(ServerError),
    /// The bytes are not what the protocol says.
    #[error("the server sent what cannot be read")]
    Protocol(#[from] pgoutput::Error),
    /// A message came that has no place there.
    #[error("expected {expected}, found a message with the tag {tag:?}")]
    Unexpected {
        /// What was waited for.
        expected: &'static str,
        /// The message's tag.
        tag: char,
    },
    /// The server ended the stream.
    #[error("the server closed the connection")]
    Closed,
}

impl WireError {
    /// One error of all that was tried.
    pub(super) fn of_each(mut errors: Vec<Self>) -> Self {
        match (errors.len(), errors.pop()) {
            (1, Some(error)) => error,
            (_, None) => Self::Closed,
            (_, Some(last)) => {
                errors.push(last);
                Self::Servers { errors }
            }
        }
    }

    pub(super) fn is_no_tls(&self) -> bool {
        matches!(self, Self::NoTls { .. } | Self::Handshake { .. })
    }

    /// Whether trying again can help without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io { .. }
            | Self::TimeOut { .. }
            | Self::Closed
            | Self::Handshake { .. }
            | Self::SlotInUse { .. } => true,
            // One that may come back is worth waiting for.
            Self::Servers { errors } => errors.iter().any(Self::is_transient),
            Self::Dsn(error) => error.is_transient(),
            Self::Server(error) => is_passing(&error.code),
            Self::NoTls { .. }
            | Self::Login { .. }
            | Self::SlotMissing { .. }
            | Self::Protocol(_)
            | Self::Unexpected { .. } => false,
        }
    }
}

/// Whether a failure with this SQLSTATE passes without anyone changing anything: class 08
/// connection, 53 resources, 57 operator intervention, 58 system.
pub(crate) fn is_passing(sqlstate: &str) -> bool {
    ["08", "53", "57", "58"].iter().any(|class| sqlstate.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_response_reads_and_a_cut_one_does_not_panic() {
        let body = b"SERROR\0C55006\0Mslot is active\0Dby pid 7\0\0";
        let error = ServerError::parse(body);
        assert_eq!(error.to_string(), "slot is active (SQLSTATE 55006); by pid 7");
        for end in 0..body.len() {
            let _ = ServerError::parse(&body[..end]);
        }
    }
}
