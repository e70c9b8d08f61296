//! What keeps failing in the background, for whoever turns it into a condition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tasks whose last attempt failed, each with the words of its failure. Clones share one list.
///
/// A task notes each failure under a number of its own and removes it when it has succeeded, so
/// that the success of one does not hide the failure of another.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Tasks that are not over.
    tasks: usize,
    by_task: BTreeMap<u64, String>,
}

/// One task; dropped, its failure is forgotten.
#[derive(Debug)]
pub struct Task {
    failures: Failures,
    number: u64,
}

impl Failures {
    /// A task that has not failed.
    #[must_use]
    pub fn task(&self) -> Task {
        let mut state = self.lock();
        state.next += 1;
        state.tasks += 1;
        Task { failures: self.clone(), number: state.next }
    }

    /// The failure of the oldest task that fails; `None` when none does.
    #[must_use]
    pub fn oldest(&self) -> Option<String> {
        self.lock().by_task.values().next().cloned()
    }

    /// How many tasks are not over, failing or not.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.lock().tasks
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the list half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    /// The last attempt failed, in these words.
    pub fn failed(&self, words: String) {
        self.failures.lock().by_task.insert(self.number, words);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.failures.lock();
        state.by_task.remove(&self.number);
        state.tasks = state.tasks.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_success_of_one_task_does_not_hide_the_failure_of_another() {
        let failures = Failures::default();
        let (first, second) = (failures.task(), failures.task());
        first.failed("a".to_owned());
        second.failed("b".to_owned());
        assert_eq!(failures.oldest().as_deref(), Some("a"));
        drop(first);
        assert_eq!((failures.oldest().as_deref(), failures.tasks()), (Some("b"), 1));
        drop(second);
        assert_eq!((failures.oldest(), failures.tasks()), (None, 0));
    }
}
