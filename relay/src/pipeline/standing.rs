//! How the destinations stand: said when one holds back the rest, and written down.

use super::{Done, Pipeline};
use crate::observe::metric::Sample;
use crate::publish::Publisher;
use crate::publish::schedule::LaneState;
use crate::source::Source;
use std::time::Instant;

impl<P: Publisher> Pipeline<P> {
    /// Says which destination holds back the rest, once its events fill the budget.
    pub(super) fn watch_budget(&mut self) {
        if self.schedule.has_room() {
            if let Some(at) = self.holder.take() {
                tracing::info!(
                    destination = self.destinations[at].publisher.name(),
                    "there is room in the budget again"
                );
                self.health.holds_all_back(at, false);
            }
            return;
        }
        if self.holder.is_some() {
            return;
        }
        let half = self.schedule.weight() / 2;
        let stuck = |(at, state): &(usize, LaneState)| {
            let takes_none = state.open || state.halted || self.health.bucket_is_broken(*at);
            takes_none && state.weight > half
        };
        let Some((at, state)) = self.schedule.states().enumerate().find(stuck) else {
            return;
        };
        tracing::error!(
            destination = self.destinations[at].publisher.name(),
            held = state.held,
            bytes = state.weight,
            "the budget of bytes in flight is spent, most of it on a destination that does not take events: nothing is read for the others either until it does; Postgres keeps what is not read"
        );
        self.health.holds_all_back(at, true);
        self.holder = Some(at);
    }

    /// Writes down what changed.
    pub(super) fn note_standing(&mut self) {
        // Before the first session nothing is known to be there to write to.
        if self.identity.is_none() {
            return;
        }
        let names: Vec<&str> = self.destinations.iter().map(|to| to.publisher.name()).collect();
        if let Some(note) = self.health.note(&names, Instant::now()) {
            self.under_way.push(Box::pin(async move { Done::Noted(note.write().await) }));
        }
    }

    /// Gives a sign of life and sets the gauges.
    pub(super) fn measure(&mut self) {
        let streaming = matches!(self.source, Source::Streaming(_));
        self.pulse.beat(streaming, self.holder.is_some());
        let ledger = self.intake.ledger();
        let sample = Sample {
            streaming,
            open_transactions: ledger.open_transactions(),
            unconfirmed: ledger.received_lsn().bytes_since(ledger.flush_lsn()),
            confirmed_time: ledger.flushed_commit_time(),
            held: self.schedule.weight(),
            budget: self.schedule.budget(),
        };
        self.meters.set(sample, self.schedule.states());
    }
}
