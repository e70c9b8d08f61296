//! One object of S3 at a time, put or got: what claim checks need, and no more.
//!
//! On the SDK's own parts: its signer, its HTTP client, its providers of credentials. Not on
//! `aws-sdk-s3`: 1.157.0 has 239,000 lines of source (`aws-sdk-sqs` 43,000) for two calls. To a
//! function with the consumer it would bring 48 crates more than this one, to the relay 11.
//!
//! TLS is verified always, each call has time-outs, and no more of an answer is read than was
//! asked for. Trying again is the caller's part.
//! Knows: where a bucket answers, how a request is signed, what an answer says. Must not know:
//! events, queues.

mod address;
mod credentials;
mod error;
mod sign;

pub use address::Place;
pub use error::Error;

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{
    HttpConnector as _, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::http::Request;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use credentials::Cached;
use http::HeaderValue;
use http::header::USER_AGENT;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use sign::Call;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// For a request and its answer as a whole.
const LIMIT: Duration = Duration::from_secs(60);

/// The most that is read of an answer that is an error.
const LARGEST_ERROR: usize = 16 * 1024;

/// Where objects are put and got.
#[derive(Clone, Debug)]
pub struct Store {
    connector: SharedHttpConnector,
    credentials: Arc<Cached>,
    place: Place,
    user_agent: HeaderValue,
}

impl Store {
    /// A store at this place, with credentials from this provider; nothing is asked of it yet.
    ///
    /// `product` names the caller in the user agent, as `app/…`: letters, digits, hyphens, dots.
    #[must_use]
    pub fn new(place: Place, credentials: SharedCredentialsProvider, product: &str) -> Self {
        let settings = HttpConnectorSettings::builder()
            .connect_timeout(Duration::from_secs(3))
            .read_timeout(Duration::from_secs(15))
            .build();
        let connector = Connector::builder()
            .connector_settings(settings)
            .sleep_impl(TokioSleep::new())
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build();
        Self {
            connector: SharedHttpConnector::new(connector),
            credentials: Arc::new(Cached::new(credentials)),
            place,
            // What cannot stand in a header is left out rather than fail over a name.
            user_agent: HeaderValue::try_from(format!("app/{product}"))
                .unwrap_or_else(|_| HeaderValue::from_static("app/s3")),
        }
    }

    /// Puts an object; one of the same key is replaced.
    ///
    /// # Errors
    /// When S3 does not say that it has the object.
    pub async fn put(&self, bucket: &str, key: &str, body: Bytes) -> Result<(), Error> {
        self.call("PUT", bucket, key, body, LARGEST_ERROR).await.map(drop)
    }

    /// Gets an object of at most so many bytes.
    ///
    /// # Errors
    /// When S3 does not give it, or it is larger.
    pub async fn get(&self, bucket: &str, key: &str, most: usize) -> Result<Bytes, Error> {
        self.call("GET", bucket, key, Bytes::new(), most).await
    }

    async fn call(
        &self,
        method: &str,
        bucket: &str,
        key: &str,
        body: Bytes,
        most: usize,
    ) -> Result<Bytes, Error> {
        let credentials = self.credentials.get().await?;
        let url = self.place.url(bucket, key);
        let call = Call { method, url: &url, headers: &[], body };
        let mut request = call.signed(self.place.region(), credentials, SystemTime::now())?;
        request.headers_mut().insert(USER_AGENT, self.user_agent.clone());
        let answer = tokio::time::timeout(LIMIT, self.answer(request, most));
        let error = match answer.await {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(error)) => error,
            Err(_) => Error::Unreachable { source: "no whole answer in time".into() },
        };
        if error.is_of_credentials() {
            self.credentials.forget();
        }
        Err(error)
    }

    async fn answer(&self, request: http::Request<Bytes>, most: usize) -> Result<Bytes, Error> {
        let unreachable = |source| Error::Unreachable { source };
        let request = Request::try_from(request.map(SdkBody::from));
        let request = request.map_err(|e| Error::Request { source: e.into() })?;
        let answer = self.connector.call(request).await.map_err(|e| unreachable(e.into()))?;
        let status = answer.status().as_u16();
        let is_success = answer.status().is_success();
        let most = if is_success { most } else { LARGEST_ERROR };
        match Limited::new(answer.into_body(), most).collect().await {
            Ok(body) if is_success => Ok(body.to_bytes()),
            Ok(body) => Err(Error::refused(status, &body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLarge { most }),
            Err(error) => Err(unreachable(error)),
        }
    }
}
