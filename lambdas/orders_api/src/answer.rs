//! What is answered: JSON, and for each failure its status and a sentence.

use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::time::Duration;

/// Why a request has no answer of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("there is no order {0}")]
    NoOrder(String),
    #[error("expected /orders/{{id}}, /customers/{{id}}/orders or /healthz, found another path")]
    NoRoute,
    #[error(
        "expected order {id} at version {version} within {wait:?}, found the read model behind; ask again, or with stale=true for the order as it is"
    )]
    NotYet { id: String, version: i64, wait: Duration },
    #[error("expected GET, found another method")]
    Method,
    #[error("the request could not be answered; the service's log says why")]
    Internal,
    #[error("the read model does not answer; ask again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Refusal {
    pub(crate) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }

    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::NoOrder(_) | Self::NoRoute => (StatusCode::NOT_FOUND, "not_found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::NotYet { .. } => (StatusCode::GATEWAY_TIMEOUT, "not_yet"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = self.kind();
        if let Self::Unavailable(cause) = &self {
            // The caller is not told: it may name hosts and roles.
            tracing::error!(error = dsn::causes(cause.as_ref()), "the read model does not answer");
        }
        let body = json!({ "error": error, "message": self.to_string() }).to_string();
        let mut response = json_text(status, body);
        if matches!(self, Self::NotYet { .. } | Self::Unavailable(_)) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if matches!(self, Self::Method) {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// A body that is JSON already. No cache may keep it: it would be older than it seems.
pub(crate) fn json_text(status: StatusCode, body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body).into_response()
}
