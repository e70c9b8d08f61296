//! The payload of CopyData on a replication connection, in both directions.

use crate::cursor::Cursor;
use crate::{Error, Lsn};

/// What the server sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Frame<'a> {
    /// A message of the output plugin.
    XLogData {
        /// Where its log begins.
        start: Lsn,
        /// The end of the log on the server.
        end: Lsn,
        /// The server's clock, microseconds since 2000-01-01.
        clock: i64,
        /// The message.
        data: &'a [u8],
    },
    /// The server is alive.
    Keepalive {
        /// Up to here the server has sent everything.
        end: Lsn,
        /// The server's clock, microseconds since 2000-01-01.
        clock: i64,
        /// Whether it wants a status at once.
        reply_requested: bool,
    },
}

impl<'a> Frame<'a> {
    /// Reads the payload of one CopyData message.
    ///
    /// # Errors
    /// When the payload is cut or has a tag that is not known.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(payload);
        match cursor.u8()? {
            b'w' => {
                let (start, end, clock) = (cursor.lsn()?, cursor.lsn()?, cursor.i64()?);
                Ok(Self::XLogData { start, end, clock, data: cursor.rest() })
            }
            b'k' => {
                let (end, clock) = (cursor.lsn()?, cursor.i64()?);
                let reply_requested = cursor.u8()? != 0;
                cursor.end()?;
                Ok(Self::Keepalive { end, clock, reply_requested })
            }
            found => Err(Error::Tag { expected: "a replication frame", offset: 0, found }),
        }
    }
}

/// What the reader reports: how far it has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StandbyStatus {
    /// Received up to here.
    pub write: Lsn,
    /// Safe up to here: Postgres may forget what lies before.
    pub flush: Lsn,
    /// Applied up to here.
    pub apply: Lsn,
    /// The reader's clock, microseconds since 2000-01-01.
    pub clock: i64,
    /// Whether the server shall answer at once.
    pub reply_requested: bool,
}

impl StandbyStatus {
    /// The payload of the CopyData message that carries it.
    #[must_use]
    pub fn encode(&self) -> [u8; 34] {
        let mut payload = [0; 34];
        let fields = [b'r']
            .into_iter()
            .chain(u64::from(self.write).to_be_bytes())
            .chain(u64::from(self.flush).to_be_bytes())
            .chain(u64::from(self.apply).to_be_bytes())
            .chain(self.clock.to_be_bytes())
            .chain([u8::from(self.reply_requested)]);
        for (to, from) in payload.iter_mut().zip(fields) {
            *to = from;
        }
        payload
    }

    /// Reads a status back.
    ///
    /// # Errors
    /// When the payload is no standby status.
    pub fn decode(payload: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(payload);
        match cursor.u8()? {
            b'r' => {}
            found => {
                return Err(Error::Tag { expected: "a standby status", offset: 0, found });
            }
        }
        let status = Self {
            write: cursor.lsn()?,
            flush: cursor.lsn()?,
            apply: cursor.lsn()?,
            clock: cursor.i64()?,
            reply_requested: cursor.u8()? != 0,
        };
        cursor.end()?;
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_status_decodes_back(write: u64, flush: u64, apply: u64, clock: i64, reply_requested: bool) {
            let status = StandbyStatus {
                write: write.into(), flush: flush.into(), apply: apply.into(), clock, reply_requested,
            };
            prop_assert_eq!(StandbyStatus::decode(&status.encode()), Ok(status));
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Frame::decode(&bytes);
            let _ = StandbyStatus::decode(&bytes);
        }
    }

    #[test]
    fn a_keepalive_reads() {
        let mut payload = vec![b'k'];
        payload.extend(7_u64.to_be_bytes());
        payload.extend((-3_i64).to_be_bytes());
        payload.push(1);
        let keepalive = Frame::Keepalive { end: 7.into(), clock: -3, reply_requested: true };
        assert_eq!(Frame::decode(&payload), Ok(keepalive));
        payload.push(0);
        assert!(matches!(Frame::decode(&payload), Err(Error::Trailing { left: 1, .. })));
    }
}
