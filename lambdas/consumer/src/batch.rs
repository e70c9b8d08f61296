//! The records of one delivery and what became of each. PURE.
//!
//! Knows: the partial batch response, the group rule of FIFO queues.
//! Must not know: the database, versions, handlers.

use crate::record::{Content, Record};
use std::collections::HashMap;
use std::time::Duration;
use time::OffsetDateTime;

/// What became of one record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It had its effect now.
    Applied,
    /// It had its effect before.
    Duplicate,
    /// The handler refused it for good; it stands in `relay.parked`.
    Parked,
    /// A later event of its aggregate had its effect before, and the last write wins.
    Stale,
    /// There was nothing to do: a probe.
    Skipped,
    /// An earlier version of its aggregate is missing.
    Gap,
    /// It could not be applied.
    Failed,
    /// An earlier record of its FIFO group was not done.
    HeldBack,
}

impl Outcome {
    /// Whether the queue may forget the record.
    #[must_use]
    pub fn is_done(self) -> bool {
        match self {
            Self::Applied | Self::Duplicate | Self::Parked | Self::Stale | Self::Skipped => true,
            Self::Gap | Self::Failed | Self::HeldBack => false,
        }
    }
}

/// The records of one delivery, in the queue's order.
#[derive(Debug)]
pub(crate) struct Batch {
    records: Vec<Record>,
    outcomes: Vec<Option<Outcome>>,
    delays: HashMap<usize, Duration>,
    restarted: usize,
}

impl Batch {
    /// Takes the records, and settles those that need no database.
    pub(crate) fn new(records: Vec<Record>) -> Self {
        let outcomes = vec![None; records.len()];
        let mut batch = Self { outcomes, records, delays: HashMap::new(), restarted: 0 };
        for at in 0..batch.records.len() {
            if !batch.is_open(at) {
                continue;
            }
            match batch.records[at].content {
                Content::Malformed(_) | Content::ClaimCheck(_) => {
                    batch.settle(at, Outcome::Failed);
                }
                Content::Probe => batch.settle(at, Outcome::Skipped),
                Content::Event(_) => {}
            }
        }
        batch
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn record(&self, at: usize) -> &Record {
        &self.records[at]
    }

    /// The records that are still to be done, in the queue's order.
    pub(crate) fn open(&self) -> Vec<usize> {
        (0..self.records.len()).filter(|at| self.outcomes[*at].is_none()).collect()
    }

    /// The records whose event has had its effect on the database.
    pub(crate) fn done_events(&self) -> Vec<usize> {
        let had =
            |at: &usize| matches!(self.outcomes[*at], Some(Outcome::Applied | Outcome::Duplicate));
        (0..self.records.len()).filter(had).collect()
    }

    pub(crate) fn is_open(&self, at: usize) -> bool {
        self.outcomes[at].is_none()
    }

    /// Notes what became of a record; after a failure the rest of its FIFO group is held back.
    pub(crate) fn settle(&mut self, at: usize, outcome: Outcome) {
        self.outcomes[at] = Some(outcome);
        if outcome.is_done() {
            return;
        }
        if let Some(group) = &self.records[at].group {
            for later in at + 1..self.records.len() {
                let same = self.records[later].group.as_ref() == Some(group);
                if same && self.outcomes[later].is_none_or(Outcome::is_done) {
                    self.outcomes[later] = Some(Outcome::HeldBack);
                }
            }
        }
    }

    /// So many events came under a version that another event had.
    pub(crate) fn count_restarted(&mut self, events: usize) {
        self.restarted += events;
    }

    /// The record is not to be delivered again before so long, nor what waits behind it in its
    /// FIFO group: a queue keeps a group back while one of its messages is with a receiver.
    pub(crate) fn delay(&mut self, at: usize, after: Duration) {
        self.delays.insert(at, after);
        let Some(group) = &self.records[at].group else { return };
        for later in at + 1..self.records.len() {
            let waits = self.outcomes[later] == Some(Outcome::HeldBack);
            if waits && self.records[later].group.as_ref() == Some(group) {
                self.delays.insert(later, after);
            }
        }
    }

    /// Ends the delivery: what is still open goes back to the queue.
    pub(crate) fn finish(mut self) -> Report {
        for at in self.open() {
            self.settle(at, Outcome::Failed);
        }
        let waits = |outcome: &Option<Outcome>| {
            *outcome == Some(Outcome::Applied) || !outcome.is_none_or(Outcome::is_done)
        };
        let judged = self.records.iter().zip(&self.outcomes);
        let oldest = judged
            .filter(|(_, outcome)| waits(outcome))
            .filter_map(|(record, _)| record.event())
            .map(|event| event.timestamp)
            .min();
        let records = self.records.into_iter().zip(self.outcomes);
        Report {
            oldest,
            outcomes: records
                .map(|(record, outcome)| (record.message_id, outcome.unwrap_or(Outcome::Failed)))
                .collect(),
            delays: self.delays,
            restarted: self.restarted,
        }
    }
}

/// What became of a delivery.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Each record's message id and what became of it, in the queue's order.
    pub outcomes: Vec<(Option<String>, Outcome)>,
    /// How long the queue is to keep back those, by their place, that the handler asked that of.
    pub delays: HashMap<usize, Duration>,
    /// The time of the earliest event that had its effect now or still waits for it.
    pub oldest: Option<OffsetDateTime>,
    /// How many events came under a version of their aggregate that another event had
    /// ([`Mode::Versioned`](crate::Mode::Versioned)). They count among `Parked` where
    /// [`park_after`](crate::Consumer::park_after) is set, else among `Duplicate`.
    pub restarted: usize,
}

impl Report {
    /// Nothing of so many records could be done.
    pub(crate) fn failed(count: usize) -> Self {
        Self { outcomes: vec![(None, Outcome::Failed); count], ..Self::default() }
    }

    /// How many records came to this end.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.iter().filter(|(_, o)| *o == outcome).count()
    }

    /// The message ids that go back to the queue.
    ///
    /// `None` when one of them has no id: SQS takes an empty or unknown id for
    /// the failure of the whole batch, so the batch has to be failed as a whole.
    #[must_use]
    pub fn failed_ids(&self) -> Option<Vec<&str>> {
        self.outcomes
            .iter()
            .filter(|(_, outcome)| !outcome.is_done())
            .map(|(id, _)| id.as_deref())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const GOLDEN: &str = include_str!("../../../relay/envelope/golden/relay_1.json");

    fn record(id: usize, group: Option<u8>, body: &str) -> Record {
        let group = group.map(|g| g.to_string());
        let id = Some(format!("m{id}"));
        Record::new(id, Some(body.to_owned()), true, |name| {
            group.as_deref().filter(|_| name == "MessageGroupId")
        })
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Applied),
            Just(Outcome::Duplicate),
            Just(Outcome::Parked),
            Just(Outcome::Gap),
            Just(Outcome::Failed),
        ]
    }

    proptest! {
        /// Settles open records in any order that keeps a group's own, and leaves some open.
        #[test]
        fn every_record_is_done_or_failed_once_and_nothing_follows_a_failure_of_its_group(
            plan in proptest::collection::vec(
                (proptest::option::of(0..3_u8), any::<bool>(), proptest::option::weighted(0.8, outcome())),
                0..12,
            )
        ) {
            let records = plan.iter().enumerate().map(|(at, (group, whole, _))| {
                record(at, *group, if *whole { GOLDEN } else { "{}" })
            }).collect();
            let mut batch = Batch::new(records);
            for (at, (_, _, outcome)) in plan.iter().enumerate() {
                if let (true, Some(outcome)) = (batch.is_open(at), outcome) {
                    batch.settle(at, *outcome);
                }
            }
            let report = batch.finish();
            let ids: Vec<_> = report.outcomes.iter().map(|(id, _)| id.clone().unwrap()).collect();
            let expected: Vec<_> = (0..plan.len()).map(|at| format!("m{at}")).collect();
            prop_assert_eq!(ids, expected);

            let mut stopped = HashSet::new();
            for ((group, whole, _), (_, outcome)) in plan.iter().zip(&report.outcomes) {
                prop_assert!(*whole || !outcome.is_done());
                if let Some(group) = group {
                    prop_assert!(!(stopped.contains(group) && outcome.is_done()));
                    if !outcome.is_done() {
                        stopped.insert(*group);
                    }
                }
                prop_assert!(group.is_some() || *outcome != Outcome::HeldBack);
            }
            let failed = report.outcomes.iter().filter(|(_, o)| !o.is_done()).count();
            prop_assert_eq!(report.failed_ids().unwrap().len(), failed);
        }
    }

    #[test]
    fn a_failed_record_without_an_id_fails_the_whole_batch() {
        let mut anonymous = record(0, None, "{}");
        anonymous.message_id = None;
        let report = Batch::new(vec![anonymous, record(1, None, GOLDEN)]).finish();
        assert_eq!(report.failed_ids(), None);
    }

    #[test]
    fn an_empty_batch_is_an_empty_response() {
        assert_eq!(Batch::new(Vec::new()).finish().failed_ids(), Some(Vec::new()));
    }
}
