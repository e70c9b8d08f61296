//! Reading an order right after it was written: what `orders_api` promises, asked by its URL.
//!
//! Knows: how a function URL is asked, signed as AWS wants it, and how an order is written in the
//! shop. Must not know: what brings the order into the read model.

use anyhow::{Context, Result};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use serde_json::Value;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;
use uuid::Uuid;

/// So long a version is asked for again and again: MiniStack brings an event in its own time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The function URL of `orders_api` on MiniStack, which has it under a path of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OrdersApi {
    authority: String,
    path: String,
}

/// What it answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The body, null where there is none.
    pub body: Value,
}

impl OrdersApi {
    /// By the URL that the template's output names, `https://ID.lambda-url.…/`, and MiniStack's
    /// endpoint, `http://HOST:PORT`.
    ///
    /// # Errors
    /// When one of them is no such URL.
    pub fn new(url: &str, endpoint: &str) -> Result<Self> {
        let host = url
            .strip_prefix("https://")
            .with_context(|| format!("expected an https URL, found {url}"))?;
        let id = host.split('.').next().unwrap_or_default();
        let authority = endpoint.strip_prefix("http://");
        let authority =
            authority.with_context(|| format!("expected an http URL, found {endpoint}"))?;
        Ok(Self { authority: authority.to_owned(), path: format!("/_aws/lambda-url/{id}") })
    }

    /// Where it is asked.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}{}", self.authority, self.path)
    }

    /// Asks with a signed request, as a role that may.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.ask(path, &self.signature(path)?).await
    }

    /// Asks as someone whom AWS does not know.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn get_unsigned(&self, path: &str) -> Result<Answer> {
        self.ask(path, &[]).await
    }

    /// The headers that sign it, by the credentials of `ministack::aws_environment`.
    fn signature(&self, path: &str) -> Result<Vec<(String, String)>> {
        let identity = Credentials::new("local", "local", None, None, "demo").into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("lambda")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let url = format!("{}{path}", self.url());
        let host = [("host", self.authority.as_str())];
        let request =
            SignableRequest::new("GET", &url, host.into_iter(), SignableBody::Bytes(&[]))?;
        let (signed, _) = sign(request, &params)?.into_parts();
        let headers = signed.headers();
        Ok(headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    async fn ask(&self, path: &str, headers: &[(String, String)]) -> Result<Answer> {
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (authority, own) = (&self.authority, &self.path);
        let request = format!(
            "GET {own}{path} HTTP/1.0\r\nhost: {authority}\r\n{headers}connection: close\r\n\r\n"
        );
        let mut stream =
            tokio::net::TcpStream::connect(authority).await.context("reach MiniStack")?;
        stream.write_all(request.as_bytes()).await.context("ask orders_api")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.context("read the answer of orders_api")?;
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status =
            status.with_context(|| format!("expected an answer of HTTP, found {text:?}"))?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(Answer { status, body: serde_json::from_str(body).unwrap_or_default() })
    }
}

/// An order, asked for right after the commit that brought it to a version.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadBack {
    /// The order.
    pub order: String,
    /// The version that was written.
    pub version: i64,
    /// The version that was found at once, without waiting; none where the order was not there.
    pub at_once: Option<i64>,
    /// The answer to the request that waits for the version.
    pub answer: Answer,
    /// How long that request took, with those before it that came too early.
    pub took: Duration,
    /// How often it was asked: `orders_api` waits for 2 seconds and then says to ask again.
    pub asked: u32,
}

impl ReadBack {
    /// Whether what was written is what was read.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.answer.status == 200 && self.answer.body["version"] == self.version
    }
}

impl fmt::Display for ReadBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, answer, took, asked, .. } = self;
        match self.at_once {
            None => write!(f, "version {version} written: without waiting there is no order yet")?,
            Some(found) => {
                write!(f, "version {version} written: without waiting it is at version {found}")?;
            }
        }
        let (status, found) = (answer.status, &answer.body["version"]);
        let milliseconds = took.as_millis();
        write!(
            f,
            "; min_version={version} answers {status} at version {found} after {milliseconds} ms"
        )?;
        if *asked > 1 {
            write!(f, ", asked {asked} times")?;
        }
        Ok(())
    }
}

/// Writes one order step by step and asks for it right after each commit; three events.
///
/// # Errors
/// When the shop refuses, or nothing answers.
pub async fn write_and_read(shop: &Client, api: &OrdersApi) -> Result<Vec<ReadBack>> {
    let order = format!("ord_{}", Uuid::new_v4().simple());
    let outbox = |version: i64, event_type: &str, data: &str| {
        format!(
            "insert into relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type, data)
             values ('order', '{order}', {version}, '{event_type}', '{data}')"
        )
    };
    let steps = [
        (
            format!(
                "insert into orders (order_id, customer_id, currency, version) values ('{order}', 'cus_1', 'EUR', 1)"
            ),
            outbox(1, "order.created", r#"{"customer_id": "cus_1", "currency": "EUR"}"#),
        ),
        (
            format!(
                "insert into order_item (order_id, sku, quantity, unit_price) values ('{order}', 'sku-1', 2, 12.50); update orders set version = 2 where order_id = '{order}'"
            ),
            outbox(
                2,
                "order.item_added",
                r#"{"sku": "sku-1", "quantity": 2, "unit_price": "12.50"}"#,
            ),
        ),
        (
            format!(
                "update orders set version = 3, status = 'cancelled', cancelled_at = now() where order_id = '{order}'"
            ),
            outbox(3, "order.cancelled", r#"{"reason": "changed their mind"}"#),
        ),
    ];
    // The function's start is not what is shown.
    api.get("/healthz").await?;
    let mut read = Vec::new();
    for ((change, event), version) in steps.into_iter().zip(1..) {
        shop.batch_execute(&format!("begin; {change}; {event}; commit"))
            .await
            .context("write an order")?;
        read.push(read_back(api, &order, version).await?);
    }
    Ok(read)
}

async fn read_back(api: &OrdersApi, order: &str, version: i64) -> Result<ReadBack> {
    let at_once = api.get(&format!("/orders/{order}")).await?.body["version"].as_i64();
    let path = format!("/orders/{order}?min_version={version}");
    let (began, mut asked) = (Instant::now(), 0);
    let answer = loop {
        let answer = api.get(&path).await?;
        asked += 1;
        // Not yet: the answer says to ask again.
        if answer.status != 504 || began.elapsed() > PATIENCE {
            break answer;
        }
    };
    let order = order.to_owned();
    Ok(ReadBack { order, version, at_once, answer, took: began.elapsed(), asked })
}
