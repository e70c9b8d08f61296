//! The socket under a session: addresses, time-outs, keepalive, TLS.

use super::WireError;
use dsn::Dsn;
use postgres_protocol::message::frontend;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{Host, SslMode};
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
    /// Connects to the string's only host, and encrypts as it says.
    pub(super) async fn open(dsn: &Dsn) -> Result<Self, WireError> {
        match dsn.config().get_hosts().first() {
            Some(Host::Unix(folder)) => {
                let path = folder.join(format!(".s.PGSQL.{}", dsn.port(0)));
                let socket = UnixStream::connect(path).await;
                Ok(Self::Unix(socket.map_err(failed("connecting to", dsn))?))
            }
            Some(Host::Tcp(name)) => {
                let mut socket = tcp(dsn, name).await.map_err(failed("connecting to", dsn))?;
                if dsn.config().get_ssl_mode() == SslMode::Disable {
                    return Ok(Self::Tcp(socket));
                }
                ask_for_tls(&mut socket, dsn).await?;
                let config = Arc::new(dsn.tls_config().map_err(WireError::Dsn)?);
                let verifying = "verifying the certificate of";
                let name = ServerName::try_from(name.clone())
                    .map_err(|e| failed(verifying, dsn)(io::Error::other(e)))?;
                let socket = TlsConnector::from(config).connect(name, socket).await;
                Ok(Self::Tls(Box::new(socket.map_err(failed(verifying, dsn))?)))
            }
            None => Err(WireError::Closed),
        }
    }

    /// Whether what is said over it is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
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

/// Tries each address of a name, or the one that is given for it.
async fn tcp(dsn: &Dsn, name: &str) -> io::Result<TcpStream> {
    let port = dsn.port(0);
    let addresses: Vec<SocketAddr> = match dsn.address(0) {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => tokio::net::lookup_host((name, port)).await?.collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(socket) => {
                keep_alive(&socket, dsn)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
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
