//! What can keep a whole batch from being worked on, and how a database error is read.
//!
//! Knows: which errors of Postgres pass by themselves. Must not know: queues,
//! handlers.

use tokio_postgres::error::SqlState;

/// Why a batch could not be worked on at all: every record goes back to the queue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The read model cannot be reached.
    #[error("the read model cannot be reached")]
    Unreachable(#[from] dsn::Error),
    /// The read model's connection broke, and broke again.
    #[error("the connection to the read model is lost")]
    Lost(#[source] tokio_postgres::Error),
    /// The read model does not answer.
    #[error("expected the read model to begin a transaction within {seconds} s, found no answer")]
    Silent {
        /// How long was waited.
        seconds: u64,
    },
    /// The tables of the consumer are not there.
    #[error(
        "expected the table relay.inbox in the read model, found none that this role may use; run `relay init --read-model` and grant the role its use"
    )]
    NotInitialised(#[source] tokio_postgres::Error),
    /// The projection has a name that is too long to be kept.
    #[error(
        "expected the projection's name to have at most {most} bytes, found {found}; shorten Handler::name"
    )]
    Name {
        /// The most.
        most: usize,
        /// How many it has.
        found: usize,
    },
    /// A record that failed has no message id, so it cannot be named to SQS alone.
    #[error("expected a message id on every record, found a failed record without one")]
    NoMessageId,
}

impl Error {
    /// Whether it may pass by itself.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(error) => !error.is_configuration(),
            Self::Lost(_) | Self::Silent { .. } => true,
            Self::NotInitialised(_) | Self::NoMessageId | Self::Name { .. } => false,
        }
    }

    /// A stable name of the kind of error, for metrics and alarms.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "Unreachable",
            Self::Lost(_) => "Lost",
            Self::Silent { .. } => "Silent",
            Self::NotInitialised(_) => "NotInitialised",
            Self::NoMessageId => "NoMessageId",
            Self::Name { .. } => "Name",
        }
    }
}

/// The error and its causes in one line, without values; see [`dsn::causes`].
pub(crate) use dsn::causes as chain;

/// Whether the same statement fails with the same values however often it is run: class 22, the data
/// itself (a number out of range, a character that the encoding does not know), and class 54, a limit
/// of the server (a key that no index holds).
pub(crate) fn is_final(error: &tokio_postgres::Error) -> bool {
    let class = error.code().map(|code| code.code().get(..2));
    matches!(class, Some(Some("22" | "54")))
}

/// Whether the connection is of no more use.
pub(crate) fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        // 08: connection exceptions; 57P01 to 57P05: the server ends the session.
        Some(db) => db.code().code().starts_with("08") || db.code().code().starts_with("57P"),
        None => error.is_closed() || is_io(error),
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.is::<std::io::Error>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Whether the same work can succeed at once: another transaction was in the way.
pub(crate) fn is_contention(error: &tokio_postgres::Error) -> bool {
    [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ]
    .iter()
    .any(|code| error.code() == Some(code))
}

/// Whether a row was there already: one that another host has just made, or one that stays.
pub(crate) fn is_unique_violation(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// Whether a table, or the right to it, is missing.
pub(crate) fn is_missing(error: &tokio_postgres::Error) -> bool {
    [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_COLUMN,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ]
    .iter()
    .any(|code| error.code() == Some(code))
}

/// The error in words that show no value; see [`dsn::causes`].
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    chain(error)
}
