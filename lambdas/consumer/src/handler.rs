//! What an author writes.

use crate::Tx;
use envelope::Event;
use std::future::Future;

/// How the order of an aggregate's events is guarded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// The inbox alone: each event once, in any order.
    Once,
    /// The inbox and the aggregate's version: equal or lower is a duplicate, the next
    /// is applied, a higher one is a gap and is tried again. Versions count from 1;
    /// an event without a version is guarded by the inbox alone.
    #[default]
    Versioned,
}

/// A projection, a policy, a saga: anything that an event has an effect through.
pub trait Handler: Send + Sync {
    /// Its name in the inbox, with its version where it has one, such as `orders@2`.
    fn name(&self) -> &str;

    /// How the order of an aggregate's events is guarded.
    fn mode(&self) -> Mode {
        Mode::Versioned
    }

    /// Gives the event its effect, in the transaction that records it.
    ///
    /// An event type it does not know it passes over with `Ok`. Whatever it does
    /// outside `tx` can happen more than once.
    fn handle(
        &self,
        event: &Event,
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// Why an event did not have its effect. The transaction is rolled back in each case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// It may go well later: the event is delivered again.
    #[error("to be tried again: {0}")]
    Retry(String),
    /// It can never go well: the event is kept in `relay.parked` with the reason, and
    /// the events behind it go on.
    #[error("refused: {0}")]
    Reject(String),
    /// The database refused; the event is delivered again.
    #[error("the database refused{}", said(.0))]
    Database(#[from] tokio_postgres::Error),
}

fn said(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map(|e| format!(": {} ({})", e.message(), e.code().code()))
        .unwrap_or_default()
}
