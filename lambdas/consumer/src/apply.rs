//! A delivery into the database: one transaction, or one for each event.
//!
//! Knows: the order in which guard, inbox and handler work together.
//! Must not know: hosts, the queue's API.
//!
//! ```text
//! lock progress ─▶ guard ─▶ inbox ─▶ handler, one event after the other ─▶ advance progress ─▶ commit
//! ```

use crate::batch::Outcome;
use crate::database::Session;
use crate::error::Error;
use crate::handler::{Handler, HandlerError, Mode, Tx};
use crate::inbox;
use crate::record::Record;
use crate::version::{self, Candidate, Verdict};
use envelope::Event;

/// An event with the record that it came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) event: &'a Event,
    pub(crate) record: &'a Record,
}

impl<'a> Item<'a> {
    pub(crate) fn candidate(&self) -> Candidate<'a> {
        Candidate { event: self.event, group: self.record.group.as_deref() }
    }
}

/// Why a transaction was rolled back.
#[derive(Debug)]
pub(crate) enum Undone {
    /// The handler wants the event again.
    Retry(String),
    /// The handler refuses the event for good.
    Reject(String),
    /// Postgres refused something.
    Db(tokio_postgres::Error),
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
            HandlerError::Retry(reason) => Self::Retry(reason),
            HandlerError::Reject(reason) => Self::Reject(reason),
            HandlerError::Database(error) => Self::Db(error),
        }
    }
}

/// Applies the items in one transaction: all of what it says happened, or none.
///
/// With `park`, the one item is set aside with that reason instead of handled.
pub(crate) async fn apply<H: Handler>(
    session: &mut Session,
    handler: &H,
    items: &[Item<'_>],
    park: Option<&str>,
) -> Result<Vec<Outcome>, Undone> {
    let (transaction, statements) = session.begin().await.map_err(Undone::NotBegun)?;
    let mut tx = Tx::new(&transaction, statements);
    match work(&mut tx, handler, items, park).await {
        Ok(outcomes) => {
            transaction.commit().await?;
            Ok(outcomes)
        }
        Err(undone) => {
            // A rollback that fails leaves a broken connection, which the next begin finds.
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(%error, "the rollback was not acknowledged");
            }
            Err(undone)
        }
    }
}

async fn work<H: Handler>(
    tx: &mut Tx<'_>,
    handler: &H,
    items: &[Item<'_>],
    park: Option<&str>,
) -> Result<Vec<Outcome>, Undone> {
    let (name, mode) = (handler.name(), handler.mode());
    let candidates: Vec<Candidate<'_>> = items.iter().map(Item::candidate).collect();
    let before = version::lock(tx, name, &candidates, mode).await?;
    let mut after = before.clone();
    let verdicts = version::plan(&candidates, &mut after, mode);

    let arrived: Vec<_> = items
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| **verdict == Verdict::Next)
        .map(|(item, _)| (item.event, item.record.sent_at))
        .collect();
    let mut new = inbox::record(tx, name, &arrived).await?;
    let horizon = match items.iter().any(|item| version::guarded(item.event, mode).is_none()) {
        true => inbox::horizon(tx).await?,
        false => None,
    };

    let mut outcomes = Vec::with_capacity(items.len());
    for (item, verdict) in items.iter().zip(&verdicts) {
        outcomes.push(match verdict {
            Verdict::Duplicate => Outcome::Duplicate,
            Verdict::HeldBack => Outcome::HeldBack,
            Verdict::Gap { expected } => {
                warn_of_gap(item, name, *expected);
                Outcome::Gap
            }
            Verdict::Next if !new.remove(&item.event.event_id) => Outcome::Duplicate,
            Verdict::Next => {
                let reason =
                    park.map(str::to_owned).or_else(|| forgotten(item.event, mode, horizon));
                match reason {
                    Some(reason) => {
                        inbox::park(tx, name, item.event, item.record, &reason).await?;
                        Outcome::Parked
                    }
                    None => {
                        handler.handle(item.event, tx).await?;
                        tx.ensure_alive().await?;
                        Outcome::Applied
                    }
                }
            }
        });
    }
    match version::advance(tx, name, &before, &after).await? {
        true => Ok(outcomes),
        false => Err(Undone::Overtaken),
    }
}

/// Why an event whose day the inbox has forgotten is not applied: it cannot be
/// told from a redelivery. Versions tell, so guarded events of any age may come.
fn forgotten(event: &Event, mode: Mode, horizon: Option<time::Date>) -> Option<String> {
    let horizon = horizon.filter(|_| version::guarded(event, mode).is_none())?;
    let day = inbox::day(event);
    (day < horizon).then(|| {
        format!(
            "expected an event of {horizon} or later, found one of {day}: the inbox has forgotten that day, so it cannot be told whether the event had its effect"
        )
    })
}

fn warn_of_gap(item: &Item<'_>, projection: &str, expected: i64) {
    tracing::warn!(
        projection,
        event_id = %item.event.event_id,
        event_type = item.event.event_type,
        aggregate_type = item.event.aggregate_type,
        aggregate_id = item.event.aggregate_id,
        found = item.event.aggregate_version,
        expected,
        receive_count = item.record.receive_count,
        "gap: earlier versions of the aggregate are missing; the event goes back to the queue"
    );
}
