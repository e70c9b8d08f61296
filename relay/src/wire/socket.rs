//! The socket under a session: keepalive, TLS, and what binds a login to it.

use super::WireError;
use dsn::Dsn;
use postgres_protocol::message::frontend;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// A connected socket of any kind.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Connects to the string's only server, and encrypts as it says.
    pub(super) async fn open(dsn: &Dsn) -> Result<Self, WireError> {
        match (dsn.config().get_hosts().first(), dsn.address(0)) {
            (Some(Host::Unix(folder)), _) => {
                let path = folder.join(format!(".s.PGSQL.{}", dsn.port(0)));
                let socket = UnixStream::connect(path).await;
                Ok(Self::Unix(socket.map_err(failed("connecting to", dsn))?))
            }
            (Some(Host::Tcp(name)), Some(address)) => {
                let socket = TcpStream::connect((address, dsn.port(0))).await;
                let socket = socket.map_err(failed("connecting to", dsn))?;
                keep_alive(&socket, dsn).map_err(failed("connecting to", dsn))?;
                match dsn.config().get_ssl_mode() {
                    SslMode::Disable => Ok(Self::Tcp(socket)),
                    _ => Ok(Self::Tls(Box::new(encrypted(socket, dsn, name).await?))),
                }
            }
            (Some(Host::Tcp(_)) | None, _) => Err(WireError::Dsn(dsn::Error::NoHost)),
        }
    }

    /// Whether what is said over it is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Has the socket count as readable only once so many bytes have come; false where that
    /// cannot be had.
    pub(super) fn low_water(&self, bytes: u32) -> bool {
        match self {
            // The kernel takes it there, and wakes the reader all the same.
            Self::Unix(_) => false,
            Self::Tcp(socket) => low_water::set(socket, bytes).is_ok(),
            Self::Tls(socket) => low_water::set(socket.get_ref().0, bytes).is_ok(),
        }
    }

    /// What ties a SCRAM login to this TLS connection, `tls-server-end-point` of RFC 5929: the
    /// hash of the server's certificate, by the hash of its signature, or SHA-256 where that is
    /// MD5 or SHA-1. `None` without TLS, or for a signature that has no one hash.
    pub(super) fn channel_binding(&self) -> Option<Vec<u8>> {
        let Self::Tls(socket) = self else {
            return None;
        };
        let certificate = socket.get_ref().1.peer_certificates()?.first()?;
        let signature = Certificate::from_der(certificate).ok()?.signature_algorithm.oid;
        // sha256WithRSA and ecdsa-with-SHA256, and so on: RFC 8017 A.2.4 and RFC 5758 3.2.
        match signature.to_string().as_str() {
            "1.2.840.113549.1.1.4"
            | "1.2.840.113549.1.1.5"
            | "1.2.840.10045.4.1"
            | "1.2.840.113549.1.1.11"
            | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
            "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
                Some(Sha384::digest(certificate).to_vec())
            }
            "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
                Some(Sha512::digest(certificate).to_vec())
            }
            _ => None,
        }
    }
}

fn failed(doing: &'static str, dsn: &Dsn) -> impl FnOnce(io::Error) -> WireError {
    let server = dsn.to_string();
    move |source| WireError::Io { doing, server, source }
}

/// TLS as the string has it, from the first byte or once the server has agreed to it.
async fn encrypted(
    mut socket: TcpStream,
    dsn: &Dsn,
    name: &str,
) -> Result<TlsStream<TcpStream>, WireError> {
    if dsn.config().get_ssl_negotiation() == SslNegotiation::Postgres {
        ask_for_tls(&mut socket, dsn).await?;
    }
    let config = Arc::new(dsn.tls_config()?);
    let untrusted = |source| WireError::Handshake { server: dsn.to_string(), source };
    let name = ServerName::try_from(name.to_owned()).map_err(|e| untrusted(io::Error::other(e)))?;
    TlsConnector::from(config).connect(name, socket).await.map_err(untrusted)
}

/// A server that is gone without a word is noticed: by silence when nothing is sent, and by
/// what it does not acknowledge when something is.
fn keep_alive(socket: &TcpStream, dsn: &Dsn) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (config, socket) = (dsn.config(), SockRef::from(socket));
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    if !config.get_keepalives() {
        return Ok(());
    }
    let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
    if let Some(interval) = config.get_keepalives_interval() {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        keepalive = keepalive.with_retries(retries);
    }
    socket.set_tcp_keepalive(&keepalive)
}

async fn ask_for_tls(socket: &mut TcpStream, dsn: &Dsn) -> Result<(), WireError> {
    let asking = "asking for TLS from";
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(failed(asking, dsn))?;
    match socket.read_u8().await.map_err(failed(asking, dsn))? {
        b'S' => Ok(()),
        // Its words are not shown: nothing says yet that they are the server's.
        b'E' => {
            Err(failed(asking, dsn)(io::Error::other("it answered with an error; see its log")))
        }
        _ => Err(WireError::NoTls { server: dsn.to_string() }),
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;

    async fn socket(settings: &str) -> TcpStream {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let text = format!("host=127.0.0.1 hostaddr=127.0.0.1 port={port} user=u {settings}");
        match Socket::open(&text.parse().unwrap()).await.unwrap() {
            Socket::Tcp(socket) => socket,
            other => panic!("expected a TCP socket, found {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_session_has_tcp_keepalive_by_the_settings() {
        let usual = socket("").await;
        let usual = SockRef::from(&usual);
        assert!(usual.keepalive().unwrap() && usual.tcp_nodelay().unwrap());
        assert_eq!(usual.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(usual.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(usual.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(usual.tcp_user_timeout().unwrap(), None);

        let set =
            "keepalives_idle=7 keepalives_interval=5 keepalives_count=2 tcp_user_timeout=9000";
        let set = socket(set).await;
        let set = SockRef::from(&set);
        assert_eq!(set.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(set.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(set.tcp_keepalive_retries().unwrap(), 2);
        assert_eq!(set.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));

        let off = socket("keepalives=0").await;
        assert!(!SockRef::from(&off).keepalive().unwrap());
    }
}
