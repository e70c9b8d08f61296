//! Effects outside the database: noted in the event's transaction, done after its commit.
//!
//! Knows: `relay.effect`, and that a note is committed before each call, so that a crash in the
//! middle leaves a question and not a second call. Must not know: what is called; how an effect
//! is performed is handed in.
//!
//! ```text
//! handler: tx.effect(…) ─▶ commit ─▶ begun, commit ─▶ perform ─▶ done ┬ or due again ┬ or parked
//! ```

use crate::batch::{Batch, Outcome};
use crate::consumer::Consumer;
use crate::deadline::Deadline;
use crate::error::{Error, chain};
use crate::handler::{Handler, HandlerError, Tx};
use crate::inbox::tenant;
use crate::record::Record;
use crate::undone::Undone;
use envelope::Event;
use futures_util::FutureExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Row;
use uuid::Uuid;

/// How long one call may take where nothing else is said.
const LIMIT: Duration = Duration::from_secs(10);

/// An effect that was begun so many limits ago, and is not over, was begun by a host that is gone.
const LOST_AFTER: u32 = 6;

/// The longest that a receiver may put an effect off.
const LONGEST_DELAY: Duration = Duration::from_hours(12);

/// What the notes before and after a call may take of a delivery's time.
const FOR_THE_NOTES: Duration = Duration::from_millis(250);

/// The longest pause before what was not done is tried again without its message.
const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// How often the database is tried while the end of an effect is to be noted.
const TRIES: u32 = 3;

/// One effect outside the database, noted by a handler and due now.
#[derive(Clone, Debug)]
pub struct Effect {
    /// The event that asks for it: the key by which a receiver can tell a repeat.
    pub event_id: Uuid,
    /// Type of that event, such as `order.paid`.
    pub event_type: String,
    /// Type of the aggregate that the event happened to.
    pub aggregate_type: String,
    /// Id of the aggregate.
    pub aggregate_id: String,
    /// How often it was begun, this time included.
    pub tries: i32,
    request: String,
}

impl Effect {
    /// What the handler noted ([`Tx::effect`]).
    ///
    /// # Errors
    /// When it has another shape: the code has changed since.
    pub fn request<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.request)
    }
}

/// What a call came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Performed {
    /// The effect is there.
    Done,
    /// It is certain that it is not, and it may succeed later: it is due again.
    NotDone(String),
    /// The same, and not before so long, 12 hours at most: it is not begun earlier, though its
    /// message comes again.
    NotDoneFor {
        /// How long.
        after: Duration,
        /// Why.
        reason: String,
    },
    /// It is certain that it is not and never will be: the event is parked with this reason.
    Refused(String),
    /// Nobody can say: the event is parked with this reason, and not performed again unless
    /// someone asks for its replay, or the effects are [repeatable](Effects::repeatable).
    Unknown(String),
}

type Perform = dyn Fn(Effect) -> Pin<Box<dyn Future<Output = Performed> + Send>> + Send + Sync;

/// How effects are performed.
///
/// ```
/// use consumer::{Effects, Performed};
///
/// #[derive(serde::Deserialize)]
/// struct Bell {
///     rings: u8,
/// }
///
/// let effects = Effects::new(|effect| async move {
///     match effect.request::<Bell>() {
///         Ok(bell) => {
///             println!("{} rings for {}", bell.rings, effect.aggregate_id);
///             Performed::Done
///         }
///         Err(_) => Performed::Refused("expected the rings of a bell".to_owned()),
///     }
/// });
/// # let _ = effects;
/// ```
#[derive(Clone)]
pub struct Effects {
    perform: Arc<Perform>,
    limit: Duration,
    repeatable: bool,
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, repeatable, .. } = self;
        f.debug_struct("Effects").field("limit", limit).field("repeatable", repeatable).finish()
    }
}

impl Effects {
    /// Effects that this function performs. It is called once for each effect unless it says
    /// [`Performed::NotDone`].
    #[must_use]
    pub fn new<F>(perform: impl Fn(Effect) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Performed> + Send + 'static,
    {
        let perform: Arc<Perform> = Arc::new(move |effect| Box::pin(perform(effect)));
        Self { perform, limit: LIMIT, repeatable: false }
    }

    /// How long one call may take (10 s): what takes longer is [`Performed::Unknown`], and no call
    /// begins with less time left before the invocation's end.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The receiver tells a repeat by [`Effect::event_id`]: what nobody can say of is performed
    /// again until it is known to be done.
    #[must_use]
    pub fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    /// How much time a delivery must have left for an effect to begin.
    pub(crate) fn time_needed(&self) -> Duration {
        self.limit.saturating_add(FOR_THE_NOTES)
    }

    async fn perform(&self, effect: Effect) -> Performed {
        let call = AssertUnwindSafe(async { (self.perform)(effect).await }).catch_unwind();
        let performed = match tokio::time::timeout(self.limit, call).await {
            Ok(Ok(performed)) => performed,
            Ok(Err(_)) => Performed::Unknown(
                "the code that performs effects panicked; standard error says where".to_owned(),
            ),
            Err(_) => {
                Performed::Unknown(format!("expected an end within {:?}, found none", self.limit))
            }
        };
        match performed {
            Performed::Unknown(reason) if self.repeatable => Performed::NotDone(reason),
            performed => performed,
        }
    }
}

impl Tx<'_> {
    /// Notes an effect outside the database, one for each event: after the commit it is performed
    /// by the consumer's [`Effects`], and not at all if this transaction is rolled back.
    ///
    /// # Errors
    /// When the event has one already, or the consumer performs none
    /// ([`with_effects`](Consumer::with_effects)).
    pub fn effect<T: Serialize + ?Sized>(&mut self, request: &T) -> Result<(), HandlerError> {
        if !self.performs {
            let found = "expected a consumer that performs effects (with_effects), found none";
            return Err(HandlerError::Retry(found.to_owned()));
        }
        let request = serde_json::to_string(request)?;
        match self.effect.replace(request) {
            None => Ok(()),
            Some(_) => Err(HandlerError::Reject(
                "expected one effect for each event, found a second".to_owned(),
            )),
        }
    }
}

/// Notes an effect that is due.
pub(crate) const NOTE: &str = "insert into relay.effect
      (projection, event_id, event_type, aggregate_type, aggregate_id, request, body, tenant_id)
    values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing";

/// Writes the effect that the handler has noted for the event, if it has.
pub(crate) async fn note(
    tx: &mut Tx<'_>,
    projection: &str,
    event: &Event,
    record: &Record,
) -> Result<(), Undone> {
    let Some(request) = tx.effect.take() else { return Ok(()) };
    let Event { event_id, event_type, aggregate_type, aggregate_id, .. } = event;
    tx.write_ours(
        NOTE,
        &[
            &projection,
            event_id,
            event_type,
            aggregate_type,
            aggregate_id,
            &request,
            &record.body,
            &tenant(event),
        ],
    )
    .await
}

/// The events of a delivery that have had their effect on the database, and how often each came.
type Own = HashMap<Uuid, u32>;

/// One step of the work: how the last effect ended, and what may be begun.
struct Turn<'a> {
    over: Option<&'a (Effect, Performed)>,
    /// Events of this delivery whose effect was not tried in it.
    untried: Vec<Uuid>,
    begin: bool,
    lost_after: Duration,
    repeatable: bool,
}

impl<H: Handler> Consumer<H> {
    /// Performs the effects of the delivery's events, and what else is due. The message of an
    /// event whose effect is not over goes back to the queue, which brings it again.
    pub(crate) async fn perform_effects(&mut self, batch: &mut Batch, deadline: &Deadline) {
        let Some(effects) = self.effects.clone() else { return };
        let mut own = Own::new();
        let done = batch.done_events();
        for at in &done {
            let record = batch.record(*at);
            own.extend(record.event().map(|event| (event.event_id, record.receive_count)));
        }
        let open = match self.work_off(&effects, &own, deadline).await {
            Ok(open) => open,
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "effects cannot be performed without the read model; their messages go back to the queue"
                );
                own.into_keys().collect()
            }
        };
        for at in done {
            let id = batch.record(at).event().map(|event| event.event_id);
            if id.is_some_and(|id| open.contains(&id)) {
                batch.settle(at, Outcome::Failed);
            }
        }
    }

    /// One effect after the other; returns the delivery's events whose effect is not over.
    async fn work_off(
        &mut self,
        effects: &Effects,
        own: &Own,
        deadline: &Deadline,
    ) -> Result<HashSet<Uuid>, Error> {
        // A host that can hold its messages for longer has until its last end.
        let last = deadline.last();
        let fits = |needed: Duration| {
            last.is_none_or(|end| needed <= end.saturating_duration_since(Instant::now()))
        };
        let mut tried: HashSet<Uuid> = HashSet::new();
        let mut over: Option<(Effect, Performed)> = None;
        loop {
            let turn = Turn {
                over: over.as_ref(),
                untried: own.keys().filter(|id| !tried.contains(id)).copied().collect(),
                begin: fits(effects.time_needed()),
                lost_after: effects.limit.saturating_mul(LOST_AFTER).min(LONGEST_DELAY),
                repeatable: effects.repeatable,
            };
            let Some(effect) = self.turn(&turn).await? else { break };
            tried.insert(effect.event_id);
            // The note may have taken long. A call that was begun must not be cut off.
            let mut performed = match fits(effects.limit) {
                true => effects.perform(effect.clone()).await,
                false => Performed::NotDone("no time was left for it".to_owned()),
            };
            if let (
                Performed::NotDone(reason) | Performed::NotDoneFor { reason, .. },
                Some(received),
            ) = (&performed, own.get(&effect.event_id))
                && self.park_after.is_some_and(|most| *received >= most)
            {
                let reason = format!("not done in {received} deliveries, the last time: {reason}");
                performed = Performed::Refused(reason);
            }
            self.log_effect(&effect, &performed);
            over = Some((effect, performed));
        }
        self.unfinished(own).await
    }

    /// In one transaction: notes how the last effect ended, and that the next one is begun.
    async fn turn(&mut self, turn: &Turn<'_>) -> Result<Option<Effect>, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_turn(turn).await {
                // A note that was made already is not made twice: the tries are counted.
                Err(Error::Lost(_) | Error::ReadOnly) if tries < TRIES => self.reconnect(),
                other => return other,
            }
        }
    }

    async fn try_turn(&mut self, turn: &Turn<'_>) -> Result<Option<Effect>, Error> {
        let (handler, session) = self.at_work().await?;
        let (transaction, statements) = session.begin().await?;
        let mut tx = Tx::new(transaction.client(), statements);
        let worked = work(&mut tx, handler.name(), turn).await;
        tx.ends(&worked);
        let next = worked.map_err(Error::of_ours)?;
        transaction.commit().await.map_err(Error::of_ours)?;
        Ok(next)
    }

    /// The delivery's events whose effect is due, or begun by another host.
    async fn unfinished(&mut self, own: &Own) -> Result<HashSet<Uuid>, Error> {
        const SQL: &str = "select event_id from relay.effect where projection operator(pg_catalog.=) $1 and event_id operator(pg_catalog.=) any ($2)";
        if own.is_empty() {
            return Ok(HashSet::new());
        }
        let ids: Vec<Uuid> = own.keys().copied().collect();
        let (handler, session) = self.at_work().await?;
        let (transaction, statements) = session.begin().await?;
        let mut tx = Tx::new(transaction.client(), statements);
        let rows = tx.query(SQL, &[&handler.name(), &ids]).await;
        tx.ends(&rows);
        // Rows hold on to their statement: they go before the transaction does.
        let unfinished = rows.map_err(Error::of_ours)?.iter().map(|row| row.get(0)).collect();
        transaction.commit().await.map_err(Error::of_ours)?;
        Ok(unfinished)
    }

    fn log_effect(&self, effect: &Effect, performed: &Performed) {
        let (what, reason) = match performed {
            Performed::Done => return,
            Performed::NotDone(reason) | Performed::NotDoneFor { reason, .. } => {
                ("an effect was not done; it is due again", reason)
            }
            Performed::Refused(reason) => ("an effect will not be done; see relay.parked", reason),
            Performed::Unknown(reason) => (
                "an effect was begun, and nobody can say whether it was done; see relay.parked",
                reason,
            ),
        };
        tracing::warn!(
            projection = self.handler().name(),
            event_id = %effect.event_id,
            event_type = effect.event_type,
            aggregate_type = effect.aggregate_type,
            aggregate_id = effect.aggregate_id,
            tries = effect.tries,
            reason,
            "{what}"
        );
    }
}

async fn work(
    tx: &mut Tx<'_>,
    projection: &str,
    turn: &Turn<'_>,
) -> Result<Option<Effect>, tokio_postgres::Error> {
    match turn.over {
        Some((effect, performed)) => end(tx, projection, effect, performed).await?,
        None => give_up_lost(tx, projection, turn).await?,
    }
    if turn.begin { begin(tx, projection, &turn.untried).await } else { Ok(None) }
}

/// The first effect that is due and has none of its aggregate before it.
async fn begin(
    tx: &mut Tx<'_>,
    projection: &str,
    untried: &[Uuid],
) -> Result<Option<Effect>, tokio_postgres::Error> {
    const SQL: &str = "update relay.effect set begun_at = pg_catalog.clock_timestamp(), tries = tries operator(pg_catalog.+) 1
        where (projection, event_id) operator(pg_catalog.=) (
          select due.projection, due.event_id from relay.effect as due
          where due.projection operator(pg_catalog.=) $1 and due.begun_at is null
            and (due.event_id operator(pg_catalog.=) any ($2) or due.due_at operator(pg_catalog.<=) pg_catalog.clock_timestamp())
            and (due.not_before is null or due.not_before operator(pg_catalog.<=) pg_catalog.clock_timestamp())
            and not exists (
              select from relay.effect as earlier
              where earlier.projection operator(pg_catalog.=) due.projection and earlier.tenant_id operator(pg_catalog.=) due.tenant_id
                and earlier.aggregate_type operator(pg_catalog.=) due.aggregate_type
                and earlier.aggregate_id operator(pg_catalog.=) due.aggregate_id and earlier.place operator(pg_catalog.<) due.place)
          order by due.place limit 1 for update skip locked)
        returning event_id, event_type, aggregate_type, aggregate_id, tries, request";
    let effect = |row: Row| Effect {
        event_id: row.get(0),
        event_type: row.get(1),
        aggregate_type: row.get(2),
        aggregate_id: row.get(3),
        tries: row.get(4),
        request: row.get(5),
    };
    Ok(tx.query_first(SQL, &[&projection, &untried]).await?.map(effect))
}

/// Notes how an effect ended, unless it was taken for lost meanwhile.
async fn end(
    tx: &mut Tx<'_>,
    projection: &str,
    effect: &Effect,
    performed: &Performed,
) -> Result<(), tokio_postgres::Error> {
    const DONE: &str = "delete from relay.effect
        where projection operator(pg_catalog.=) $1 and event_id operator(pg_catalog.=) $2 and tries operator(pg_catalog.=) $3 and begun_at is not null";
    const AGAIN: &str = "update relay.effect
        set begun_at = null, due_at = pg_catalog.clock_timestamp() operator(pg_catalog.+) pg_catalog.make_interval(secs => $4),
          not_before = pg_catalog.clock_timestamp() operator(pg_catalog.+) pg_catalog.make_interval(secs => $5)
        where projection operator(pg_catalog.=) $1 and event_id operator(pg_catalog.=) $2 and tries operator(pg_catalog.=) $3 and begun_at is not null";
    const PARK: &str = "with gone as (delete from relay.effect
          where projection operator(pg_catalog.=) $1 and event_id operator(pg_catalog.=) $2 and tries operator(pg_catalog.=) $3 and begun_at is not null
          returning *)
        insert into relay.parked
          (projection, event_id, event_type, tenant_id, aggregate_type, aggregate_id, reason, body)
        select projection, event_id, event_type, tenant_id, aggregate_type, aggregate_id, $4, body
        from gone
        on conflict (projection, event_id, content) do update set reason = excluded.reason";
    let (id, tries) = (&effect.event_id, &effect.tries);
    match performed {
        Performed::Done => tx.execute(DONE, &[&projection, id, tries]).await,
        Performed::NotDone(_) | Performed::NotDoneFor { .. } => {
            let pause = Duration::from_secs(1 << effect.tries.clamp(0, 10)).min(LONGEST_PAUSE);
            let delay = match performed {
                Performed::NotDoneFor { after, .. } => Some((*after).min(LONGEST_DELAY)),
                _ => None,
            };
            let pause = pause.max(delay.unwrap_or_default()).as_secs_f64();
            let delay = delay.map(|delay| delay.as_secs_f64());
            tx.execute(AGAIN, &[&projection, id, tries, &pause, &delay]).await
        }
        Performed::Refused(reason) | Performed::Unknown(reason) => {
            let reason = reason.replace('\0', "\u{fffd}");
            tx.execute(PARK, &[&projection, id, tries, &reason]).await
        }
    }
    .map(drop)
}

/// What a host has begun that is gone now: parked, or due again where a repeat does no harm.
async fn give_up_lost(
    tx: &mut Tx<'_>,
    projection: &str,
    turn: &Turn<'_>,
) -> Result<(), tokio_postgres::Error> {
    const AGAIN: &str = "update relay.effect set begun_at = null
        where projection operator(pg_catalog.=) $1 and begun_at operator(pg_catalog.<)
            (pg_catalog.clock_timestamp() operator(pg_catalog.-) pg_catalog.make_interval(secs => $2))";
    const PARK: &str = "with gone as (delete from relay.effect
          where projection operator(pg_catalog.=) $1 and begun_at operator(pg_catalog.<)
            (pg_catalog.clock_timestamp() operator(pg_catalog.-) pg_catalog.make_interval(secs => $2))
          returning *)
        insert into relay.parked
          (projection, event_id, event_type, tenant_id, aggregate_type, aggregate_id, reason, body)
        select projection, event_id, event_type, tenant_id, aggregate_type, aggregate_id,
          pg_catalog.format('the effect was begun at %s and its host is gone: nobody can say whether it was done', begun_at), body
        from gone
        on conflict (projection, event_id, content) do update set reason = excluded.reason";
    let sql = if turn.repeatable { AGAIN } else { PARK };
    let lost = tx.execute(sql, &[&projection, &turn.lost_after.as_secs_f64()]).await?;
    if lost > 0 {
        let repeatable = turn.repeatable;
        tracing::error!(projection, lost, repeatable, "effects were begun by a host that is gone");
    }
    Ok(())
}
