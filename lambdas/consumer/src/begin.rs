//! The begin of a transaction, on its way with the first statements of it.
//!
//! Knows: how long a connection may be silent. Must not know: what the transaction is for.

use crate::error::Error;
use crate::undone::Undone;
use std::time::Duration;
use tokio_postgres::Client;

/// A connection that a frozen function has slept through may be dead without a word.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The BEGIN for a session with this `default_transaction_deferrable`.
///
/// BEGIN is pipelined with the first statements. If BEGIN fails, Postgres still runs them, each in a
/// transaction of its own, which has the default. So BEGIN asks for the other value, and every
/// pipelined write compares the two (`is_ours`): only our BEGIN makes them differ. For a
/// transaction that writes, `deferrable` has no other meaning.
pub(crate) fn begin_beside(default_is_deferrable: bool) -> &'static str {
    if default_is_deferrable { "begin not deferrable" } else { "begin deferrable" }
}

/// The condition of a pipelined write: true within a transaction that [`begin_beside`] began.
macro_rules! is_ours {
    () => {
        "pg_catalog.current_setting('transaction_deferrable') operator(pg_catalog.<>) pg_catalog.current_setting('default_transaction_deferrable')"
    };
}
pub(crate) use is_ours;

/// Whether a transaction has begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Begin {
    /// The first statements take this BEGIN with them.
    Due(&'static str),
    Done,
}

impl Begin {
    /// Sends it when it is polled first, if it is due, and waits for the server's word.
    pub(crate) async fn send(self, client: &Client) -> Result<(), Undone> {
        match self {
            Self::Done => Ok(()),
            Self::Due(begin) => {
                let begun = tokio::time::timeout(LIMIT, client.batch_execute(begin)).await;
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
        Ok(Err(error)) => Err(Error::of_ours(error)),
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
            include_str!("../../../sql/read_model/V3__effect.sql"),
            include_str!("../../../sql/read_model/V4__notify.sql"),
            include_str!("../../../sql/read_model/V5__progress.sql"),
            include_str!("../../../sql/read_model/V6__identity.sql"),
        ] {
            client.batch_execute(sql).await.unwrap();
        }
        let known = "insert into relay.progress values ('p', 'order', 'known', 1)";
        client.batch_execute(known).await.unwrap();
        let golden = include_str!("../../../relay/envelope/golden/relay_1.json");
        let event = Event::from_json(golden).unwrap();
        let key = |id: &str| (String::new(), "order".to_owned(), id.to_owned());
        let mark = |version| Mark { version, ..Mark::default() };
        let before = Progress::from([(key("known"), mark(1))]);
        let after = Progress::from([(key("known"), mark(2)), (key("new"), mark(1))]);
        let mut entry = Entry::of_moves(&before, &after);
        entry.arrives(&event, None);
        let written = "select (select count(*) from relay.inbox),
            (select sum(version)::bigint from relay.progress)";
        let mut statements = Statements::default();
        // Whatever the role's default is.
        let default = "set default_transaction_deferrable = on";
        client.batch_execute(default).await.unwrap();
        statements.run_all(&client, &[entry.step("p", false)]).await.unwrap();
        let row = client.query_one(written, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 1));
        client.batch_execute(super::begin_beside(true)).await.unwrap();
        statements.run_all(&client, &[entry.step("p", false)]).await.unwrap();
        let row = client.query_one(written, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 3));
        client.batch_execute("rollback; reset default_transaction_deferrable").await.unwrap();
        for (begun, found) in [(false, (0, 1)), (true, (1, 3))] {
            statements.run_all(&client, &[entry.step("p", begun)]).await.unwrap();
            let row = client.query_one(written, &[]).await.unwrap();
            assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), found, "begun: {begun}");
        }
        client.batch_execute("truncate relay.inbox, relay.progress").await.unwrap();
        client.batch_execute(known).await.unwrap();
        client.batch_execute(super::begin_beside(false)).await.unwrap();
        statements.run_all(&client, &[entry.step("p", false)]).await.unwrap();
        let row = client.query_one(written, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 3));
    }
}
