//! Why a whole batch failed.

/// A failure that no single event is to blame for: all of them are delivered again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The read model cannot be reached.
    #[error("the read model cannot be reached")]
    Connect(#[from] dsn::Error),
    /// The read model does not have the tables of `relay init --read-model`.
    #[error(
        "expected relay.inbox and its companions in the read model, found that they are not usable; run `relay init --read-model`, and grant the role SELECT, INSERT and UPDATE on them"
    )]
    Schema(#[source] tokio_postgres::Error),
    /// A record has no message id, so a failure could not be named.
    #[error("expected a message id on each record, found a record without one")]
    NoMessageId,
}
