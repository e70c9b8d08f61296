//! Parked events whose replay was asked for, given to the handler again.
//!
//! Knows: `relay.parked` and who asks (`relay parked replay`, `relay.replay_parked`). Must not
//! know: queues, deliveries.
//!
//! An event was parked in the place of having its effect, and its aggregate may have gone on. So
//! a replay asks the guard for one thing alone: whether a later write has won ([`Mode::Latest`]),
//! or earlier versions are still missing ([`Mode::Versioned`]).

use crate::apply::{Item, handle};
use crate::awaited;
use crate::consumer::Consumer;
use crate::database::Session;
use crate::deadline::Deadline;
use crate::error::{Error, describe, is_lost};
use crate::handler::{Handler, Tx};
use crate::ledger::Entry;
use crate::record::Record;
use crate::undone::{PANICKED, Undone};
use crate::version::{self, Verdict};
use tokio::time::Instant;

/// How many are replayed at a time.
const AT_ONCE: i64 = 100;

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Replayed {
    /// Events that have had their effect now.
    pub applied: usize,
    /// Events that a later one had made stale; they are not parked any more.
    pub stale: usize,
    /// Events that were refused again; they are still parked, with the new reason.
    pub refused: usize,
}

impl<H: Handler> Consumer<H> {
    /// Gives parked events whose replay was asked for to the handler, each in a transaction of
    /// its own. A delivery does so by itself, at most every ten seconds, and so does an
    /// invocation without records at once.
    ///
    /// # Errors
    /// When the read model cannot be reached.
    pub async fn replay_parked(&mut self, deadline: Option<Instant>) -> Result<Replayed, Error> {
        let deadline = Deadline::fixed(deadline);
        let replayed = deadline.before(self.replay_within(&deadline)).await;
        if matches!(replayed, Err(Error::NotInTime)) {
            self.reconnect();
        }
        replayed
    }

    pub(crate) async fn replay_within(&mut self, deadline: &Deadline) -> Result<Replayed, Error> {
        let mut replayed = Replayed::default();
        for id in self.asked_for().await? {
            if deadline.has_passed() {
                break;
            }
            let (handler, session) = self.at_work().await?;
            match deadline.before(replay(session, handler, id)).await {
                Ok(Some(Verdict::Stale)) => replayed.stale += 1,
                Ok(Some(_)) => replayed.applied += 1,
                Ok(None) => {}
                Err(undone) => {
                    self.clear_up(&undone);
                    let Some(reason) = reason(undone)? else { break };
                    replayed.refused += 1;
                    self.refused_again(id, &reason).await?;
                }
            }
        }
        if replayed != Replayed::default() {
            let Replayed { applied, stale, refused } = replayed;
            tracing::info!(
                projection = self.handler().name(),
                applied,
                stale,
                refused,
                "replayed parked events"
            );
        }
        Ok(replayed)
    }

    async fn asked_for(&mut self) -> Result<Vec<i64>, Error> {
        const SQL: &str = "select id from relay.parked
            where projection operator(pg_catalog.=) $1 and replay_requested_at is not null
            order by id limit $2";
        let (handler, session) = self.at_work().await?;
        let (transaction, statements) = session.begin().await?;
        let mut tx = Tx::new(transaction.client(), statements);
        let rows = tx.query(SQL, &[&handler.name(), &AT_ONCE]).await;
        tx.ends(&rows);
        // Rows hold on to their statement: they go before the transaction does.
        let ids = rows.map_err(Error::of_ours)?.iter().map(|row| row.get(0)).collect();
        transaction.commit().await.map_err(Error::of_ours)?;
        Ok(ids)
    }

    async fn refused_again(&mut self, id: i64, reason: &str) -> Result<(), Error> {
        const SQL: &str = "update relay.parked
            set replay_requested_at = null, replays = replays operator(pg_catalog.+) 1, reason = $2
            where id operator(pg_catalog.=) $1";
        let (_, session) = self.at_work().await?;
        let (transaction, statements) = session.begin().await?;
        let mut tx = Tx::new(transaction.client(), statements);
        let updated = tx.execute(SQL, &[&id, &reason.replace('\0', "\u{fffd}")]).await;
        tx.ends(&updated);
        updated.map_err(Error::of_ours)?;
        transaction.commit().await.map_err(Error::of_ours)
    }
}

/// Why it is parked on; nothing if it is to be asked for again.
fn reason(undone: Undone) -> Result<Option<String>, Error> {
    match undone {
        Undone::Retry(reason, _) | Undone::Reject(reason) => Ok(Some(reason)),
        Undone::Db(error) if is_lost(&error) => Err(Error::Lost(error)),
        Undone::Db(error) => Ok(Some(describe(&error))),
        Undone::Panicked => Ok(Some(PANICKED.to_owned())),
        Undone::NotBegun(error) | Undone::Unfit(error) => Err(error),
        Undone::OutOfTime | Undone::Overtaken => Ok(None),
    }
}

/// One of them; nothing if another host was faster.
async fn replay<H: Handler>(
    session: &mut Session,
    handler: &H,
    id: i64,
) -> Result<Option<Verdict>, Undone> {
    let performs = session.performs();
    let (transaction, statements) = session.begin().await.map_err(Undone::NotBegun)?;
    let mut tx = Tx::new(transaction.client(), statements);
    tx.performs = performs;
    let worked = work(&mut tx, handler, id).await;
    match tx.end(worked).await {
        Ok(verdict) => {
            transaction.commit().await?;
            Ok(verdict)
        }
        Err(undone) => {
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(error = describe(&error), "the rollback was not acknowledged");
            }
            Err(undone)
        }
    }
}

async fn work<H: Handler>(
    tx: &mut Tx<'_>,
    handler: &H,
    id: i64,
) -> Result<Option<Verdict>, Undone> {
    const TAKE: &str = "delete from relay.parked where id operator(pg_catalog.=) any (array(
        select id from relay.parked
        where id operator(pg_catalog.=) $1 and replay_requested_at is not null
        for update skip locked)) returning body";
    let taken = tx.query_first(TAKE, &[&id]).await.map_err(Undone::of_ours)?;
    let Some(row) = taken else { return Ok(None) };
    let record = Record::new(None, Some(row.get(0)), false, |_| None);
    let Some(event) = record.event() else {
        return Err(Undone::Reject("expected an event, found a body that is none".to_owned()));
    };
    let (name, mode) = (handler.name(), handler.mode());
    let candidates = [Item { event, record: &record }.candidate()];
    let before = version::lock(tx, name, &candidates, mode).await?;
    let mut after = before.clone();
    let verdict = match version::plan(&candidates, &mut after, mode).first() {
        Some(Verdict::Gap { expected }) => {
            let reason = format!("expected version {expected} of the aggregate before it");
            return Err(Undone::Reject(reason));
        }
        Some(Verdict::Stale) => return Ok(Some(Verdict::Stale)),
        _ => Verdict::Next,
    };
    let mut entry = Entry::of_moves(&before, &after);
    entry.arrives(event, None);
    let rows = tx.together(&[entry.step(name, tx.has_begun())]).await?;
    if rows.first().is_none_or(|rows| Entry::read(rows).is_none()) {
        return Err(Undone::Overtaken);
    }
    handle(tx, handler, Item { event, record: &record }).await?;
    awaited::notify(tx, name, &[event]).await?;
    Ok(Some(verdict))
}
