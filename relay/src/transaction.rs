//! Messages into changes with their place: Begin … Commit.
//!
//! Knows: which transaction is open, how many changes it has had, how each
//! table looked. Must not know: what a change means, where it goes.

use envelope::Position;
use pgoutput::{Lsn, Message, Relation, Relations, Tuple};

/// What one message means for the transaction it stands in.
#[derive(Debug, PartialEq)]
pub enum Step<'a> {
    /// A transaction begins; its commit LSN names it.
    Begin {
        /// The LSN of the commit record.
        commit_lsn: Lsn,
    },
    /// A row was inserted.
    Inserted {
        /// Its place.
        position: Position,
        /// Its table, as it was then.
        relation: &'a Relation,
        /// Its values.
        row: Tuple<'a>,
    },
    /// A message was written into the log.
    Emitted {
        /// Its place.
        position: Position,
        /// Who it is meant for.
        prefix: &'a str,
        /// What it says.
        content: &'a [u8],
    },
    /// A change that no one reads: an update, a delete, a truncate.
    Other {
        /// Its place.
        position: Position,
    },
    /// The transaction ends.
    Commit {
        /// Where the commit record ends.
        end_lsn: Lsn,
        /// When it committed, microseconds since 2000-01-01.
        commit_time: i64,
    },
    /// A table is described, for the first time or anew.
    Described {
        /// The table.
        relation: &'a Relation,
    },
    /// Something that belongs to no transaction.
    Nothing,
}

/// A stream whose messages do not fit together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransactionError {
    /// A change or a commit without its Begin.
    #[error("expected Begin, found {found} outside a transaction")]
    Outside {
        /// What came.
        found: &'static str,
    },
    /// A Begin inside a transaction.
    #[error("expected the commit of the transaction at {open}, found another Begin")]
    Nested {
        /// The open one's commit LSN.
        open: Lsn,
    },
    /// A change of a table that was never described.
    #[error(transparent)]
    Relation(#[from] RelationError),
}

/// See [`pgoutput::Error::UnknownRelation`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a description of relation {0} before its change")]
pub struct RelationError(u32);

/// The state between messages.
#[derive(Debug, Default)]
pub struct Assembler {
    relations: Relations,
    /// The next change's place in the open transaction.
    open: Option<Position>,
}

impl Assembler {
    /// Takes the next message of the stream.
    ///
    /// # Errors
    /// When it does not fit what came before.
    pub fn step<'a>(&'a mut self, message: Message<'a>) -> Result<Step<'a>, TransactionError> {
        Ok(match message {
            Message::Begin { commit_lsn, .. } => {
                if let Some(open) = self.open {
                    return Err(TransactionError::Nested { open: open.commit_lsn.into() });
                }
                self.open = Some(Position { commit_lsn: commit_lsn.into(), ordinal: 0 });
                Step::Begin { commit_lsn }
            }
            Message::Commit { end_lsn, commit_time, .. } => {
                self.open.take().ok_or(TransactionError::Outside { found: "Commit" })?;
                Step::Commit { end_lsn, commit_time }
            }
            Message::Relation(relation) => {
                let oid = relation.oid;
                self.relations.insert(relation);
                Step::Described {
                    relation: self.relations.get(oid).map_err(|_| RelationError(oid))?,
                }
            }
            Message::Insert { relation, new } => {
                let position = self.place("Insert")?;
                let relation = self.relations.get(relation).map_err(|_| RelationError(relation))?;
                Step::Inserted { position, relation, row: new }
            }
            Message::Update { .. } => Step::Other { position: self.place("Update")? },
            Message::Delete { .. } => Step::Other { position: self.place("Delete")? },
            Message::Truncate { .. } => Step::Other { position: self.place("Truncate")? },
            Message::Message { transactional: true, prefix, content, .. } => {
                Step::Emitted { position: self.place("Message")?, prefix, content }
            }
            // Origins, types, and messages that no transaction guards.
            _ => Step::Nothing,
        })
    }

    fn place(&mut self, found: &'static str) -> Result<Position, TransactionError> {
        let next = self.open.as_mut().ok_or(TransactionError::Outside { found })?;
        let position = *next;
        next.ordinal += 1;
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(transactional: bool) -> Message<'static> {
        Message::Message { transactional, lsn: 5.into(), prefix: "p", content: b"c" }
    }

    #[test]
    fn changes_are_numbered_within_their_transaction() {
        let mut assembler = Assembler::default();
        for commit in [10_u64, 20] {
            let begin = Message::Begin { commit_lsn: commit.into(), commit_time: 0, xid: 1 };
            assert_eq!(assembler.step(begin), Ok(Step::Begin { commit_lsn: commit.into() }));
            for ordinal in 0..3 {
                let Ok(Step::Emitted { position, .. }) = assembler.step(emitted(true)) else {
                    panic!()
                };
                assert_eq!(position, Position { commit_lsn: commit, ordinal });
            }
            assert_eq!(assembler.step(emitted(false)), Ok(Step::Nothing));
            let end =
                Message::Commit { commit_lsn: commit.into(), end_lsn: 15.into(), commit_time: 7 };
            assert_eq!(
                assembler.step(end),
                Ok(Step::Commit { end_lsn: 15.into(), commit_time: 7 })
            );
        }
    }

    #[test]
    fn a_stream_that_does_not_fit_is_refused() {
        let mut assembler = Assembler::default();
        let end = Message::Commit { commit_lsn: 1.into(), end_lsn: 2.into(), commit_time: 0 };
        assert!(matches!(assembler.step(end), Err(TransactionError::Outside { found: "Commit" })));
        assert!(matches!(assembler.step(emitted(true)), Err(TransactionError::Outside { .. })));
        let begin = || Message::Begin { commit_lsn: 9.into(), commit_time: 0, xid: 1 };
        assert!(assembler.step(begin()).is_ok());
        assert!(matches!(assembler.step(begin()), Err(TransactionError::Nested { .. })));
    }
}
