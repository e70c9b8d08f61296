//! A connection to the host that is meant: each in turn, until one lets us in.

use super::WireError;
use super::error::ServerError;
use super::login::login;
use super::socket::Socket;
use bytes::BytesMut;
use dsn::Dsn;
use fallible_iterator::FallibleIterator;
use futures_util::FutureExt as _;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A connection that has logged in and is ready for a query.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Socket,
    /// Bytes read and not yet used.
    pub(super) input: BytesMut,
    pub(super) server: String,
    user: String,
}

/// Opens a replication connection to the first server that answers and is what is wanted.
pub(super) async fn open(dsn: &Dsn) -> Result<Link, WireError> {
    let opened = dsn.first(|one| Box::pin(open_one(one)), WireError::is_no_tls);
    opened.await.map_err(WireError::of_each)
}

async fn open_one(dsn: Dsn) -> Result<Link, WireError> {
    let stream = Socket::open(&dsn).await?;
    let (server, user) = (dsn.to_string(), dsn.user().to_owned());
    let mut link = Link { stream, input: BytesMut::new(), server, user };
    login(&mut link, &dsn).await?;
    if let Some(question) = dsn.question() {
        let answer = link.query(question).await?;
        dsn.answered(answer.first().map(String::as_str))?;
    }
    Ok(link)
}

impl Link {
    pub(super) fn io(&self, doing: &'static str, source: io::Error) -> WireError {
        WireError::Io { doing, server: self.server.clone(), source }
    }

    pub(super) async fn send(&mut self, out: &mut BytesMut) -> Result<(), WireError> {
        self.stream.write_all(out).await.map_err(|e| self.io("writing to", e))?;
        self.stream.flush().await.map_err(|e| self.io("writing to", e))?;
        out.clear();
        Ok(())
    }

    /// Sends as much as the socket takes at once, and leaves the rest in `out`.
    pub(super) fn try_send(&mut self, out: &mut BytesMut) -> Result<(), WireError> {
        let send = async {
            while !out.is_empty() {
                self.stream.write_buf(out).await?;
            }
            self.stream.flush().await
        };
        send.now_or_never().unwrap_or(Ok(())).map_err(|e| self.io("writing to", e))
    }

    #[cfg(test)]
    pub(super) fn over(stream: Socket) -> Self {
        Self { stream, input: BytesMut::new(), server: "test".to_owned(), user: "u".to_owned() }
    }

    /// Asks, and returns the values of the rows, one after another, as texts.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<String>, WireError> {
        self.ask(sql).await?;
        let mut values = Vec::new();
        loop {
            match self.message("the answer to a question").await? {
                Message::DataRow(row) => {
                    let mut ranges = row.ranges();
                    while let Ok(Some(range)) = ranges.next() {
                        let value =
                            range.and_then(|range| row.buffer().get(range)).unwrap_or_default();
                        values.push(String::from_utf8_lossy(value).into_owned());
                    }
                }
                Message::ReadyForQuery(_) => return Ok(values),
                _ => {}
            }
        }
    }

    /// Asks, and leaves the answer to be read.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<(), WireError> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|e| self.io("writing to", e))?;
        self.send(&mut out).await
    }

    /// The next message of those `postgres-protocol` knows; an ErrorResponse is an error.
    pub(super) async fn message(&mut self, expected: &'static str) -> Result<Message, WireError> {
        loop {
            // CopyBothResponse ('W') is the one message it does not know.
            if self.input.first() == Some(&b'W') {
                return Err(WireError::Unexpected { expected, tag: 'W' });
            }
            if let Some((b'E', body)) = whole_message(&self.input) {
                return Err(self.refused(ServerError::parse(body)));
            }
            if let Some(message) =
                Message::parse(&mut self.input).map_err(|e| self.io("reading from", e))?
            {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    pub(super) async fn read(&mut self) -> Result<(), WireError> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(WireError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(self.io("reading from", error)),
        }
    }

    pub(super) fn refuse_login(&self, message: &str) -> WireError {
        let (server, user) = (self.server.clone(), self.user.clone());
        WireError::Login { server, user, message: message.to_owned() }
    }

    fn refused(&self, error: ServerError) -> WireError {
        if error.code.starts_with("28") {
            return self.refuse_login(&error.message);
        }
        WireError::Server(error)
    }
}

/// The tag and body of the message at the front, if all of it is there.
pub(super) fn whole_message(input: &[u8]) -> Option<(u8, &[u8])> {
    let (tag, rest) = input.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?.checked_sub(4)?;
    rest.get(..length).map(|body| (*tag, body))
}
