//! What can be wrong with bytes from the server.

/// Bytes that are not what the protocol says. Each names where it was found.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input ended early.
    #[error("expected {wanted} bytes at offset {offset}, found {left}")]
    Truncated {
        /// Where.
        offset: usize,
        /// How many were needed.
        wanted: usize,
        /// How many were left.
        left: usize,
    },
    /// A length or a count that is negative.
    #[error("expected a length at offset {offset}, found {found}")]
    Length {
        /// Where.
        offset: usize,
        /// What stood there.
        found: i64,
    },
    /// A tag that this protocol version does not have.
    #[error("expected {expected} at offset {offset}, found byte {found:#04x}")]
    Tag {
        /// What kind of tag was looked for.
        expected: &'static str,
        /// Where.
        offset: usize,
        /// What stood there.
        found: u8,
    },
    /// More bytes than the message has.
    #[error("expected the end of the message at offset {offset}, found {left} more bytes")]
    Trailing {
        /// Where the message should have ended.
        offset: usize,
        /// How many bytes follow.
        left: usize,
    },
    /// A change of a relation that was never described.
    #[error("expected a Relation message before a change of relation {oid}")]
    UnknownRelation {
        /// The relation's oid.
        oid: u32,
    },
}
