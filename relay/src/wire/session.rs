//! A replication session: frames in, status out.

use super::WireError;
use super::connect::{Link, open, whole_message};
use super::error::ServerError;
use super::pace::Pace;
use bytes::{Buf, BytesMut};
use dsn::Dsn;
use pgoutput::{Frame, Lsn, StandbyStatus};
use postgres_protocol::message::frontend;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// How much is read at once: in a backlog reading little and often wastes both sides' time.
const READ_SIZE: usize = 256 * 1024;

/// So much is to have come before a read in a backlog. Half of what the kernel gives a socket
/// room for at least (`net.ipv4.tcp_rmem`).
const MUCH_AT_ONCE: u32 = 128 * 1024;

/// And for so long it is waited for: a backlog may end at any byte.
const PATIENCE: Duration = Duration::from_millis(2);

/// A message longer than this has the buffer grow for itself alone.
const LARGE: usize = 1024 * 1024;

/// The longest message Postgres can send (`MaxAllocSize` is 1 GiB less a byte).
const LONGEST_MESSAGE: usize = 1 << 30;

/// Microseconds from 1970-01-01 to 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Which history of which server a session reads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The cluster's number, set by initdb.
    pub system_id: String,
    /// The timeline; a failover begins a new one.
    pub timeline: String,
    /// The end of the log when the session began.
    pub log_end: Lsn,
}

/// An open replication session.
pub struct Session {
    link: Link,
    /// How much of the input was handed out already.
    used: usize,
    pace: Pace,
    /// How many bytes must have come for the socket to be readable.
    low_water: u32,
    /// Whether the socket can be told.
    knows_low_water: bool,
    /// Until when a read waits for [`MUCH_AT_ONCE`].
    patient_until: Option<Instant>,
    /// Whether the buffer has grown for a message larger than usual.
    grown: bool,
    /// What the socket has not taken yet of the last status.
    out: BytesMut,
    /// Since when.
    unsent_since: Option<Instant>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("server", &self.link.server).finish_non_exhaustive()
    }
}

impl Session {
    /// Logs in and starts to read from the slot, at the position it has confirmed.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses the login, has no such slot
    /// ([`WireError::SlotMissing`]) or another process reads from it ([`WireError::SlotInUse`]).
    pub async fn start(
        dsn: &Dsn,
        slot: &str,
        publication: &str,
    ) -> Result<(Self, Identity), WireError> {
        let mut session = Self::open(dsn).await?;
        let identity = session.identify().await?;
        session.take_bytes_as_they_are().await?;
        let publication = publication.replace('"', "\"\"").replace('\'', "''");
        let command = format!(
            "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 (proto_version '1', publication_names '\"{publication}\"', messages 'true')"
        );
        session.link.ask(&command).await?;
        match session.link.message("the start of the stream").await {
            Err(WireError::Unexpected { tag: 'W', .. }) => {}
            Err(WireError::Server(error)) => return Err(start_refused(slot, error)),
            Err(error) => return Err(error),
            Ok(_) => {
                return Err(WireError::Unexpected {
                    expected: "the start of the stream",
                    tag: '?',
                });
            }
        }
        while whole_message(&session.link.input).is_none() {
            session.link.read().await?;
        }
        let length = whole_message(&session.link.input).map_or(0, |(_, body)| body.len() + 5);
        session.link.input.advance(length);
        Ok((session, identity))
    }

    async fn open(dsn: &Dsn) -> Result<Self, WireError> {
        Ok(Self {
            link: open(dsn).await?,
            used: 0,
            pace: Pace::new(Instant::now()),
            low_water: 1,
            knows_low_water: true,
            patient_until: None,
            grown: false,
            out: BytesMut::new(),
            unsent_since: None,
        })
    }

    /// Opens a replication session and asks the server who it is. Reads from no slot.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses the session.
    pub async fn identify_server(dsn: &Dsn) -> Result<Identity, WireError> {
        let mut session = Self::open(dsn).await?;
        let identity = session.identify().await?;
        session.leave(false).await;
        Ok(identity)
    }

    /// Reads what lies behind the slot for so long at most, confirms nothing, and ends; says
    /// whether the end of the log was reached.
    ///
    /// # Errors
    /// As [`Session::start`], and when the server cannot read the log.
    pub async fn try_out(
        dsn: &Dsn,
        slot: &str,
        publication: &str,
        patience: Duration,
    ) -> Result<bool, WireError> {
        let (mut session, identity) = Self::start(dsn, slot, publication).await?;
        let read = session.read_to(identity.log_end);
        let read = match tokio::time::timeout(patience, read).await {
            Ok(read) => read.map(|()| true),
            Err(_) => Ok(false),
        };
        if read.is_ok() {
            session.leave(true).await;
        }
        read
    }

    /// Ends the session and waits until the server has closed it, so that its wal sender and its slot
    /// are free. In a long transaction the server may take its time: it is not waited for.
    async fn leave(mut self, is_copying: bool) {
        const LIMIT: Duration = Duration::from_secs(2);
        let mut out = BytesMut::new();
        if is_copying {
            frontend::copy_done(&mut out);
        }
        frontend::terminate(&mut out);
        let _ = tokio::time::timeout(LIMIT, self.send_and_drain(&mut out)).await;
    }

    async fn send_and_drain(&mut self, out: &mut BytesMut) -> Result<(), WireError> {
        self.link.send(out).await?;
        loop {
            self.link.input.clear();
            match self.link.read().await {
                Ok(()) => {}
                Err(WireError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads until the server says that it has decoded the log up to there.
    async fn read_to(&mut self, end: Lsn) -> Result<(), WireError> {
        const ASK_AGAIN: Duration = Duration::from_millis(100);
        loop {
            // Nothing is flushed: nothing is confirmed. The reply says how far the server is.
            self.report(Lsn::default(), Lsn::default(), true)?;
            let asked = Instant::now();
            while asked.elapsed() < ASK_AGAIN {
                match self.next_frame()? {
                    Some(Frame::Keepalive { end: sent, .. }) if sent >= end => return Ok(()),
                    Some(_) => {}
                    None => {
                        tokio::time::timeout(ASK_AGAIN, self.fill()).await.unwrap_or(Ok(()))?;
                    }
                }
            }
        }
    }

    /// In a database of the encoding SQL_ASCII the server knows no encoding, and ends a stream for
    /// a client of UTF-8 at the first text that is not UTF-8. So it is to send the bytes as they
    /// are. Every other encoding is converted to UTF-8 by the server.
    async fn take_bytes_as_they_are(&mut self) -> Result<(), WireError> {
        let encoding = self.link.query("SHOW server_encoding").await?;
        if encoding.first().is_some_and(|name| name == "SQL_ASCII") {
            self.link.query("SET client_encoding TO 'SQL_ASCII'").await?;
        }
        Ok(())
    }

    async fn identify(&mut self) -> Result<Identity, WireError> {
        match self.link.query("IDENTIFY_SYSTEM").await?.as_slice() {
            [system_id, timeline, log_end, ..] => Ok(Identity {
                system_id: system_id.clone(),
                timeline: timeline.clone(),
                log_end: log_end.parse().unwrap_or_default(),
            }),
            _ => Err(WireError::Unexpected { expected: "the system's identity", tag: 'D' }),
        }
    }

    /// The next frame among the bytes that were read; `None` when more must be read.
    ///
    /// # Errors
    /// When the server refused something, ended the stream or sent what cannot be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        loop {
            let unread = self.link.input.get(self.used..).unwrap_or_default();
            let Some((tag, body)) = whole_message(unread) else {
                return self.check_length().map(|()| None);
            };
            let start = self.used + 5;
            self.used = start + body.len();
            match tag {
                b'd' => {
                    let body = self.link.input.get(start..self.used).unwrap_or_default();
                    return Ok(Some(Frame::decode(body)?));
                }
                b'E' => return Err(WireError::Server(ServerError::parse(body))),
                b'c' => return Err(WireError::Closed),
                // Notices, parameters, and what follows the end of the copy.
                b'N' | b'S' | b'C' | b'Z' => {}
                other => {
                    return Err(WireError::Unexpected {
                        expected: "replication data",
                        tag: other.into(),
                    });
                }
            }
        }
    }

    /// Refuses a message longer than any that Postgres sends, before it is buffered.
    fn check_length(&self) -> Result<(), WireError> {
        let unread = self.link.input.get(self.used..).unwrap_or_default();
        if message_length(unread).is_none_or(|length| length <= LONGEST_MESSAGE) {
            return Ok(());
        }
        Err(WireError::Unexpected { expected: "a message of at most 1 GiB", tag: '?' })
    }

    /// Reads more bytes. Cancel-safe: what was read stays in the buffer.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn fill(&mut self) -> Result<(), WireError> {
        self.make_room();
        let before = self.link.input.len();
        let wanted = if self.pace.is_backlog() { MUCH_AT_ONCE } else { 1 };
        if self.may_wait(wanted) {
            self.read_much().await?;
        } else {
            self.let_it_fill();
            self.link.read().await?;
        }
        self.patient_until = None;
        self.pace.read(Instant::now(), self.link.input.len() - before);
        Ok(())
    }

    /// Room for the next read, or at once for all of a message that is longer: growing by
    /// doubling would hold it twice.
    fn make_room(&mut self) {
        let unread = self.link.input.get(self.used..).unwrap_or_default();
        let missing =
            message_length(unread).map_or(0, |length| length.saturating_sub(unread.len()));
        if self.grown && unread.len() <= READ_SIZE {
            // A message that was larger than usual is behind: so is its memory.
            self.link.input = BytesMut::from(unread);
            self.grown = false;
        } else {
            self.link.input.advance(self.used);
        }
        self.used = 0;
        self.link.input.reserve(missing.max(READ_SIZE));
        self.grown |= missing > LARGE;
    }

    /// Sets how much must have come, and says whether it is to be waited for.
    fn may_wait(&mut self, wanted: u32) -> bool {
        // Once patience is over whatever came is read, however often this is called off.
        let wanted = match self.patient_until {
            Some(until) if until <= Instant::now() => 1,
            _ => wanted,
        };
        if wanted != self.low_water && self.knows_low_water {
            self.knows_low_water = self.link.stream.low_water(wanted);
            self.low_water = if self.knows_low_water { wanted } else { 1 };
        }
        self.low_water > 1
    }

    /// In a backlog, is woken for much at once instead of for each message.
    async fn read_much(&mut self) -> Result<(), WireError> {
        let until = *self.patient_until.get_or_insert_with(|| Instant::now() + PATIENCE);
        tokio::select! {
            biased;
            read = self.link.read() => read?,
            () = tokio::time::sleep_until(until.into()) => {
                self.may_wait(1);
                self.link.read().await?;
            }
        }
        Ok(())
    }

    /// In a backlog on a socket that knows no low water, stays away from it for a fifth of a
    /// millisecond.
    ///
    /// A timer of the runtime would not do: the runtime waits on the socket too, and would be
    /// woken for each message. What else runs on this thread waits as long.
    #[expect(clippy::disallowed_methods, reason = "not to be woken is the purpose")]
    fn let_it_fill(&self) {
        let pause = self.pace.pause(Instant::now());
        if !self.knows_low_water && !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }

    /// Reports how far the events are safe. Never waits: what the socket does not take now goes
    /// with the next call, and a report is left out while an earlier one is not sent whole.
    ///
    /// # Errors
    /// When the connection is lost, or takes nothing for ten seconds.
    pub fn send_status(&mut self, received: Lsn, flushed: Lsn) -> Result<(), WireError> {
        self.report(received, flushed, false)
    }

    fn report(
        &mut self,
        received: Lsn,
        flushed: Lsn,
        reply_requested: bool,
    ) -> Result<(), WireError> {
        self.link.try_send(&mut self.out)?;
        if self.out.is_empty() {
            self.unsent_since = None;
            let since_1970 =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let status = StandbyStatus {
                write: received.max(flushed),
                flush: flushed,
                apply: flushed,
                clock: i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX) - POSTGRES_EPOCH,
                reply_requested,
            };
            frontend::CopyData::new(&status.encode()[..])
                .map_err(|e| self.link.io("writing to", e))?
                .write(&mut self.out);
            self.link.try_send(&mut self.out)?;
        }
        const LIMIT: Duration = Duration::from_secs(10);
        if self.out.is_empty() {
            return Ok(());
        }
        if self.unsent_since.get_or_insert_with(Instant::now).elapsed() < LIMIT {
            return Ok(());
        }
        let server = self.link.server.clone();
        Err(WireError::TimeOut { doing: "reporting to", server, seconds: LIMIT.as_secs() })
    }

    /// Ends the stream and waits until the server has taken note of the last status.
    ///
    /// # Errors
    /// When the connection is lost before that.
    pub async fn finish(mut self) -> Result<(), WireError> {
        let mut out = std::mem::take(&mut self.out);
        frontend::copy_done(&mut out);
        self.link.send(&mut out).await?;
        loop {
            match self.next_frame() {
                Ok(Some(_)) => {}
                Ok(None) => self.fill().await?,
                Err(WireError::Closed) => break,
                Err(error) => return Err(error),
            }
        }
        frontend::terminate(&mut out);
        self.link.send(&mut out).await
    }
}

/// How long the message at the front is, with its tag, as far as its header is there.
fn message_length(input: &[u8]) -> Option<usize> {
    let header = input.get(1..5)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(header)).ok()?.checked_add(1)
}

fn start_refused(slot: &str, error: ServerError) -> WireError {
    let slot = slot.to_owned();
    match error.code.as_str() {
        // object_in_use, undefined_object
        "55006" => WireError::SlotInUse { slot, message: error.message },
        "42704" => WireError::SlotMissing { slot },
        _ => WireError::Server(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::socket::Socket;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn a_server_that_does_not_read_does_not_hold_the_caller_and_gets_whole_reports_later() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut session = Session {
            link: Link::over(Socket::Unix(ours)),
            used: 0,
            pace: Pace::new(Instant::now()),
            low_water: 1,
            knows_low_water: false,
            patient_until: None,
            grown: false,
            out: BytesMut::new(),
            unsent_since: None,
        };
        // More than a socket holds: before, the call after the last that fitted waited.
        let began = Instant::now();
        for _ in 0..100_000 {
            session.send_status(7.into(), 5.into()).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
        assert!(!session.out.is_empty(), "expected a full socket");
        let mut found = vec![0; 1_000_000];
        let length = theirs.read(&mut found).await.unwrap();
        session.send_status(7.into(), 5.into()).unwrap();
        let mut rest = &found[..length];
        while let Some((tag, body)) = whole_message(rest) {
            assert_eq!((tag, body.len()), (b'd', 34));
            rest = &rest[body.len() + 5..];
        }
    }
}
