//! Events one by one, each in a transaction of its own.
//!
//! Knows: what is tried again at once, what is parked, what goes back to the queue. Must not know: the
//! queue's API, SQL.

use super::{Consumer, FIRST_PAUSE, item, tell};
use crate::apply::{Applied, Item, Manner, apply};
use crate::batch::{Batch, Outcome};
use crate::deadline::Deadline;
use crate::error::{Error, chain, describe, is_contention, is_final, is_lost, is_unique_violation};
use crate::handler::Handler;
use crate::keep;
use crate::undone::{PANICKED, Undone};
use crate::version::sort_within_aggregates;
use std::time::Duration;

/// How often one event is tried in one delivery when others are in its way.
const TRIES: u32 = 5;

/// How one event came out.
enum OneEnd {
    /// So, and it is not to come again before so long.
    Came(Outcome, Option<Duration>),
    /// It is over, in the way that this says.
    Applied(Applied),
    /// There was no time left for it.
    OutOfTime,
}

impl<H: Handler> Consumer<H> {
    /// Each event in a transaction of its own.
    pub(super) async fn one_by_one(
        &mut self,
        batch: &mut Batch,
        open: &[usize],
        deadline: &Deadline,
    ) -> Result<(), Error> {
        let mode = self.handler.mode();
        let mut items: Vec<_> =
            open.iter().filter_map(|at| item(batch, *at).map(|item| (*at, item))).collect();
        sort_within_aggregates(&mut items, |(_, item)| item.candidate(), mode);
        let order: Vec<usize> = items.into_iter().map(|(at, _)| at).collect();
        let mut done_any = false;
        for at in order {
            if !batch.is_open(at) {
                continue;
            }
            let Some(one) = item(batch, at) else { continue };
            match self.one(one, deadline).await {
                Ok(OneEnd::OutOfTime) => {
                    self.log(
                        one,
                        "the time was over before the event had its effect: it goes back to the queue, with the rest of the batch",
                    );
                    return Ok(());
                }
                Ok(OneEnd::Applied(applied)) => {
                    done_any = true;
                    batch.count_restarted(applied.restarted());
                    batch.settle(at, applied.outcomes.first().copied().unwrap_or(Outcome::Failed));
                }
                Ok(OneEnd::Came(outcome, delay)) => {
                    done_any = true;
                    batch.settle(at, outcome);
                    if let Some(delay) = delay {
                        batch.delay(at, delay);
                    }
                }
                Err(error) if done_any => {
                    // Those that are done need not come again; the rest does.
                    tracing::error!(
                        error = chain(&error),
                        "the rest of the batch goes back to the queue"
                    );
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One event: again at once where another transaction or a broken
    /// connection was in the way, parked where the handler refuses it.
    async fn one(&mut self, item: Item<'_>, deadline: &Deadline) -> Result<OneEnd, Error> {
        let mut park: Option<String> = None;
        let (mut tries, mut pause) = (0, FIRST_PAUSE);
        // A key that no index holds is parked without a look at what is there.
        let mut unkeepable = keep::too_long(item.event);
        loop {
            tries += 1;
            self.reach(deadline).await?;
            let session = self.database.session(self.handler.name()).await?;
            if let Some(reason) = &unkeepable {
                let parked =
                    deadline.before(keep::park(session, self.handler.name(), item, reason)).await;
                match parked {
                    Ok(()) => {
                        self.log(item, "parked: see relay.parked for the event and the reason");
                        return Ok(OneEnd::Came(Outcome::Parked, None));
                    }
                    Err(undone) => {
                        self.clear_up(&undone);
                        match undone {
                            Undone::OutOfTime => return Ok(OneEnd::OutOfTime),
                            Undone::NotBegun(error) if tries >= TRIES => return Err(error),
                            Undone::Db(error) if tries >= TRIES || is_final(&error) => {
                                self.log(item, &format!("to be retried: {}", describe(&error)));
                                return Ok(OneEnd::Came(Outcome::Failed, None));
                            }
                            _ => continue,
                        }
                    }
                }
            }
            let manner = Manner { park: park.as_deref(), receives: self.park_after };
            let applied = deadline.before(apply(session, &self.handler, &[item], manner)).await;
            let undone = match applied {
                Ok(applied) => {
                    tell(&mut self.told, self.handler.name(), &[item], &applied);
                    if applied.outcomes.first() == Some(&Outcome::Parked) {
                        self.log(item, "parked: see relay.parked for the event and the reason");
                    }
                    return Ok(OneEnd::Applied(applied));
                }
                Err(undone) => undone,
            };
            self.clear_up(&undone);
            let again = tries < TRIES;
            let (reason, delay) = match undone {
                Undone::OutOfTime => return Ok(OneEnd::OutOfTime),
                // Not the event's fault, so it is held. The first time a connection made anew may do.
                Undone::Unfit(error) => {
                    if tries > 1 && !self.wait_for_read_model(&error, &mut pause, deadline).await {
                        return Err(error);
                    }
                    continue;
                }
                Undone::Reject(reason) if park.is_none() => {
                    park = Some(reason);
                    continue;
                }
                Undone::Db(error) if is_final(&error) => {
                    match park.take() {
                        None => park = Some(describe(&error)),
                        // Not even that it is parked can be kept beside the others.
                        Some(reason) => unkeepable = Some(reason),
                    }
                    continue;
                }
                Undone::Overtaken if again => continue,
                // Another host may have made the row that the handler found missing.
                Undone::Db(error) if tries == 1 && is_unique_violation(&error) => continue,
                Undone::Db(error) if again && (is_contention(&error) || is_lost(&error)) => {
                    continue;
                }
                Undone::NotBegun(_) if again => continue,
                Undone::NotBegun(error) => return Err(error),
                Undone::Db(error) if is_lost(&error) => return Err(Error::Lost(error)),
                Undone::Retry(reason, delay) => (reason, delay),
                Undone::Reject(reason) => (reason, None),
                Undone::Db(error) => (describe(&error), None),
                Undone::Panicked => (PANICKED.to_owned(), None),
                Undone::Overtaken => ("other hosts are working on its aggregate".to_owned(), None),
            };
            let received = item.record.receive_count;
            if park.is_none() && self.park_after.is_some_and(|most| received >= most) {
                park = Some(format!("failed in {received} deliveries, the last time: {reason}"));
                tries = 0;
                continue;
            }
            self.log(item, &format!("to be retried: {reason}"));
            return Ok(OneEnd::Came(Outcome::Failed, delay));
        }
    }
}
