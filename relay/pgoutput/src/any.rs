//! The messages that protocol versions 2 to 4 add: transactions that are sent
//! while they are still open, and those that are prepared before they commit.
//!
//! Knows: how those messages look, and that a change within a streamed block
//! names its transaction. Must not know: which blocks belong together.

use crate::cursor::Cursor;
use crate::{Error, Lsn, Message};

/// A message of any protocol version, borrowing from the buffer it was read from.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum AnyMessage<'a> {
    /// A message of protocol version 1.
    Plain(Message<'a>),
    /// The same within a streamed block, where each names its transaction.
    Streamed {
        /// The transaction, or the part of one since a savepoint, that made the change.
        xid: u32,
        /// The change.
        message: Message<'a>,
    },
    /// A block of an open transaction begins.
    StreamStart {
        /// The transaction.
        xid: u32,
        /// Whether it is the transaction's first block.
        first: bool,
    },
    /// The block ends.
    StreamStop,
    /// A streamed transaction has committed.
    StreamCommit {
        /// The transaction.
        xid: u32,
        /// The LSN of its commit record.
        commit_lsn: Lsn,
        /// Where the commit record ends.
        end_lsn: Lsn,
        /// When it committed, microseconds since 2000-01-01.
        commit_time: i64,
    },
    /// A streamed transaction, or a part of one, was rolled back.
    StreamAbort {
        /// The transaction.
        xid: u32,
        /// The part; the same as `xid` when all of it was rolled back.
        subxid: u32,
        /// The LSN of the abort record and its time; sent from protocol version 4
        /// on, and only where parallel streaming was asked for.
        aborted: Option<(Lsn, i64)>,
    },
    /// A prepared transaction begins.
    BeginPrepare(Prepared<'a>),
    /// A transaction was prepared.
    Prepare(Prepared<'a>),
    /// A streamed transaction was prepared.
    StreamPrepare(Prepared<'a>),
    /// A prepared transaction has committed.
    CommitPrepared {
        /// The LSN of the commit record.
        commit_lsn: Lsn,
        /// Where the commit record ends.
        end_lsn: Lsn,
        /// When it committed, microseconds since 2000-01-01.
        commit_time: i64,
        /// Its transaction id.
        xid: u32,
        /// The name it was prepared under.
        gid: &'a str,
    },
    /// A prepared transaction was rolled back.
    RollbackPrepared {
        /// Where the prepare record ends.
        prepare_end_lsn: Lsn,
        /// Where the rollback record ends.
        rollback_end_lsn: Lsn,
        /// When it was prepared, microseconds since 2000-01-01.
        prepare_time: i64,
        /// When it was rolled back, microseconds since 2000-01-01.
        rollback_time: i64,
        /// Its transaction id.
        xid: u32,
        /// The name it was prepared under.
        gid: &'a str,
    },
}

/// A transaction that was prepared for a commit in two phases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prepared<'a> {
    /// The LSN of the prepare record.
    pub prepare_lsn: Lsn,
    /// Where the prepare record ends.
    pub end_lsn: Lsn,
    /// When it was prepared, microseconds since 2000-01-01.
    pub prepare_time: i64,
    /// Its transaction id.
    pub xid: u32,
    /// The name it was prepared under.
    pub gid: &'a str,
}

impl<'a> Prepared<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        Ok(Self {
            prepare_lsn: cursor.lsn()?,
            end_lsn: cursor.lsn()?,
            prepare_time: cursor.i64()?,
            xid: cursor.u32()?,
            gid: cursor.text()?,
        })
    }

    /// The same behind a byte of flags, of which none is used.
    fn read_flagged(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        cursor.u8()?;
        Self::read(cursor)
    }
}

impl<'a> AnyMessage<'a> {
    /// Reads one message, to the last byte.
    ///
    /// `in_stream` says whether it stands between [`Self::StreamStart`] and
    /// [`Self::StreamStop`]; the bytes alone do not tell.
    ///
    /// # Errors
    /// When the bytes are cut, too many, of no known message, or of one that
    /// cannot stand there.
    pub fn decode(data: &'a [u8], in_stream: bool) -> Result<Self, Error> {
        let mut cursor = Cursor::new(data);
        let message = if in_stream {
            Self::read_inside(&mut cursor)?
        } else {
            Self::read_outside(&mut cursor)?
        };
        cursor.end()?;
        Ok(message)
    }

    fn read_inside(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        match cursor.u8()? {
            b'E' => Ok(Self::StreamStop),
            // The one message of a block that names no transaction.
            b'O' => Message::read(b'O', cursor).map(Self::Plain),
            tag @ (b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M') => {
                Ok(Self::Streamed { xid: cursor.u32()?, message: Message::read(tag, cursor)? })
            }
            found => {
                Err(Error::Tag { expected: "a message within a streamed block", offset: 0, found })
            }
        }
    }

    fn read_outside(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        match cursor.u8()? {
            b'S' => Ok(Self::StreamStart { xid: cursor.u32()?, first: cursor.u8()? != 0 }),
            b'c' => read_stream_commit(cursor),
            b'A' => read_stream_abort(cursor),
            b'b' => Prepared::read(cursor).map(Self::BeginPrepare),
            b'P' => Prepared::read_flagged(cursor).map(Self::Prepare),
            b'p' => Prepared::read_flagged(cursor).map(Self::StreamPrepare),
            b'K' => read_commit_prepared(cursor),
            b'r' => read_rollback_prepared(cursor),
            tag => Message::read(tag, cursor).map(Self::Plain),
        }
    }
}

fn read_stream_commit<'a>(cursor: &mut Cursor<'a>) -> Result<AnyMessage<'a>, Error> {
    let (xid, _flags) = (cursor.u32()?, cursor.u8()?);
    Ok(AnyMessage::StreamCommit {
        xid,
        commit_lsn: cursor.lsn()?,
        end_lsn: cursor.lsn()?,
        commit_time: cursor.i64()?,
    })
}

fn read_stream_abort<'a>(cursor: &mut Cursor<'a>) -> Result<AnyMessage<'a>, Error> {
    let (xid, subxid) = (cursor.u32()?, cursor.u32()?);
    let aborted =
        if cursor.rest().is_empty() { None } else { Some((cursor.lsn()?, cursor.i64()?)) };
    Ok(AnyMessage::StreamAbort { xid, subxid, aborted })
}

fn read_commit_prepared<'a>(cursor: &mut Cursor<'a>) -> Result<AnyMessage<'a>, Error> {
    let _flags = cursor.u8()?;
    Ok(AnyMessage::CommitPrepared {
        commit_lsn: cursor.lsn()?,
        end_lsn: cursor.lsn()?,
        commit_time: cursor.i64()?,
        xid: cursor.u32()?,
        gid: cursor.text()?,
    })
}

fn read_rollback_prepared<'a>(cursor: &mut Cursor<'a>) -> Result<AnyMessage<'a>, Error> {
    let _flags = cursor.u8()?;
    Ok(AnyMessage::RollbackPrepared {
        prepare_end_lsn: cursor.lsn()?,
        rollback_end_lsn: cursor.lsn()?,
        prepare_time: cursor.i64()?,
        rollback_time: cursor.i64()?,
        xid: cursor.u32()?,
        gid: cursor.text()?,
    })
}
