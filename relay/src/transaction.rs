//! Messages into changes with their place: Begin … Commit.
//!
//! Knows: which transaction is open, how many changes it has had, how each
//! table looked. Must not know: what a change means, where it goes.

use envelope::Position;
use pgoutput::{Lsn, Message, Relation, Relations, Tuple};

/// Where and when a change was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// Where it stands in the stream.
    pub position: Position,
    /// When its transaction committed, microseconds since 2000-01-01.
    pub commit_time: i64,
    /// Its transaction's id.
    pub xid: u32,
}

/// What the server tells of a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Image<'a> {
    /// The columns of the replica identity; the others are null here, whatever they were.
    Key(Tuple<'a>),
    /// All of it, but for TOASTed values that did not change.
    Row(Tuple<'a>),
}

impl<'a> Image<'a> {
    fn old(key: Option<Tuple<'a>>, row: Option<Tuple<'a>>) -> Option<Self> {
        row.map(Self::Row).or(key.map(Self::Key))
    }

    /// Its values.
    #[must_use]
    pub fn tuple(&self) -> Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Row(tuple) => *tuple,
        }
    }
}

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
        place: Place,
        /// Its table, as it was then.
        relation: &'a Relation,
        /// Its values.
        row: Tuple<'a>,
    },
    /// A row was changed.
    Updated {
        /// Its place.
        place: Place,
        /// Its table, as it was then.
        relation: &'a Relation,
        /// What the server tells of the row as it was.
        old: Option<Image<'a>>,
        /// The row as it is.
        row: Tuple<'a>,
    },
    /// A row was deleted.
    Deleted {
        /// Its place.
        place: Place,
        /// Its table, as it was then.
        relation: &'a Relation,
        /// What the server tells of the row as it was.
        old: Option<Image<'a>>,
    },
    /// Tables were emptied.
    Truncated {
        /// Its place: one for all of them.
        place: Place,
        /// Their oids; [`Assembler::relation`] knows them.
        relations: Vec<u32>,
        /// Whether `CASCADE` was said.
        cascade: bool,
        /// Whether `RESTART IDENTITY` was said.
        restart_identity: bool,
    },
    /// A message was written into the log.
    Emitted {
        /// Its place.
        place: Place,
        /// Where it was written.
        lsn: Lsn,
        /// Who it is meant for.
        prefix: &'a str,
        /// What it says.
        content: &'a [u8],
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

impl Step<'_> {
    /// Where a change stands; `None` for what is none.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Inserted { place, .. }
            | Self::Updated { place, .. }
            | Self::Deleted { place, .. }
            | Self::Truncated { place, .. }
            | Self::Emitted { place, .. } => Some(*place),
            Self::Begin { .. } | Self::Commit { .. } | Self::Described { .. } | Self::Nothing => {
                None
            }
        }
    }
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
    /// The history that the stream is part of: the first part of each position.
    epoch: u64,
    relations: Relations,
    /// The next change's place in the open transaction.
    open: Option<Place>,
}

impl Assembler {
    /// At the beginning of a stream of this epoch.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// Takes the next message of the stream.
    ///
    /// # Errors
    /// When it does not fit what came before.
    pub fn step<'a>(&'a mut self, message: Message<'a>) -> Result<Step<'a>, TransactionError> {
        Ok(match message {
            Message::Begin { commit_lsn, commit_time, xid } => {
                if let Some(Place { position, .. }) = self.open {
                    return Err(TransactionError::Nested { open: position.commit_lsn.into() });
                }
                let position =
                    Position { epoch: self.epoch, commit_lsn: commit_lsn.into(), ordinal: 0 };
                self.open = Some(Place { position, commit_time, xid });
                Step::Begin { commit_lsn }
            }
            Message::Commit { end_lsn, commit_time, .. } => {
                self.open.take().ok_or(TransactionError::Outside { found: "Commit" })?;
                Step::Commit { end_lsn, commit_time }
            }
            Message::Relation(relation) => {
                let oid = relation.oid;
                self.relations.insert(relation);
                Step::Described { relation: self.relation(oid)? }
            }
            Message::Insert { relation, new } => {
                let place = self.place("Insert")?;
                Step::Inserted { place, relation: self.relation(relation)?, row: new }
            }
            Message::Update { relation, key, old, new } => {
                let (place, old) = (self.place("Update")?, Image::old(key, old));
                Step::Updated { place, relation: self.relation(relation)?, old, row: new }
            }
            Message::Delete { relation, key, old } => {
                let (place, old) = (self.place("Delete")?, Image::old(key, old));
                Step::Deleted { place, relation: self.relation(relation)?, old }
            }
            Message::Truncate { relations, cascade, restart_identity } => {
                let place = self.place("Truncate")?;
                Step::Truncated { place, relations, cascade, restart_identity }
            }
            Message::Message { transactional: true, lsn, prefix, content } => {
                Step::Emitted { place: self.place("Message")?, lsn, prefix, content }
            }
            // Origins, types, and messages that no transaction guards.
            _ => Step::Nothing,
        })
    }

    /// A table as the stream described it last.
    ///
    /// # Errors
    /// When it never did.
    pub fn relation(&self, oid: u32) -> Result<&Relation, TransactionError> {
        Ok(self.relations.get(oid).map_err(|_| RelationError(oid))?)
    }

    fn place(&mut self, found: &'static str) -> Result<Place, TransactionError> {
        let next = self.open.as_mut().ok_or(TransactionError::Outside { found })?;
        let place = *next;
        // 64 bits: a transaction of 2^32 changes is one that a bulk job makes, and 2^64 none.
        next.position.ordinal += 1;
        Ok(place)
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
        let mut assembler = Assembler::new(7);
        for commit in [10_u64, 20] {
            let begin = Message::Begin { commit_lsn: commit.into(), commit_time: 0, xid: 1 };
            assert_eq!(assembler.step(begin), Ok(Step::Begin { commit_lsn: commit.into() }));
            for ordinal in 0..3 {
                let Ok(Step::Emitted { place, .. }) = assembler.step(emitted(true)) else {
                    panic!()
                };
                assert_eq!(place.position, Position { epoch: 7, commit_lsn: commit, ordinal });
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
    fn a_transaction_of_more_than_2_to_the_32_changes_gives_each_a_place_of_its_own() {
        let mut assembler = Assembler::new(7);
        let begin = Message::Begin { commit_lsn: 10.into(), commit_time: 0, xid: 1 };
        assert!(assembler.step(begin).is_ok());
        let next = u64::from(u32::MAX);
        assembler.open.as_mut().unwrap().position.ordinal = next;
        for ordinal in [next, next + 1] {
            let Ok(Step::Emitted { place, .. }) = assembler.step(emitted(true)) else { panic!() };
            assert_eq!(place.position.ordinal, ordinal);
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
