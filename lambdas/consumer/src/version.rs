//! What an event's version says about it. Pure.

/// How an event stands to what was applied before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// The next one: apply it.
    Next,
    /// Applied before.
    Duplicate,
    /// Events between are missing: not yet.
    Gap {
        /// The version that comes next.
        expected: i64,
    },
}

/// Compares an event's version with that of the last one applied, 0 for none.
#[must_use]
pub fn step(applied: i64, version: i64) -> Step {
    if version <= applied {
        Step::Duplicate
    } else if version == applied + 1 {
        Step::Next
    } else {
        Step::Gap {
            expected: applied + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_deliveries_apply_each_version_once_and_in_order(deliveries in proptest::collection::vec(1_i64..8, 0..60)) {
            let mut applied = Vec::new();
            for version in deliveries {
                let last = applied.last().copied().unwrap_or(0);
                match step(last, version) {
                    Step::Next => applied.push(version),
                    Step::Duplicate => prop_assert!(applied.contains(&version)),
                    Step::Gap { expected } => prop_assert!(expected < version && !applied.contains(&expected)),
                }
            }
            let wanted: Vec<i64> = (1..).take(applied.len()).collect();
            prop_assert_eq!(applied, wanted);
        }
    }
}
