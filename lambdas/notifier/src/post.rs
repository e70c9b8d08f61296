//! One POST, and what is certain after it.
//!
//! Knows: where a call can no longer be taken back. Must not know: events, the database.
//!
//! Each call has a connection of its own: on one that is kept, a receiver that closes it at the
//! wrong moment leaves a call of which nobody can say whether it arrived.

use consumer::Performed;
use http::uri::{Scheme, Uri};
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long the way to the receiver may take, TLS included. Nothing was said by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// The longest that a receiver may put a call off.
const LONGEST_DELAY: Duration = Duration::from_hours(1);

/// The one form of a date that HTTP lets be sent (RFC 9110, 5.6.7).
const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// Why an address cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Misconfigured {
    /// It is no address of the web.
    #[error("expected an address such as https://mail.example.com/notices, found something else")]
    Address,
    /// It would go in the clear.
    #[error("expected https to a host that is not this machine, found http")]
    InTheClear,
    /// The authorities cannot be read.
    #[error("expected certificates of trusted authorities in {file}, found none that can be read")]
    Roots {
        /// The file, or the system's store.
        file: String,
    },
    /// TLS refuses its own configuration.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// Where calls go to.
pub struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for Target {
    /// Without the path and the query: an address may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("host", &self.host).field("port", &self.port).finish()
    }
}

impl Target {
    /// An address; HTTPS is verified in full by the system's authorities or those of a PEM file.
    /// HTTP is for this machine alone.
    ///
    /// # Errors
    /// When it is no such address, or there are no authorities.
    pub fn new(url: &str, roots: Option<PathBuf>) -> Result<Self, Misconfigured> {
        let uri: Uri = url.parse().map_err(|_| Misconfigured::Address)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(Misconfigured::Address)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (default, tls) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => {
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|_| Misconfigured::Address)?;
                (443, Some((connector(roots)?, name)))
            }
            Some(scheme) if *scheme == Scheme::HTTP && is_local(&host) => (80, None),
            Some(scheme) if *scheme == Scheme::HTTP => return Err(Misconfigured::InTheClear),
            Some(_) | None => return Err(Misconfigured::Address),
        };
        let port = uri.port_u16().unwrap_or(default);
        Ok(Self { uri, host, port, tls })
    }

    /// Posts a JSON body with its key.
    pub async fn post(&self, key: &str, body: String) -> Performed {
        let connected = tokio::time::timeout(CONNECT_LIMIT, self.connect()).await;
        let connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                return Performed::NotDone(format!("the receiver cannot be reached: {error}"));
            }
            Err(_) => {
                return Performed::NotDone(format!(
                    "expected a connection to the receiver within {CONNECT_LIMIT:?}, found none"
                ));
            }
        };
        match self.request(key, body) {
            Ok(request) => exchange(connection, request).await,
            Err(error) => Performed::Refused(format!("the call cannot be made: {error}")),
        }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
            None => Box::new(stream),
        })
    }

    fn request(&self, key: &str, body: String) -> Result<Request<Full<Bytes>>, http::Error> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        // What stands before an @ is for us, not for the receiver's logs.
        let host = host.rsplit('@').next().unwrap_or_default();
        Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("relay-notifier/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .header("idempotency-key", key)
            .body(Full::new(Bytes::from(body)))
    }
}

/// TCP, or TLS on it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// From here on the receiver may have it, whatever becomes of the connection.
async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> Performed {
    let (mut sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
        Ok(opened) => opened,
        Err(error) => return Performed::NotDone(format!("the connection broke: {error}")),
    };
    let answered = async {
        let mut connection = std::pin::pin!(connection);
        let mut response = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            biased;
            response = &mut response => response,
            // It ends when the receiver closes it; the answer may lie there already.
            _ = &mut connection => response.await,
        }
    };
    match answered.await {
        Ok(response) => {
            let after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
            judge(response.status(), after.and_then(|text| retry_after(text, SystemTime::now())))
        }
        Err(error) => Performed::Unknown(format!(
            "the call was made, and the receiver's answer did not come: {error}"
        )),
    }
}

/// What a status says of the effect.
fn judge(status: StatusCode, retry_after: Option<Duration>) -> Performed {
    let found = format!("the receiver answered {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Performed::Done,
        // It says that it did nothing, and may later.
        408 | 425 | 429 | 503 => match retry_after {
            Some(after) => Performed::NotDoneFor { after, reason: found },
            None => Performed::NotDone(found),
        },
        // It says that it did nothing, and never will. Redirects of a POST are not followed.
        300..=499 => Performed::Refused(found),
        // It broke down somewhere on the way.
        _ => Performed::Unknown(found),
    }
}

/// How long a `Retry-After` asks for, of seconds or of a date, an hour at most; none where it cannot
/// be read.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than fit are more than an hour.
        return Some(text.parse().map_or(LONGEST_DELAY, Duration::from_secs).min(LONGEST_DELAY));
    }
    let date = PrimitiveDateTime::parse(text, HTTP_DATE).ok()?.assume_utc();
    let after: Duration = (date - OffsetDateTime::from(now)).try_into().unwrap_or_default();
    Some(LONGEST_DELAY.min(after))
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn connector(roots: Option<PathBuf>) -> Result<TlsConnector, Misconfigured> {
    let file = roots.as_ref().map_or("the system's store".to_owned(), |p| p.display().to_string());
    let certificates: Vec<CertificateDer<'static>> = match roots {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|_| Misconfigured::Roots { file: file.clone() })?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(Misconfigured::Roots { file });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_is_certain() {
        let judge = |code| judge(StatusCode::from_u16(code).unwrap(), None);
        for code in [200, 201, 202, 204] {
            assert_eq!(judge(code), Performed::Done);
        }
        for code in [408, 425, 429, 503] {
            assert!(matches!(judge(code), Performed::NotDone(_)), "{code}");
        }
        for code in [301, 307, 400, 401, 404, 409, 422] {
            assert!(matches!(judge(code), Performed::Refused(_)), "{code}");
        }
        for code in [500, 502, 504, 599] {
            assert!(matches!(judge(code), Performed::Unknown(_)), "{code}");
        }
    }

    #[test]
    fn a_receiver_names_the_time_by_seconds_or_by_a_date_and_an_hour_at_most() {
        // 2026-01-15T10:30:00Z.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_473_000);
        for (text, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("86400", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Thu, 15 Jan 2026 10:31:30 GMT", Some(90)),
            ("Thu, 15 Jan 2026 10:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3600)),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("1.5", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
        let judged = judge(StatusCode::TOO_MANY_REQUESTS, Some(Duration::from_secs(7)));
        assert!(matches!(judged, Performed::NotDoneFor { after, .. } if after.as_secs() == 7));
    }

    #[test]
    fn what_would_go_in_the_clear_to_another_machine_is_refused() {
        for url in ["http://mail.example.com/", "http://10.0.0.1/"] {
            assert!(matches!(Target::new(url, None), Err(Misconfigured::InTheClear)), "{url}");
        }
        for url in ["", "mail.example.com", "ftp://localhost/", "https://", "/path"] {
            assert!(matches!(Target::new(url, None), Err(Misconfigured::Address)), "{url}");
        }
        for url in ["http://127.0.0.1:8080/a?b=c", "http://localhost", "http://[::1]:1/"] {
            assert!(Target::new(url, None).is_ok(), "{url}");
        }
        let target = Target::new("http://127.0.0.1:8080/a?key=secret", None).unwrap();
        assert!(!format!("{target:?}").contains("secret"));
    }
}
