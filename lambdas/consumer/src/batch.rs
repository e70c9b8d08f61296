//! Which messages of a batch go back to the queue.
//!
//! Pure. On a FIFO queue nothing of a group that comes after a failure may count
//! as done, or it would have had its effect before the one that failed.

use crate::record::Record;
use std::collections::HashSet;

/// Keeps account of a batch while it is worked on, in its order.
#[derive(Debug, Default)]
pub struct Batch {
    failed: Vec<String>,
    stopped_groups: HashSet<String>,
    done: usize,
}

impl Batch {
    /// Whether this record's group has failed before, so that it must not be tried.
    #[must_use]
    pub fn is_stopped(&self, record: &Record) -> bool {
        record
            .group
            .as_ref()
            .is_some_and(|group| self.stopped_groups.contains(group))
    }

    /// Takes note that a record had its effect, or needs none.
    pub fn done(&mut self) {
        self.done += 1;
    }

    /// Takes note that a record goes back, and its group with it.
    pub fn failed(&mut self, record: &Record) {
        self.failed.push(record.message_id.clone());
        if let Some(group) = &record.group {
            self.stopped_groups.insert(group.clone());
        }
    }

    /// The ids of the messages that go back to the queue.
    #[must_use]
    pub fn into_failed(self) -> Vec<String> {
        self.failed
    }

    /// How many records are done.
    #[must_use]
    pub fn count_done(&self) -> usize {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_record_is_done_or_failed_and_nothing_of_a_group_is_done_after_its_failure(
            records in proptest::collection::vec((proptest::option::of(0_u8..3), any::<bool>()), 0..30),
        ) {
            let mut batch = Batch::default();
            let mut done: Vec<usize> = Vec::new();
            for (n, (group, works)) in records.iter().enumerate() {
                let record = Record { message_id: n.to_string(), group: group.map(|g| g.to_string()), ..Record::default() };
                if batch.is_stopped(&record) || !works {
                    batch.failed(&record);
                } else {
                    batch.done();
                    done.push(n);
                }
            }
            prop_assert_eq!(batch.count_done(), done.len());
            let failed: Vec<usize> = batch.into_failed().iter().map(|id| id.parse().unwrap()).collect();
            let mut all: Vec<usize> = done.iter().chain(&failed).copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..records.len()).collect::<Vec<_>>());
            for f in failed {
                for d in &done {
                    prop_assert!(records[f].0.is_none() || records[f].0 != records[*d].0 || *d < f);
                }
            }
        }
    }
}
