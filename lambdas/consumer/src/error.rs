//! What can keep a whole batch from being worked on, and how a database error is read.
//!
//! Knows: which errors of Postgres pass by themselves. Must not know: queues,
//! handlers.

use crate::deadline::Passed;
use serde_json::error::Category;
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
    /// A statement ran into the role's or the database's `statement_timeout`.
    #[error(
        "expected statements to end within statement_timeout, found one that was cancelled; raise it for the read model's role: alter role … set statement_timeout"
    )]
    StatementTimeout(#[source] tokio_postgres::Error),
    /// The server takes no writes: a standby, or one that is set to read only.
    #[error(
        "expected a read model that takes writes, found a server that is read-only; after a failover the host's name leads to the new primary, else let READ_MODEL_URL name it"
    )]
    ReadOnly,
    /// A prepared statement is not where it was: a pooler hands out server connections.
    #[error(
        "expected the connection to keep its prepared statements, found a pooler in transaction mode between; set READ_MODEL_POOLER=transaction (Consumer::through_a_pool)"
    )]
    Pooler(#[source] tokio_postgres::Error),
    /// Postgres refused a statement of the consumer's own.
    #[error("the read model refused a statement of the consumer")]
    Refused(#[source] tokio_postgres::Error),
    /// The delivery's time was over before the read model let the consumer in.
    #[error("expected a connection to the read model within the delivery's time, found none")]
    NotInTime,
    /// The read model does not answer.
    #[error("expected the read model to begin a transaction within {seconds} s, found no answer")]
    Silent {
        /// Seconds that were waited: 5.
        seconds: u64,
    },
    /// The tables of the consumer are not there, are those of an earlier version, or may not be used.
    #[error(
        "expected the consumer's tables in the read model as this version needs them, found something missing that this role may use; run `relay init --read-model` and grant the role its use"
    )]
    NotInitialised(#[source] tokio_postgres::Error),
    /// The projection has a name that is too long to be kept.
    #[error(
        "expected the projection's name to have at most {most} bytes, found {found}; shorten Handler::name"
    )]
    Name {
        /// The bound: 128 bytes.
        most: usize,
        /// Bytes of the name.
        found: usize,
    },
    /// A record that failed has no message id, so it cannot be named to SQS alone.
    #[error("expected a message id on every record, found a failed record without one")]
    NoMessageId,
}

impl From<Passed> for Error {
    fn from(Passed: Passed) -> Self {
        Self::NotInTime
    }
}

impl Error {
    /// Whether it may pass by itself.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(error) => !error.is_configuration(),
            Self::Lost(_) | Self::Silent { .. } | Self::ReadOnly | Self::NotInTime => true,
            Self::NotInitialised(_)
            | Self::StatementTimeout(_)
            | Self::Pooler(_)
            | Self::Refused(_)
            | Self::NoMessageId
            | Self::Name { .. } => false,
        }
    }

    /// What Postgres said to a statement of the consumer's own.
    pub(crate) fn of_ours(error: tokio_postgres::Error) -> Self {
        if is_missing(&error) {
            return Self::NotInitialised(error);
        }
        match Self::of_any(error) {
            Ok(error) => error,
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                Self::StatementTimeout(error)
            }
            Err(error) if is_lost(&error) => Self::Lost(error),
            Err(error) => Self::Refused(error),
        }
    }

    /// What no event is at fault for, whosever statement it was; the error itself where it may be.
    pub(crate) fn of_any(error: tokio_postgres::Error) -> Result<Self, tokio_postgres::Error> {
        let moved = [SqlState::DUPLICATE_PSTATEMENT, SqlState::INVALID_SQL_STATEMENT_NAME];
        if error.code().is_some_and(|code| moved.contains(code)) {
            return Ok(Self::Pooler(error));
        }
        Err(error)
    }

    /// A stable name of the kind of error, for metrics and alarms.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "Unreachable",
            Self::Lost(_) => "Lost",
            Self::Silent { .. } => "Silent",
            Self::StatementTimeout(_) => "StatementTimeout",
            Self::ReadOnly => "ReadOnly",
            Self::Pooler(_) => "Pooler",
            Self::Refused(_) => "Refused",
            Self::NotInTime => "NotInTime",
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

/// Whether it may come from a server that takes no writes: to be asked then.
///
/// A standby refuses each write with 25006, and to look into an unlogged table with 0A000.
pub(crate) fn may_be_read_only(error: &tokio_postgres::Error) -> bool {
    [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    ]
    .iter()
    .any(|code| error.code() == Some(code))
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

/// What is wrong with a payload, and where. serde's own words are not passed on: they quote values.
pub(crate) fn misfit(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        Category::Data => "a field is missing or of another type",
        Category::Syntax => "it is no JSON",
        Category::Eof => "it ends too early",
        Category::Io => "it cannot be read",
    };
    match (error.line(), error.column()) {
        // What was read from a value knows no place.
        (0, _) => kind.to_owned(),
        (1, column) => format!("{kind}, at column {column}"),
        (line, column) => format!("{kind}, at line {line} column {column}"),
    }
}

/// The error in words that show no value ([`dsn::causes`]), with its cure where there is one.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    let words = chain(error);
    match error.code() {
        Some(&SqlState::QUERY_CANCELED) => format!(
            "{words}; where that is the statement_timeout of the role or the database, raise it or have the handler do less in one statement"
        ),
        _ => words,
    }
}
