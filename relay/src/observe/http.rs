//! The HTTP server for scrapers and health checks: `/metrics`, `/live`, `/ready`.

use super::{Pulse, text};
use crate::condition::Conditions;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::future::Ready;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Why nothing can be seen from outside.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The address is taken or not ours.
    #[error(
        "cannot listen at {address}; set observe.listen (RELAY_LISTEN) to an address that is free, or port 0 for any"
    )]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A server that is bound.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self, ObserveError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ObserveError::Listen { address, source })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped.
    pub async fn serve(self, registry: Registry, pulse: Arc<Pulse>, conditions: Conditions) {
        let registry = Arc::new(registry);
        let router = Router::new()
            .route("/metrics", get(move |headers| std::future::ready(scrape(&registry, &headers))))
            .route("/live", get(live))
            .route("/ready", get(move |pulse| ready(pulse, &conditions)))
            .with_state(pulse);
        if let Err(error) = axum::serve(self.listener, router).await {
            tracing::error!(%error, "metrics and health are not served any more");
        }
    }
}

fn scrape(registry: &Registry, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let open_metrics = accept.is_some_and(text::wants_open_metrics);
    let mut encoded = String::new();
    let answer = |kind: &'static str, text: String| ([(header::CONTENT_TYPE, kind)], text);
    match encode(&mut encoded, registry) {
        Ok(()) if open_metrics => answer(text::OPEN_METRICS, encoded).into_response(),
        Ok(()) => answer(text::CLASSIC, text::classic(&encoded)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn live(State(pulse): State<Arc<Pulse>>) -> Ready<(StatusCode, String)> {
    std::future::ready(answer(pulse.hangs().map(str::to_owned)))
}

fn ready(State(pulse): State<Arc<Pulse>>, conditions: &Conditions) -> Ready<(StatusCode, String)> {
    let hangs = pulse.hangs().map(str::to_owned);
    let waits = || pulse.waits().map(str::to_owned);
    std::future::ready(answer(hangs.or_else(|| conditions.blocked()).or_else(waits)))
}

fn answer(trouble: Option<String>) -> (StatusCode, String) {
    match trouble {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
    }
}
