//! Where an event stands in the stream of committed changes.

use std::fmt;
use std::str::FromStr;

/// The commit LSN of an event's transaction and its place in that transaction.
///
/// Its text, `00000000016b3748-00000003`, has a fixed width, so comparing two
/// texts as strings compares the positions.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The LSN of the commit record, as Postgres numbers it.
    pub commit_lsn: u64,
    /// The place among the transaction's changes, from 0.
    pub ordinal: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}", self.commit_lsn, self.ordinal)
    }
}

/// A text that is not a position.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a position of 16 and 8 hexadecimal digits joined by `-`")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (commit, ordinal) = text.split_once('-').ok_or(InvalidPosition)?;
        let all_hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
        if commit.len() != 16 || ordinal.len() != 8 || !all_hex(commit) || !all_hex(ordinal) {
            return Err(InvalidPosition);
        }
        Ok(Self {
            commit_lsn: u64::from_str_radix(commit, 16).map_err(|_| InvalidPosition)?,
            ordinal: u32::from_str_radix(ordinal, 16).map_err(|_| InvalidPosition)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips_and_sorts_like_the_position(a: (u64, u32), b: (u64, u32)) {
            let a = Position { commit_lsn: a.0, ordinal: a.1 };
            let b = Position { commit_lsn: b.0, ordinal: b.1 };
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "-", "16b3748-3", "+0000000016b3748-00000003", "00000000016b3748_00000003"]
        {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }
}
