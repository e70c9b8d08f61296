//! Which transactions are settled, and so how far Postgres may forget.
//!
//! Knows: transactions in the order of their commits, and how many of their
//! events are still on the way. Must not know: time, sockets, AWS.
//!
//! A transaction is settled once it was read to its end and each of its events
//! was accepted by the broker or set aside as a dead letter. The flush position
//! passes a transaction only when it and all before it are settled, so a crash
//! at any moment makes Postgres send again whatever was not.

use pgoutput::Lsn;
use std::collections::VecDeque;

/// Names a transaction in the ledger for as long as the process lives.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TransactionId(u64);

/// What the reader shall do with a transaction that begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Begun {
    /// Take its changes, from ordinal `from` on: those before it are on the way
    /// already, from before the connection was lost.
    Take {
        /// Its name.
        id: TransactionId,
        /// The first ordinal that was not taken yet; 0 for a new transaction.
        from: u64,
    },
    /// Pass over it: all of it is on the way or settled.
    Skip,
}

/// A stream that contradicts what this process read before.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LedgerError {
    /// A commit that should have come before ones that were already read.
    #[error(
        "transaction at {commit} came after the one at {newest}: the server's history is not the one read before"
    )]
    OutOfOrder {
        /// The commit LSN that came.
        commit: Lsn,
        /// The newest commit LSN read before it.
        newest: Lsn,
    },
    /// A transaction that was cut off was not sent again.
    #[error(
        "expected the rest of the transaction at {commit}, found the next one: the slot was moved on without this process; restart the relay"
    )]
    Vanished {
        /// The commit LSN of what was cut off.
        commit: Lsn,
    },
}

#[derive(Debug)]
struct Transaction {
    commit_lsn: Lsn,
    /// Changes below this ordinal are in the pipeline.
    taken: u64,
    /// Events that are neither accepted nor set aside.
    pending: usize,
    /// Where the commit record ends and when it was written; `None` until it was read.
    end: Option<(Lsn, i64)>,
}

impl Transaction {
    fn settled_at(&self) -> Option<(Lsn, i64)> {
        self.end.filter(|_| self.pending == 0)
    }
}

/// Transactions between Begin and settled, oldest first.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Only the front can hold the flush position back; the rest wait behind it.
    open: VecDeque<Transaction>,
    /// The name of the front; the others are numbered on from it.
    front: u64,
    /// Never goes back: after a reconnect Postgres may send again what was reported.
    flushed: Lsn,
    /// Up to here the server has sent all that it had.
    received: Lsn,
    /// The commit time of the newest transaction behind the flush position.
    flushed_commit_time: Option<i64>,
}

impl Ledger {
    /// Notes that a transaction begins, by the LSN of its commit record.
    ///
    /// A transaction is told apart by its commit LSN as a whole, never by the
    /// LSN of a change: from Postgres 17 on one commit's end can equal the first
    /// change of the next.
    ///
    /// # Errors
    /// When the commit LSN contradicts the order in which commits were read before.
    pub fn begin(&mut self, commit_lsn: Lsn) -> Result<Begun, LedgerError> {
        // A commit record that starts before the flush position ended at it or before it.
        if commit_lsn < self.flushed {
            return Ok(Begun::Skip);
        }
        match self.open.binary_search_by_key(&commit_lsn, |t| t.commit_lsn) {
            Ok(at) => Ok(match &self.open[at] {
                Transaction { end: Some(_), .. } => Begun::Skip,
                Transaction { taken, .. } => {
                    Begun::Take { id: TransactionId(self.front + at as u64), from: *taken }
                }
            }),
            Err(at) if at == self.open.len() => {
                // It would hold the flush position for ever, and no one would see why.
                if let Some(Transaction { end: None, commit_lsn: commit, .. }) = self.open.back() {
                    return Err(LedgerError::Vanished { commit: *commit });
                }
                self.open.push_back(Transaction { commit_lsn, taken: 0, pending: 0, end: None });
                Ok(Begun::Take { id: TransactionId(self.front + at as u64), from: 0 })
            }
            Err(_) => Err(LedgerError::OutOfOrder {
                commit: commit_lsn,
                newest: self.open.back().map_or(self.flushed, |t| t.commit_lsn),
            }),
        }
    }

    /// Notes that the change with this ordinal was taken, with `events` made from it.
    pub fn take(&mut self, id: TransactionId, ordinal: u64, events: usize) {
        if let Some(transaction) = self.transaction(id) {
            transaction.taken = transaction.taken.max(ordinal.saturating_add(1));
            transaction.pending += events;
        }
    }

    /// Notes that one event of the transaction was accepted or set aside.
    pub fn settle(&mut self, id: TransactionId) {
        if let Some(transaction) = self.transaction(id) {
            debug_assert!(transaction.pending > 0, "settled more events than were taken");
            transaction.pending = transaction.pending.saturating_sub(1);
        }
        self.advance();
    }

    /// Notes that the transaction was read to its end.
    ///
    /// `end_lsn` is where its commit record ends, `commit_time` when it was
    /// written, in microseconds since 2000-01-01.
    pub fn end(&mut self, id: TransactionId, end_lsn: Lsn, commit_time: i64) {
        if let Some(transaction) = self.transaction(id) {
            transaction.end = Some((end_lsn, commit_time));
        }
        self.received = self.received.max(end_lsn);
        self.advance();
    }

    /// Notes that the server has sent all that it had up to `lsn`.
    pub fn received(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
        self.advance();
    }

    /// The position up to which the server has sent everything.
    #[must_use]
    pub fn received_lsn(&self) -> Lsn {
        self.received
    }

    /// The position to confirm: all events before it are published or set aside.
    ///
    /// With nothing open this is the last received position, or a quiet outbox
    /// would hold the write-ahead log of a busy database.
    #[must_use]
    pub fn flush_lsn(&self) -> Lsn {
        self.flushed
    }

    /// When the newest confirmed transaction committed, in microseconds since 2000-01-01.
    #[must_use]
    pub fn flushed_commit_time(&self) -> Option<i64> {
        self.flushed_commit_time
    }

    /// How many transactions were begun and are not settled, or wait for one that is not.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.open.len()
    }

    fn transaction(&mut self, id: TransactionId) -> Option<&mut Transaction> {
        let at = id.0.checked_sub(self.front)?;
        self.open.get_mut(usize::try_from(at).ok()?)
    }

    fn advance(&mut self) {
        while let Some((end, commit_time)) = self.open.front().and_then(Transaction::settled_at) {
            self.open.pop_front();
            self.front += 1;
            self.flushed = self.flushed.max(end);
            self.flushed_commit_time = Some(commit_time);
        }
        if self.open.is_empty() {
            self.flushed = self.flushed.max(self.received);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(begun: Result<Begun, LedgerError>) -> (TransactionId, u64) {
        match begun {
            Ok(Begun::Take { id, from }) => (id, from),
            other => panic!("expected to take the transaction, found {other:?}"),
        }
    }

    #[test]
    fn the_flush_position_waits_for_the_oldest_transaction() {
        let mut ledger = Ledger::default();
        let (first, _) = taken(ledger.begin(Lsn::from(10)));
        ledger.take(first, 0, 1);
        ledger.end(first, Lsn::from(20), 1);
        let (second, _) = taken(ledger.begin(Lsn::from(20)));
        ledger.take(second, 0, 1);
        ledger.end(second, Lsn::from(30), 2);
        ledger.settle(second);
        assert_eq!(ledger.flush_lsn(), Lsn::from(0));
        ledger.settle(first);
        assert_eq!(ledger.flush_lsn(), Lsn::from(30));
        assert_eq!(ledger.flushed_commit_time(), Some(2));
    }

    #[test]
    fn an_idle_slot_advances_and_a_busy_one_does_not() {
        let mut ledger = Ledger::default();
        ledger.received(Lsn::from(5));
        assert_eq!(ledger.flush_lsn(), Lsn::from(5));
        let (id, _) = taken(ledger.begin(Lsn::from(10)));
        ledger.received(Lsn::from(12));
        assert_eq!(ledger.flush_lsn(), Lsn::from(5));
        ledger.end(id, Lsn::from(15), 0);
        assert_eq!(ledger.flush_lsn(), Lsn::from(15));
    }

    #[test]
    fn a_resent_transaction_goes_on_where_it_was_cut() {
        let mut ledger = Ledger::default();
        let (id, from) = taken(ledger.begin(Lsn::from(10)));
        assert_eq!(from, 0);
        ledger.take(id, 0, 1);
        ledger.take(id, 1, 1);
        assert_eq!(ledger.begin(Lsn::from(10)), Ok(Begun::Take { id, from: 2 }));
        ledger.end(id, Lsn::from(20), 0);
        assert_eq!(ledger.begin(Lsn::from(10)), Ok(Begun::Skip));
        ledger.settle(id);
        ledger.settle(id);
        assert_eq!(ledger.begin(Lsn::from(10)), Ok(Begun::Skip));
    }

    #[test]
    fn a_commit_at_the_flush_position_is_new() {
        let mut ledger = Ledger::default();
        ledger.received(Lsn::from(20));
        assert_eq!(taken(ledger.begin(Lsn::from(20))).1, 0);
    }

    #[test]
    fn another_history_is_refused() {
        let mut ledger = Ledger::default();
        let (first, _) = taken(ledger.begin(Lsn::from(10)));
        ledger.take(first, 0, 1);
        ledger.end(first, Lsn::from(15), 0);
        taken(ledger.begin(Lsn::from(30)));
        assert!(matches!(ledger.begin(Lsn::from(20)), Err(LedgerError::OutOfOrder { .. })));
        let vanished = LedgerError::Vanished { commit: Lsn::from(30) };
        assert_eq!(ledger.begin(Lsn::from(40)), Err(vanished));
    }

    proptest! {
        /// Transactions of random sizes settle in random order, with the
        /// connection lost at random moments.
        #[test]
        fn the_flush_position_never_passes_an_unsettled_event_and_never_goes_back(
            sizes in proptest::collection::vec(0_u64..4, 1..20),
            choices in proptest::collection::vec(any::<u16>(), 200),
        ) {
            let mut ledger = Ledger::default();
            let mut choices = choices.into_iter().cycle();
            let mut choose = |n: usize| usize::from(choices.next().unwrap()) % n;
            let commit = |t: usize| Lsn::from(100 * (t as u64 + 1));
            let end = |t: usize| Lsn::from(100 * (t as u64 + 1) + 100);
            // Events on the way, and for each transaction what was taken and settled.
            let mut on_the_way: Vec<(usize, TransactionId)> = Vec::new();
            let mut unsettled = sizes.clone();
            let mut flushed = Lsn::from(0);
            let mut reads = vec![0; sizes.len()];
            let mut ended = vec![false; sizes.len()];
            let mut next = 0;
            for _ in 0..2000 {
                if next == sizes.len() && on_the_way.is_empty() { break; }
                match choose(8) {
                    // The connection is lost: the server resends from the flush position.
                    0 => next = (0..sizes.len()).find(|&t| end(t) > flushed).unwrap_or(sizes.len()),
                    1..=3 if next < sizes.len() => {
                        if let Begun::Take { id, from } = ledger.begin(commit(next)).unwrap() {
                            prop_assert_eq!(from, reads[next], "resumes where it was cut");
                            let upto = (from..=sizes[next]).nth(choose(usize::try_from(sizes[next] - from + 1).unwrap())).unwrap();
                            for ordinal in from..upto {
                                ledger.take(id, ordinal, 1);
                                on_the_way.push((next, id));
                            }
                            reads[next] = upto;
                            if upto == sizes[next] {
                                ledger.end(id, end(next), 0);
                                ended[next] = true;
                                next += 1;
                            } else {
                                next = (0..sizes.len()).find(|&t| end(t) > flushed).unwrap_or(sizes.len());
                            }
                        } else {
                            prop_assert!(ended[next], "only what was read whole is skipped");
                            next += 1;
                        }
                    }
                    _ if !on_the_way.is_empty() => {
                        let (t, id) = on_the_way.swap_remove(choose(on_the_way.len()));
                        ledger.settle(id);
                        unsettled[t] -= 1;
                    }
                    _ => {}
                }
                prop_assert!(ledger.flush_lsn() >= flushed, "never goes back");
                flushed = ledger.flush_lsn();
                for t in 0..sizes.len() {
                    prop_assert!(flushed < end(t) || (ended[t] && unsettled[t] == 0));
                }
            }
        }
    }
}
