//! Where an event stands in the stream of committed changes.

use std::fmt;
use std::str::FromStr;

/// A history of the log, the commit LSN of an event's transaction in it, and the place in that
/// transaction.
///
/// LSNs start lower again after a restore, an upgrade by dump, or a failover that lost a tail. Each
/// new slot therefore begins a new epoch: what comes through it is later than all that came before.
///
/// The text has a fixed width, three parts of 16 hexadecimal digits, such as
/// `0000000068e0a1b2-00000000016b3748-0000000000000003`. Comparing two texts as strings compares the
/// positions. The text of relays before epochs, `00000000016b3748-00000003`, is read as epoch 0.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The history: grown by every new slot, 0 for relays that knew no epochs.
    pub epoch: u64,
    /// The LSN of the commit record, as Postgres numbers it.
    pub commit_lsn: u64,
    /// The place among the transaction's changes, from 0.
    pub ordinal: u64,
}

impl Position {
    /// The length of the text, in bytes.
    pub const TEXT_LENGTH: usize = 50;

    /// Writes the text into a buffer; spares the machinery of `fmt` for each event.
    pub fn encode<'a>(&self, buffer: &'a mut [u8; Self::TEXT_LENGTH]) -> &'a str {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for (part, number) in buffer.chunks_mut(17).zip([self.epoch, self.commit_lsn, self.ordinal])
        {
            for (at, byte) in part.iter_mut().enumerate() {
                // The 17th byte of a part joins it to the next.
                *byte = match 60_usize.checked_sub(4 * at) {
                    Some(shift) => DIGITS[((number >> shift) & 0xf) as usize],
                    None => b'-',
                };
            }
        }
        std::str::from_utf8(buffer).unwrap_or_default()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; Self::TEXT_LENGTH]))
    }
}

/// A text that is not a position.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected a position of three parts of 16 hexadecimal digits joined by `-`, or of 16 and 8 digits as relays before epochs wrote it"
)]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let mut next = || parts.next();
        let (first, second, third) = (next(), next(), next());
        let position = match (first, second, third, next()) {
            (Some(commit), Some(ordinal), None, _) => {
                Self { epoch: 0, commit_lsn: number(commit, 16)?, ordinal: number(ordinal, 8)? }
            }
            (Some(epoch), Some(commit), Some(ordinal), None) => Self {
                epoch: number(epoch, 16)?,
                commit_lsn: number(commit, 16)?,
                ordinal: number(ordinal, 16)?,
            },
            _ => return Err(InvalidPosition),
        };
        Ok(position)
    }
}

/// A number of exactly so many digits; a sign is none.
fn number(digits: &str, width: usize) -> Result<u64, InvalidPosition> {
    if digits.len() != width || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(InvalidPosition);
    }
    u64::from_str_radix(digits, 16).map_err(|_| InvalidPosition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips_and_sorts_like_the_position(a: (u64, u64, u64), b: (u64, u64, u64)) {
            let position = |(epoch, commit_lsn, ordinal)| Position { epoch, commit_lsn, ordinal };
            let (a, b) = (position(a), position(b));
            prop_assert_eq!(a.to_string().len(), Position::TEXT_LENGTH);
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn the_text_of_relays_before_epochs_is_read_as_epoch_0(commit_lsn: u64, ordinal: u32) {
            let old = format!("{commit_lsn:016x}-{ordinal:08x}");
            let expected = Position { epoch: 0, commit_lsn, ordinal: ordinal.into() };
            prop_assert_eq!(old.parse(), Ok(expected));
        }

        #[test]
        fn any_text_is_a_position_or_refused_and_never_a_panic(text: String) {
            let _ = text.parse::<Position>();
        }
    }

    #[test]
    fn a_text_says_epoch_commit_and_ordinal() {
        let position = Position { epoch: 0x68e0_a1b2, commit_lsn: 0x16b_3748, ordinal: 3 };
        assert_eq!(position.to_string(), "0000000068e0a1b2-00000000016b3748-0000000000000003");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "-",
            "16b3748-3",
            "+0000000016b3748-00000003",
            "00000000016b3748_00000003",
            "00000000016b3748-0000000000000003",
            "0000000068e0a1b2-00000000016b3748-00000003",
            "0000000068e0a1b2-00000000016b3748-0000000000000003-",
        ] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }
}
