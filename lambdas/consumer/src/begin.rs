//! The begin of a transaction, on its way with the first statements of it.
//!
//! Knows: how long a connection may be silent. Must not know: what the transaction is for.

use crate::error::Error;
use crate::undone::Undone;
use std::time::Duration;
use tokio_postgres::Client;

/// A connection that a frozen function has slept through may be dead without a word.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The server runs what goes with it even where it fails, each statement by itself then. So those
/// that write look whether the transaction is deferrable: that means nothing for one that writes,
/// and a statement by itself is not.
const BEGIN: &str = "begin deferrable";

/// Whether a transaction has begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Begin {
    /// The first statements take it with them.
    Due,
    Done,
}

impl Begin {
    /// Sends it when it is polled first, if it is due, and waits for the server's word.
    pub(crate) async fn send(self, client: &Client) -> Result<(), Undone> {
        match self {
            Self::Done => Ok(()),
            Self::Due => {
                let begun = tokio::time::timeout(LIMIT, client.batch_execute(BEGIN)).await;
                within_limit(begun).map_err(Undone::NotBegun)
            }
        }
    }
}

/// What an attempt to begin came to.
pub(crate) fn within_limit<T>(
    begun: Result<Result<T, tokio_postgres::Error>, tokio::time::error::Elapsed>,
) -> Result<T, Error> {
    match begun {
        Ok(Ok(begun)) => Ok(begun),
        Ok(Err(error)) => Err(Error::Lost(error)),
        Err(_) => Err(Error::Silent { seconds: LIMIT.as_secs() }),
    }
}

#[cfg(test)]
mod tests {
    use crate::ledger::Entry;
    use crate::statements::Statements;
    use crate::version::{Mark, Progress};
    use envelope::Event;
    use local::postgres::Postgres;

    /// What goes with a begin that fails runs all the same, each statement by itself.
    #[tokio::test]
    async fn a_statement_that_goes_with_the_begin_writes_nothing_without_it() {
        let postgres = Postgres::start(&[]).await.unwrap();
        let database = postgres.create_database().await.unwrap();
        let client = postgres.connect(&database).await.unwrap();
        for sql in [
            include_str!("../../../sql/read_model/V1__inbox.sql"),
            include_str!("../../../sql/read_model/V2__await.sql"),
            include_str!("../../../sql/read_model/V5__progress.sql"),
        ] {
            client.batch_execute(sql).await.unwrap();
        }
        let known = "insert into relay.progress values ('p', 'order', 'known', 1)";
        client.batch_execute(known).await.unwrap();
        let golden = include_str!("../../../relay/envelope/golden/relay_1.json");
        let event = Event::from_json(golden).unwrap();
        let key = |id: &str| ("order".to_owned(), id.to_owned());
        let mark = |version| Mark { version, ..Mark::default() };
        let before = Progress::from([(key("known"), mark(1))]);
        let after = Progress::from([(key("known"), mark(2)), (key("new"), mark(1))]);
        let mut entry = Entry::of_moves(&before, &after);
        entry.arrives(&event, None);
        let written = "select (select count(*) from relay.inbox),
            (select sum(version)::bigint from relay.progress)";
        let mut statements = Statements::default();
        for (begun, found) in [(false, (0, 1)), (true, (1, 3))] {
            statements.run_all(&client, &[entry.step("p", begun)]).await.unwrap();
            let row = client.query_one(written, &[]).await.unwrap();
            assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), found, "begun: {begun}");
        }
        client.batch_execute("truncate relay.inbox, relay.progress").await.unwrap();
        client.batch_execute(known).await.unwrap();
        client.batch_execute(super::BEGIN).await.unwrap();
        statements.run_all(&client, &[entry.step("p", false)]).await.unwrap();
        let row = client.query_one(written, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 3));
    }
}
