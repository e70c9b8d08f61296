//! Why a transaction was rolled back.
//!
//! Knows: what a handler, the database and the clock can say. Must not know: what follows from it.

use crate::error::Error;
use crate::handler::HandlerError;
use std::time::Duration;

/// Why a transaction was rolled back.
#[derive(Debug)]
pub(crate) enum Undone {
    /// The handler wants the event again, maybe not before so long.
    Retry(String, Option<Duration>),
    /// The handler refuses the event for good.
    Reject(String),
    /// Postgres refused something.
    Db(tokio_postgres::Error),
    /// The delivery's time was over.
    OutOfTime,
    /// Another host was faster with an aggregate that had no progress yet.
    Overtaken,
    /// The connection was broken before anything began.
    NotBegun(Error),
}

impl From<tokio_postgres::Error> for Undone {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error)
    }
}

impl From<HandlerError> for Undone {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::Retry(reason) => Self::Retry(reason, None),
            HandlerError::RetryAfter { after, reason } => Self::Retry(reason, Some(after)),
            HandlerError::Reject(reason) => Self::Reject(reason),
            HandlerError::Database(error) => Self::Db(error),
        }
    }
}
