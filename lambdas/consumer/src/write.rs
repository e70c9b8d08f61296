//! Writes that are sent without a wait: one round trip for those of a whole batch.
//!
//! Knows: what has been sent and not been answered yet. Must not know: events, what is written.

use crate::handler::{HandlerError, Tx};
use crate::undone::Undone;
use futures_util::future::try_join;
use std::collections::VecDeque;
use std::error::Error;
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::task::Poll;
use tokio_postgres::Client;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// So many may be without an answer: past that, one is awaited for each that is sent. The answers
/// stand in memory until then.
const UNANSWERED: usize = 256;

/// The number of rows that a statement touched, once the server has said so.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a>>;

/// Statements of one transaction that were sent, in their order.
#[derive(Default)]
pub(crate) struct Written<'a> {
    sent: VecDeque<Sent<'a>>,
    /// What went wrong first among those that have been answered.
    failed: Option<Undone>,
}

struct Sent<'a> {
    answer: Answer<'a>,
    whose: Whose,
}

/// Whose statement it is, for what a refusal of it says.
#[derive(Debug)]
enum Whose {
    /// The handler's; with the reason why the event is rejected if it touched another number of rows
    /// than one, where that is asked for.
    Handlers(Option<String>),
    /// The runtime's.
    Ours,
}

impl Whose {
    fn refused(&self, error: tokio_postgres::Error) -> Undone {
        match self {
            Self::Handlers(_) => HandlerError::from(error).into(),
            Self::Ours => Undone::of_ours(error),
        }
    }
}

impl Written<'_> {
    /// Waits for the first of them; after a failure the others' answers say nothing more.
    async fn settle_first(&mut self) {
        let Some(Sent { answer, whose }) = self.sent.pop_front() else { return };
        let failure = match (answer.await, whose) {
            (Ok(1), _) | (Ok(_), Whose::Handlers(None) | Whose::Ours) => return,
            (Ok(_), Whose::Handlers(Some(reason))) => Undone::Reject(reason),
            (Err(error), whose) => whose.refused(error),
        };
        self.failed.get_or_insert(failure);
    }

    async fn settle(&mut self) -> Result<(), Undone> {
        while !self.sent.is_empty() && self.failed.is_none() {
            self.settle_first().await;
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Whether an answer may forbid the commit although the server had nothing against it.
    fn has_conditions(&self) -> bool {
        self.failed.is_some()
            || self.sent.iter().any(|sent| matches!(sent.whose, Whose::Handlers(Some(_))))
    }
}

impl<'a> Tx<'a> {
    /// Sends a statement and goes on without waiting for what it comes to.
    ///
    /// What a projection writes seldom needs an answer. The writes of a batch sent so, and the
    /// commit after them, take one round trip to the database together, where each
    /// [`execute`](Tx::execute) takes one of its own. Statements run in the order in which they
    /// were sent: what follows sees this write. If Postgres refuses it, the event fails when its
    /// handler has returned, as if the handler had passed the error on: nothing is committed.
    ///
    /// # Errors
    /// When the statement cannot be prepared or its parameters do not fit.
    ///
    /// ```
    /// use consumer::{Event, HandlerError, Tx};
    ///
    /// async fn counted(event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    ///     let sql = "insert into clicks (page, clicks) values ($1, 1)
    ///         on conflict (page) do update set clicks = clicks.clicks + 1";
    ///     tx.write(sql, &[&event.aggregate_id]).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn write(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(), tokio_postgres::Error> {
        self.send(sql, parameters, Whose::Handlers(None)).await
    }

    /// The same for a statement of the runtime's own.
    pub(crate) async fn write_ours(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(), Undone> {
        self.send(sql, parameters, Whose::Ours).await.map_err(Undone::of_ours)
    }

    /// The same for a statement that is to touch one row: where it touches none or several, the
    /// event is rejected with this reason, as if the handler had done so.
    ///
    /// # Errors
    /// When the statement cannot be prepared or its parameters do not fit.
    ///
    /// ```
    /// use consumer::{Event, HandlerError, Tx};
    ///
    /// async fn renamed(event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    ///     let sql = "update customers set name = $2 where customer_id = $1";
    ///     let name: String = event.data()?;
    ///     let missing = "expected the customer to be there, found none";
    ///     tx.write_one(sql, &[&event.aggregate_id, &name], missing).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn write_one(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        or_reject: impl Into<String>,
    ) -> Result<(), tokio_postgres::Error> {
        self.send(sql, parameters, Whose::Handlers(Some(or_reject.into()))).await
    }

    async fn send(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        whose: Whose,
    ) -> Result<(), tokio_postgres::Error> {
        while self.written.sent.len() >= UNANSWERED {
            self.written.settle_first().await;
        }
        let client: &'a Client = self.client;
        let statement = match self.statements.get(client, sql).await {
            Ok(statement) => statement,
            Err(error) => {
                self.suspect = true;
                return Err(error);
            }
        };
        let types = statement.params().iter().map(Some).chain(std::iter::repeat(None));
        let parameters: Vec<Encoded> =
            parameters.iter().zip(types).map(|(value, kind)| Encoded::new(*value, kind)).collect();
        let mut answer: Answer<'a> =
            Box::pin(async move { client.execute_raw(&statement, parameters).await });
        // The driver gets the statement when it is polled first, and refuses it then if it has to. On
        // another thread it may even have the server's answer by then, which counts like a later one.
        let answer = match poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
            Poll::Ready(Err(error)) => {
                self.suspect = true;
                return Err(error);
            }
            Poll::Ready(Ok(rows)) => Box::pin(ready(Ok(rows))),
            Poll::Pending => answer,
        };
        self.written.sent.push_back(Sent { answer, whose });
        Ok(())
    }

    /// Ends the work: waits for what was sent, and says how all of it went. To be called before
    /// the transaction ends, whatever came of it.
    ///
    /// # Errors
    /// What went wrong first. After a write that Postgres refused, whatever follows it fails
    /// because the transaction is aborted, which says nothing.
    pub(crate) async fn end<T>(mut self, worked: Result<T, Undone>) -> Result<T, Undone> {
        let worked = match worked {
            Ok(worked) => self.written.settle().await.map(|()| worked),
            Err(Undone::Db(error)) => {
                Err(self.written.settle().await.err().unwrap_or(Undone::Db(error)))
            }
            Err(undone) => Err(undone),
        };
        self.statements.transaction_ends(worked.is_ok());
        worked
    }

    /// Commits, in the round trip of what was sent where nothing but the server's word is waited for:
    /// it rolls back by itself if one of them failed.
    ///
    /// # Errors
    /// When one of them failed, or Postgres refuses the commit or is gone. The transaction may
    /// still be open then.
    pub(crate) async fn commit(mut self) -> Result<(), Undone> {
        // Behind a pooler the statements are closed before the commit, while the server connection
        // is ours, so nothing may hold on to them.
        if self.statements.are_pooled() || self.written.has_conditions() {
            self.written.settle().await?;
        }
        self.statements.transaction_ends(true);
        let settled = self.written.settle();
        let committed = async { Ok(self.client.batch_execute("commit").await?) };
        try_join(settled, committed).await.map(drop)
    }
}

/// A parameter as it goes to the server, so that a statement need not hold on to the handler's value.
#[derive(Debug)]
struct Encoded {
    format: Format,
    /// What is sent, `None` for null, or why it cannot be.
    value: Result<Option<BytesMut>, String>,
}

impl Encoded {
    /// `kind` is missing where the statement has no such parameter, which the driver then refuses.
    fn new(value: &(dyn ToSql + Sync), kind: Option<&Type>) -> Self {
        let Some(kind) = kind else { return Self { format: Format::Binary, value: Ok(None) } };
        let mut bytes = BytesMut::new();
        let encoded = match value.to_sql_checked(kind, &mut bytes) {
            Ok(IsNull::No) => Ok(Some(bytes)),
            Ok(IsNull::Yes) => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        Self { format: value.encode_format(kind), value: encoded }
    }
}

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match &self.value {
            Ok(Some(bytes)) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            Ok(None) => Ok(IsNull::Yes),
            Err(reason) => Err(reason.clone().into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        self.format
    }

    to_sql_checked!();
}
