//! The size limit of one topic or queue, as far as it is known.

use super::DEFAULT_LIMIT;
use super::schedule::BatchLimits;
use std::sync::atomic::{AtomicUsize, Ordering};

/// In bytes; 0 while it is not known.
#[derive(Debug, Default)]
pub(super) struct Limit(AtomicUsize);

impl Limit {
    /// The destination answered; `set` is what is set on it, if anything.
    pub(super) fn learned(&self, set: Option<usize>) {
        let bytes = set.filter(|bytes| *bytes > 0).unwrap_or(DEFAULT_LIMIT);
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// What was learned may not hold any more, and cannot be asked for.
    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// What one request may hold.
    pub(super) fn limits(&self) -> BatchLimits {
        let bytes = self.0.load(Ordering::Relaxed);
        BatchLimits::of_aws((bytes > 0).then_some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::LARGEST_MESSAGE;

    #[test]
    fn an_answer_without_the_limit_means_the_default_and_no_answer_lets_the_broker_judge() {
        let limit = Limit::default();
        assert_eq!(
            (limit.limits().bytes, limit.limits().largest),
            (DEFAULT_LIMIT, LARGEST_MESSAGE)
        );
        limit.learned(None);
        assert_eq!((limit.limits().bytes, limit.limits().largest), (DEFAULT_LIMIT, DEFAULT_LIMIT));
        limit.learned(Some(1024));
        assert_eq!((limit.limits().bytes, limit.limits().largest), (1024, 1024));
        limit.forget();
        assert_eq!(limit.limits().largest, LARGEST_MESSAGE);
    }
}
