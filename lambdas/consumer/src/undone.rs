//! Why a transaction was rolled back.
//!
//! Knows: what a handler, the database and the clock can say. Must not know: what follows from it.

use crate::deadline::Passed;
use crate::error::{Error, is_missing};
use crate::handler::HandlerError;
use std::time::Duration;

/// What is said of an event over which the handler or the runtime panicked. The panic's own words
/// stand on standard error; they may quote the event.
pub(crate) const PANICKED: &str =
    "the code panicked over the event; standard error says where, mend it there";

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
    /// The runtime panicked over the event: a conversion of one of its values.
    Panicked,
    /// The read model as it stands takes no event: the connection is of no more use.
    Unfit(Error),
    /// Another host was faster with an aggregate that had no progress yet.
    Overtaken,
    /// The connection was broken before anything began.
    NotBegun(Error),
}

impl From<tokio_postgres::Error> for Undone {
    fn from(error: tokio_postgres::Error) -> Self {
        match Error::of_any(error) {
            Ok(error) => Self::Unfit(error),
            Err(error) => Self::Db(error),
        }
    }
}

impl Undone {
    /// What Postgres said to a statement of the runtime's own: a table, a column or a right that is
    /// missing there is missing for every event.
    pub(crate) fn of_ours(error: tokio_postgres::Error) -> Self {
        if is_missing(&error) { Self::Unfit(Error::NotInitialised(error)) } else { error.into() }
    }
}

impl From<Passed> for Undone {
    fn from(Passed: Passed) -> Self {
        Self::OutOfTime
    }
}

impl From<HandlerError> for Undone {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::Retry(reason) => Self::Retry(reason, None),
            HandlerError::RetryAfter { after, reason } => Self::Retry(reason, Some(after)),
            HandlerError::Reject(reason) => Self::Reject(reason),
            HandlerError::Database(error) => error.into(),
        }
    }
}
