//! The messages of the `pgoutput` plugin.

use crate::cursor::Cursor;
use crate::{Error, Lsn, Relation, Tuple, relation};

/// One message, borrowing from the buffer it was read from.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// The LSN of its commit record: the transaction's name in the stream.
        commit_lsn: Lsn,
        /// When it committed, microseconds since 2000-01-01.
        commit_time: i64,
        /// Its transaction id.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// The LSN of its commit record.
        commit_lsn: Lsn,
        /// Where the commit record ends: the position to confirm.
        end_lsn: Lsn,
        /// When it committed, microseconds since 2000-01-01.
        commit_time: i64,
    },
    /// The transaction came from another server.
    Origin {
        /// Its commit LSN there.
        commit_lsn: Lsn,
        /// That server's name.
        name: &'a str,
    },
    /// A table is described.
    Relation(Relation),
    /// A type that is not built in is named.
    Type {
        /// Its oid.
        oid: u32,
        /// Its schema.
        schema: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A row is new.
    Insert {
        /// The table's oid.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row has changed.
    Update {
        /// The table's oid.
        relation: u32,
        /// The old key, when it changed.
        key: Option<Tuple<'a>>,
        /// The old row, under replica identity full.
        old: Option<Tuple<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row is gone.
    Delete {
        /// The table's oid.
        relation: u32,
        /// Its key, and null elsewhere.
        key: Option<Tuple<'a>>,
        /// The whole row, under replica identity full.
        old: Option<Tuple<'a>>,
    },
    /// Tables were emptied.
    Truncate {
        /// Their oids.
        relations: Vec<u32>,
        /// Whether `CASCADE` was said.
        cascade: bool,
        /// Whether `RESTART IDENTITY` was said.
        restart_identity: bool,
    },
    /// A message written by `pg_logical_emit_message`.
    Message {
        /// Whether it belongs to the transaction it stands in.
        transactional: bool,
        /// Where it was written.
        lsn: Lsn,
        /// Who it is meant for.
        prefix: &'a str,
        /// What it says.
        content: &'a [u8],
    },
}

impl<'a> Message<'a> {
    /// Reads one message, to the last byte.
    ///
    /// # Errors
    /// When the bytes are cut, too many, or not of protocol version 1. Messages of
    /// later versions are refused here, so that a reader that never asked for them
    /// cannot pass over one; [`AnyMessage`](crate::AnyMessage) reads them.
    pub fn decode(data: &'a [u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(data);
        let tag = cursor.u8()?;
        let message = Self::read(tag, &mut cursor)?;
        cursor.end()?;
        Ok(message)
    }

    /// Reads what follows the tag, or the tag and the transaction id in a streamed block.
    pub(crate) fn read(tag: u8, cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        Ok(match tag {
            b'B' => Self::Begin {
                commit_lsn: cursor.lsn()?,
                commit_time: cursor.i64()?,
                xid: cursor.u32()?,
            },
            b'C' => {
                let _flags = cursor.u8()?;
                Self::Commit {
                    commit_lsn: cursor.lsn()?,
                    end_lsn: cursor.lsn()?,
                    commit_time: cursor.i64()?,
                }
            }
            b'O' => Self::Origin { commit_lsn: cursor.lsn()?, name: cursor.text()? },
            b'R' => Self::Relation(Relation::read(cursor)?),
            b'Y' => Self::Type {
                oid: cursor.u32()?,
                schema: relation::schema(cursor)?,
                name: cursor.text()?,
            },
            b'I' => {
                let relation = cursor.u32()?;
                expect(cursor, b'N', "a new row")?;
                Self::Insert { relation, new: Tuple::read(cursor)? }
            }
            b'U' => read_update(cursor)?,
            b'D' => {
                let relation = cursor.u32()?;
                let offset = cursor.offset();
                match cursor.u8()? {
                    b'K' => Self::Delete { relation, key: Some(Tuple::read(cursor)?), old: None },
                    b'O' => Self::Delete { relation, key: None, old: Some(Tuple::read(cursor)?) },
                    found => {
                        return Err(Error::Tag { expected: "a key or an old row", offset, found });
                    }
                }
            }
            b'T' => {
                let count = cursor.length()?;
                let options = cursor.u8()?;
                let relations = (0..count).map(|_| cursor.u32()).collect::<Result<_, _>>()?;
                let (cascade, restart_identity) = (options & 1 != 0, options & 2 != 0);
                Self::Truncate { relations, cascade, restart_identity }
            }
            b'M' => {
                let transactional = cursor.u8()? & 1 == 1;
                let (lsn, prefix, length) = (cursor.lsn()?, cursor.text()?, cursor.length()?);
                Self::Message { transactional, lsn, prefix, content: cursor.bytes(length)? }
            }
            found => {
                return Err(Error::Tag { expected: "a message of pgoutput", offset: 0, found });
            }
        })
    }
}

fn read_update<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Error> {
    let relation = cursor.u32()?;
    let offset = cursor.offset();
    let (key, old) = match cursor.u8()? {
        b'K' => (Some(Tuple::read(cursor)?), None),
        b'O' => (None, Some(Tuple::read(cursor)?)),
        b'N' => {
            return Ok(Message::Update {
                relation,
                key: None,
                old: None,
                new: Tuple::read(cursor)?,
            });
        }
        found => {
            return Err(Error::Tag { expected: "an old or a new row", offset, found });
        }
    };
    expect(cursor, b'N', "a new row")?;
    Ok(Message::Update { relation, key, old, new: Tuple::read(cursor)? })
}

fn expect(cursor: &mut Cursor<'_>, tag: u8, expected: &'static str) -> Result<(), Error> {
    let offset = cursor.offset();
    match cursor.u8()? {
        found if found == tag => Ok(()),
        found => Err(Error::Tag { expected, offset, found }),
    }
}
