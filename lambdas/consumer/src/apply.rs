//! A delivery into the database: one transaction, or one for each event.
//!
//! Knows: the order in which guard, inbox and handler work together.
//! Must not know: hosts, the queue's API.
//!
//! ```text
//! lock progress ─▶ guard ─▶ advance progress, inbox ─▶ handler, one event after the other ─▶ commit
//! ```

use crate::awaited;
use crate::batch::Outcome;
use crate::database::Session;
use crate::effect;
use crate::error::{Error, is_unique_violation, may_be_read_only};
use crate::handler::{Handler, HandlerError, Mode, Tx};
use crate::inbox::{self, Repeats};
use crate::ledger::{Entry, Recorded};
use crate::oddity::Oddity;
use crate::record::Record;
use crate::traces;
use crate::undone::{PANICKED, Undone};
use crate::version::{self, Candidate, Progress, Verdict};
use envelope::Event;
use futures_util::FutureExt as _;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use time::Date;
use tracing::Instrument as _;

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

/// Options for applying a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner<'a> {
    /// The one item is set aside with this reason instead of handled.
    pub(crate) park: Option<&'a str>,
    /// An event that was received so often is set aside where it would go back to the queue.
    pub(crate) receives: Option<u32>,
}

/// What a transaction did with its items.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// One for each item, in their order.
    pub(crate) outcomes: Vec<Outcome>,
    /// What is odd, with the index of its item.
    pub(crate) odd: Vec<(usize, Oddity)>,
}

impl Applied {
    /// How many events came under a version that another event had.
    pub(crate) fn restarted(&self) -> usize {
        let is_restart =
            |(_, oddity): &&(usize, Oddity)| matches!(oddity, Oddity::Restarted { .. });
        self.odd.iter().filter(is_restart).count()
    }
}

/// Applies the items in one transaction: all of what it says happened, or none.
///
/// First as if each of them were new and the next of its aggregate, which takes no look at what
/// is there before it is written. Where that turns out otherwise, the other way round.
///
/// A panic on the way (a value of the event that a conversion cannot take) is an error of it.
pub(crate) async fn apply<H: Handler>(
    session: &mut Session,
    handler: &H,
    items: &[Item<'_>],
    manner: Manner<'_>,
) -> Result<Applied, Undone> {
    let applied = AssertUnwindSafe(apply_all(session, handler, items, manner)).catch_unwind().await;
    applied.unwrap_or(Err(Undone::Panicked))
}

async fn apply_all<H: Handler>(
    session: &mut Session,
    handler: &H,
    items: &[Item<'_>],
    manner: Manner<'_>,
) -> Result<Applied, Undone> {
    for assume in [true, false] {
        let (performs, begin) = (session.performs(), session.begin_sql());
        let (client, statements) = session.open();
        let mut tx = Tx::to_begin(client, statements, begin);
        tx.performs = performs;
        let worked = match judge(&mut tx, handler, items, assume).await {
            Ok(Some(judged)) => carry_out(&mut tx, handler, items, judged, manner).await.map(Some),
            Ok(None) => Ok(None),
            Err(undone) => Err(undone),
        };
        let worked = match worked {
            Ok(Some(applied)) => tx.commit().await.map(|()| Some(applied)),
            Ok(None) => tx.end(Ok(None)).await,
            Err(undone) => tx.end(Err(undone)).await,
        };
        match worked {
            Ok(Some(applied)) => {
                session.committed();
                return Ok(applied);
            }
            Ok(None) => session.rollback().await,
            // There is nothing to roll back, and maybe no one to answer.
            Err(undone @ Undone::NotBegun(_)) => return Err(undone),
            Err(undone) => {
                session.rollback().await;
                return Err(of_server(session, undone).await);
            }
        }
    }
    Err(Undone::Overtaken)
}

/// The same, or that the server takes no writes, where that is behind it.
async fn of_server(session: &Session, undone: Undone) -> Undone {
    match undone {
        Undone::Db(error) if may_be_read_only(&error) && !session.takes_writes().await => {
            Undone::Unfit(Error::ReadOnly)
        }
        undone => undone,
    }
}

/// The work of a transaction that has begun, up to its commit.
pub(crate) async fn work<H: Handler>(
    tx: &mut Tx<'_>,
    handler: &H,
    items: &[Item<'_>],
    manner: Manner<'_>,
) -> Result<Applied, Undone> {
    let judged = look(tx, handler.name(), handler.mode(), items).await?;
    carry_out(tx, handler, items, judged, manner).await
}

/// What is known of the items before the first of them is handled; their inbox rows are written.
struct Judged {
    verdicts: Vec<Verdict>,
    before: Progress,
    news: News,
}

/// By what is there, or by an assumption about it: nothing if that was wrong.
async fn judge<H: Handler>(
    tx: &mut Tx<'_>,
    handler: &H,
    items: &[Item<'_>],
    assume: bool,
) -> Result<Option<Judged>, Undone> {
    let (name, mode) = (handler.name(), handler.mode());
    if !assume {
        return look(tx, name, mode, items).await.map(Some);
    }
    let candidates: Vec<Candidate<'_>> = items.iter().map(Item::candidate).collect();
    let Some(before) = version::assume(&candidates, mode) else {
        return look(tx, name, mode, items).await.map(Some);
    };
    let mut after = before.clone();
    let verdicts = version::plan(&candidates, &mut after, mode);
    let mut entry = Entry::of_moves(&before, &after);
    if items.iter().all(|item| version::guarded(item.event, mode).is_some()) {
        entry = entry.all_next();
    }
    match News::read(tx, name, mode, items, &verdicts, entry).await {
        Ok(news) => Ok(Some(Judged { verdicts, before, news })),
        Err(Undone::Overtaken) => Ok(None),
        // An event has the id of another.
        Err(Undone::Db(error)) if is_unique_violation(&error) => Ok(None),
        Err(undone) => Err(undone),
    }
}

/// By what is there, which is locked first.
async fn look(
    tx: &mut Tx<'_>,
    name: &str,
    mode: Mode,
    items: &[Item<'_>],
) -> Result<Judged, Undone> {
    let candidates: Vec<Candidate<'_>> = items.iter().map(Item::candidate).collect();
    let before = version::lock(tx, name, &candidates, mode).await?;
    let mut after = before.clone();
    let verdicts = version::plan(&candidates, &mut after, mode);
    // Where the last write wins, what turns out to have no effect must make no other stale.
    let planned = if mode == Mode::Latest { &before } else { &after };
    let moves = Entry::of_moves(&before, planned);
    let news = News::read(tx, name, mode, items, &verdicts, moves).await?;
    Ok(Judged { verdicts, before, news })
}

/// Does with each item what is to be done with it.
async fn carry_out<H: Handler>(
    tx: &mut Tx<'_>,
    handler: &H,
    items: &[Item<'_>],
    judged: Judged,
    manner: Manner<'_>,
) -> Result<Applied, Undone> {
    let (name, mode) = (handler.name(), handler.mode());
    let Judged { verdicts, before, mut news } = judged;
    let mut applied = Applied::default();
    let mut marks = before.clone();
    for (at, (item, verdict)) in items.iter().zip(&verdicts).enumerate() {
        let oddity = oddity(at, item, *verdict, &news, &marks, mode);
        applied.odd.extend(oddity.map(|oddity| (at, oddity)));
        let fate = fate(item, *verdict, oddity, &mut news, mode, manner);
        if let Fate::Park(reason) = &fate {
            inbox::park(tx, name, item.event, item.record, reason).await?;
        }
        applied.outcomes.push(match fate {
            Fate::Park(_) => Outcome::Parked,
            Fate::Settled(outcome) => outcome,
            Fate::Handle => {
                handle(tx, handler, *item).await?;
                version::applied(&mut marks, &item.candidate(), mode);
                Outcome::Applied
            }
        });
    }
    if mode == Mode::Latest && !version::advance(tx, name, &before, &marks).await? {
        return Err(Undone::Overtaken);
    }
    if news.recorded.awaited {
        let events: Vec<&Event> = items.iter().map(|item| item.event).collect();
        awaited::notify(tx, name, &events).await?;
    }
    Ok(applied)
}

/// Gives one event to the handler; what is logged meanwhile carries the event's names.
pub(crate) async fn handle<H: Handler>(
    tx: &mut Tx<'_>,
    handler: &H,
    item: Item<'_>,
) -> Result<(), Undone> {
    let Item { event, record } = item;
    tx.begin_event(handler.name(), event);
    let span = traces::of_event(handler.name(), item, tx.traceparent());
    let handled = AssertUnwindSafe(handler.handle(event, tx).instrument(span.clone()));
    // What a handler that panics has written is rolled back, like that of one that fails.
    let handled = handled.catch_unwind().await;
    let handled = handled.unwrap_or_else(|_| Err(HandlerError::Retry(PANICKED.to_owned())));
    if let Err(error) = &handled {
        traces::event_failed(&span, error);
    }
    handled?;
    effect::note(tx, handler.name(), event, record).await?;
    tx.ensure_alive().await?;
    Ok(())
}

/// What the inbox says of the items.
struct News {
    /// Its new events are those that were not handled yet.
    recorded: Recorded,
    /// What the others are, compared with what was there before.
    repeats: Repeats,
    /// The places of events without a version whose aggregate has had events with one.
    mixed: HashSet<usize>,
    horizon: Option<Date>,
}

impl News {
    /// Records those that versions let through, with the moves of the progress, and compares the
    /// others with what is there.
    async fn read<'a>(
        tx: &mut Tx<'_>,
        name: &'a str,
        mode: Mode,
        items: &[Item<'a>],
        verdicts: &[Verdict],
        mut entry: Entry<'a>,
    ) -> Result<Self, Undone> {
        let judged = || items.iter().zip(verdicts);
        for (item, _) in judged().filter(|(_, verdict)| **verdict == Verdict::Next) {
            entry.arrives(item.event, item.record.sent_at);
        }
        let (records, begun) = (!entry.is_empty(), tx.has_begun());
        let unguarded: Vec<(usize, &Event)> = items
            .iter()
            .map(|item| item.event)
            .enumerate()
            .filter(|(_, event)| version::guarded(event, mode).is_none())
            .collect();
        let asks_horizon = !unguarded.is_empty();
        let asks_mixed = asks_horizon && mode == Mode::Versioned;
        let mut steps = Vec::from_iter(records.then(|| entry.step(name, begun)));
        steps.extend(asks_horizon.then(inbox::horizon));
        steps.extend(asks_mixed.then(|| version::versioned_among(name, &unguarded)));
        let mut rows = tx.together(&steps).await?.into_iter();
        let mut next = |asked: bool| asked.then(|| rows.next()).flatten().unwrap_or_default();
        let recorded = match records {
            true => Entry::read(&next(true)).ok_or(Undone::Overtaken)?,
            false => Recorded::default(),
        };
        let horizon = inbox::first_day(&next(asks_horizon));
        let mixed = version::places(&next(asks_mixed));
        let mut first = recorded.new.clone();
        let repeated: Vec<&Event> = judged()
            .filter(|(item, verdict)| match verdict {
                Verdict::Duplicate | Verdict::Stale => true,
                // The same event may stand twice in one delivery.
                Verdict::Next => !first.remove(&item.event.event_id),
                Verdict::Gap { .. } | Verdict::HeldBack => false,
            })
            .map(|(item, _)| item.event)
            .collect();
        let repeats = inbox::compare(tx, name, &repeated).await.map_err(Undone::of_ours)?;
        Ok(Self { recorded, repeats, mixed, horizon })
    }
}

/// What is to be done with an item.
enum Fate {
    Handle,
    Park(String),
    Settled(Outcome),
}

/// What is odd about an item's version, if anything is. `marks` is where each aggregate stands.
fn oddity(
    at: usize,
    item: &Item<'_>,
    verdict: Verdict,
    news: &News,
    marks: &Progress,
    mode: Mode,
) -> Option<Oddity> {
    let event = item.event;
    let stands = || marks.get(&version::key(event)).map(|mark| mark.version);
    match (verdict, mode) {
        (Verdict::Gap { expected }, _) => Some(Oddity::Gap { expected }),
        (Verdict::Duplicate, Mode::Versioned) if news.repeats.unknown.contains(&event.event_id) => {
            Some(Oddity::Restarted { applied: stands().unwrap_or_default() })
        }
        (_, Mode::Latest) => {
            let versioned = event.aggregate_version.is_some();
            stands().is_some_and(|version| (version > 0) != versioned).then_some(Oddity::Mixed)
        }
        _ => news.mixed.contains(&at).then_some(Oddity::Mixed),
    }
}

fn fate(
    item: &Item<'_>,
    verdict: Verdict,
    oddity: Option<Oddity>,
    news: &mut News,
    mode: Mode,
    manner: Manner<'_>,
) -> Fate {
    let (id, changed) = (item.event.event_id, &news.repeats.changed);
    let changed = !changed.is_empty() && changed.contains(&(id, inbox::content(item.event)));
    let received = item.record.receive_count;
    match (verdict, oddity) {
        (Verdict::HeldBack, _) => Fate::Settled(Outcome::HeldBack),
        _ if changed => Fate::Park(
            "expected what came under this event_id before, found another content; two events must not share an id".to_owned(),
        ),
        (_, Some(Oddity::Restarted { applied })) if manner.receives.is_some() => Fate::Park(format!(
            "expected a version above {applied}, found {} of an event that was not applied before: the aggregate's versions began again, or two writers count them",
            item.event.aggregate_version.unwrap_or_default()
        )),
        (Verdict::Duplicate, _) => Fate::Settled(Outcome::Duplicate),
        (Verdict::Stale, _) => Fate::Settled(Outcome::Stale),
        (Verdict::Gap { expected }, _) if manner.receives.is_some_and(|most| received >= most) => {
            Fate::Park(format!(
                "expected version {expected} of the aggregate before it, and did not get it in {received} deliveries"
            ))
        }
        (Verdict::Gap { .. }, _) => Fate::Settled(Outcome::Gap),
        (Verdict::Next, _) if !news.recorded.new.remove(&id) => Fate::Settled(Outcome::Duplicate),
        (Verdict::Next, _) => {
            let reason = manner.park.map(str::to_owned);
            let reason = reason.or_else(|| forgotten(item.event, mode, news.horizon));
            reason.map_or(Fate::Handle, Fate::Park)
        }
    }
}

/// Why an event whose day the inbox has forgotten is not applied: it cannot be
/// told from a redelivery. Versions tell, so guarded events of any age may come.
fn forgotten(event: &Event, mode: Mode, horizon: Option<Date>) -> Option<String> {
    let horizon = horizon.filter(|_| version::guarded(event, mode).is_none())?;
    let day = inbox::happened_on(event);
    (day < horizon).then(|| {
        format!(
            "expected an event of {horizon} or later, found one of {day}: the inbox has forgotten that day, so it cannot be told whether the event had its effect"
        )
    })
}
