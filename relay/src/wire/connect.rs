//! Start-up: socket, TLS, login. The only file of the relay that sees a password.

use super::WireError;
use super::error::ServerError;
use bytes::BytesMut;
use dsn::{CONNECT_TIMEOUT, Dsn};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{ChannelBinding, Host, SslMode};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

/// A stream of any kind: TCP, TLS or a unix socket.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A connection that has logged in and is ready for a query.
pub(super) struct Link {
    pub(super) stream: Box<dyn Duplex>,
    /// Bytes read and not yet used.
    pub(super) input: BytesMut,
    pub(super) server: String,
}

/// Opens a replication connection to the first host that answers.
pub(super) async fn open(dsn: &Dsn) -> Result<Link, WireError> {
    let limit = dsn.config().get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    let mut last = WireError::Closed;
    for (at, host) in dsn.config().get_hosts().iter().enumerate() {
        let port = match dsn.config().get_ports() {
            [] => 5432,
            [port] => *port,
            ports => ports.get(at).copied().unwrap_or(5432),
        };
        let timed = tokio::time::timeout(limit, open_host(dsn, host, port)).await;
        match timed {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) if !error.is_transient() => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_) => {
                last = WireError::TimeOut {
                    doing: "connecting to",
                    server: dsn.to_string(),
                    seconds: limit.as_secs(),
                }
            }
        }
    }
    Err(last)
}

async fn open_host(dsn: &Dsn, host: &Host, port: u16) -> Result<Link, WireError> {
    let server = dsn.to_string();
    let failed = |source| WireError::Io { doing: "connecting to", server: server.clone(), source };
    match host {
        Host::Unix(folder) => {
            let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}")))
                .await
                .map_err(failed)?;
            login(Link { stream: Box::new(stream), input: BytesMut::new(), server }, dsn, false)
                .await
        }
        Host::Tcp(name) => {
            let mut stream = TcpStream::connect((name.as_str(), port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            if dsn.config().get_ssl_mode() == SslMode::Disable {
                return login(
                    Link { stream: Box::new(stream), input: BytesMut::new(), server },
                    dsn,
                    false,
                )
                .await;
            }
            ask_for_tls(&mut stream, &server).await?;
            let mut tls = dsn.tls().map_err(WireError::Dsn)?;
            let connector = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, name)
                .map_err(|e| failed(io::Error::other(e)))?;
            let stream = connector.connect(stream).await.map_err(|e| WireError::Io {
                doing: "verifying the certificate of",
                server: server.clone(),
                source: io::Error::other(e),
            })?;
            login(Link { stream: Box::new(stream), input: BytesMut::new(), server }, dsn, true)
                .await
        }
    }
}

async fn ask_for_tls(stream: &mut TcpStream, server: &str) -> Result<(), WireError> {
    let failed =
        |source| WireError::Io { doing: "asking for TLS from", server: server.to_owned(), source };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    match stream.read_u8().await.map_err(failed)? {
        b'S' => Ok(()),
        _ => Err(WireError::NoTls { server: server.to_owned() }),
    }
}

/// Logs in. A password goes in clear text only over TLS, or without leaving the machine.
async fn login(mut link: Link, dsn: &Dsn, tls: bool) -> Result<Link, WireError> {
    if dsn.config().get_channel_binding() == ChannelBinding::Require {
        return Err(link.refuse_login(dsn, "channel_binding=require is not supported yet"));
    }
    let mut out = BytesMut::new();
    let parameters = [
        ("user", dsn.user()),
        ("database", dsn.database()),
        ("replication", "database"),
        ("application_name", dsn.config().get_application_name().unwrap_or("relay")),
        ("client_encoding", "UTF8"),
        // The text forms that the decoder counts on, whatever the server's own settings are.
        (
            "options",
            "-c datestyle=ISO -c timezone=UTC -c intervalstyle=iso_8601 -c extra_float_digits=3 -c bytea_output=hex",
        ),
    ];
    frontend::startup_message(parameters, &mut out).map_err(|e| link.io("logging in to", e))?;
    link.send(&mut out).await?;
    loop {
        match link.message("an answer to the login").await? {
            Message::AuthenticationOk
            | Message::ParameterStatus(_)
            | Message::BackendKeyData(_)
            | Message::NoticeResponse(_) => {}
            Message::AuthenticationCleartextPassword if tls || dsn.is_local() => {
                let password = link.password(dsn)?;
                frontend::password_message(password, &mut out)
                    .map_err(|e| link.io("logging in to", e))?;
                link.send(&mut out).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(dsn.user().as_bytes(), link.password(dsn)?, body.salt());
                frontend::password_message(hash.as_bytes(), &mut out)
                    .map_err(|e| link.io("logging in to", e))?;
                link.send(&mut out).await?;
            }
            Message::AuthenticationSasl(body) => scram(&mut link, dsn, &body).await?,
            Message::ReadyForQuery(_) => return Ok(link),
            _ => {
                return Err(link
                    .refuse_login(dsn, "it asks for a kind of login that is not supported here"));
            }
        }
    }
}

async fn scram(link: &mut Link, dsn: &Dsn, body: &AuthenticationSaslBody) -> Result<(), WireError> {
    let mut plain = false;
    let mut mechanisms = body.mechanisms();
    while let Ok(Some(mechanism)) = mechanisms.next() {
        plain |= mechanism == sasl::SCRAM_SHA_256;
    }
    if !plain {
        return Err(link.refuse_login(dsn, "it offers no SCRAM-SHA-256"));
    }
    // tokio-postgres keeps the channel binding's data to itself, so none is offered.
    let binding = sasl::ChannelBinding::unsupported();
    let mut exchange = sasl::ScramSha256::new(link.password(dsn)?, binding);
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(sasl::SCRAM_SHA_256, exchange.message(), &mut out)
        .map_err(|e| link.io("logging in to", e))?;
    link.send(&mut out).await?;
    let Message::AuthenticationSaslContinue(body) = link.message("a SCRAM challenge").await? else {
        return Err(link.refuse_login(dsn, "it broke off the SCRAM exchange"));
    };
    exchange.update(body.data()).map_err(|e| link.io("logging in to", e))?;
    frontend::sasl_response(exchange.message(), &mut out)
        .map_err(|e| link.io("logging in to", e))?;
    link.send(&mut out).await?;
    let Message::AuthenticationSaslFinal(body) = link.message("the end of SCRAM").await? else {
        return Err(link.refuse_login(dsn, "it broke off the SCRAM exchange"));
    };
    exchange.finish(body.data()).map_err(|e| link.io("logging in to", e))
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

    fn password<'a>(&self, dsn: &'a Dsn) -> Result<&'a [u8], WireError> {
        dsn.config().get_password().ok_or_else(|| {
            self.refuse_login(dsn, "it asks for a password and the connection string has none")
        })
    }

    fn refuse_login(&self, dsn: &Dsn, message: &str) -> WireError {
        let (server, user) = (self.server.clone(), dsn.user().to_owned());
        WireError::Login { server, user, message: message.to_owned() }
    }

    fn refused(&self, error: ServerError) -> WireError {
        if error.code.starts_with("28") {
            let user = self.server.split(['/', '@']).nth(2).unwrap_or_default().to_owned();
            return WireError::Login { server: self.server.clone(), user, message: error.message };
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
