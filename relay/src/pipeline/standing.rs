//! How the destinations stand: said when one holds back the rest.

use super::Pipeline;
use crate::condition::Condition;
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

    /// Tells of messages that a role wrote which may not make the relay send.
    fn tell_forged(&mut self) {
        let forged = self.intake.forged();
        let Some(last) = forged.last.filter(|_| forged.count > self.forged) else { return };
        self.meters.forged(forged.count - self.forged);
        self.forged = forged.count;
        let found = format!(
            "expected only messages that relay.emit or relay.redrive signed, found {} others under their prefixes since this relay started, the last at {} in transaction {}; they were passed over",
            forged.count, last.position, last.xid
        );
        let cure = "find who calls pg_logical_emit_message with a prefix of the relay; a role that may publish calls relay.emit and has EXECUTE on relay.emit_event";
        self.conditions.set("forged-messages", "", Condition::notice(found, cure));
    }

    /// Gives a sign of life and sets the gauges.
    pub(super) fn measure(&mut self) {
        let streaming = matches!(self.source, Source::Streaming(_));
        self.pulse.beat(streaming);
        let ledger = self.intake.ledger();
        let sample = Sample {
            streaming,
            open_transactions: ledger.open_transactions(),
            unconfirmed: ledger.received_lsn().bytes_since(ledger.flush_lsn()),
            confirmed_time: ledger.flushed_commit_time(),
            held: self.schedule.weight(),
            budget: self.schedule.budget(),
        };
        self.watch_waiting(Instant::now());
        self.meters.set(sample, self.schedule.states());
        self.tell_forged();
        self.meters.conditions(&self.conditions.counts());
    }
}
