//! The requests, and what each is answered.

use crate::answer::{Refusal, json_text};
use crate::orders::Orders;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use consumer::{Handler, ReadModel, Waited};
use futures_util::FutureExt as _;
use order_summary::OrderSummary;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// What orders are called in their events.
const AGGREGATE_TYPE: &str = "order";

/// How many orders a list has unless it is told, and at most.
const LISTED: u16 = 100;
const LISTED_AT_MOST: u16 = 1000;

pub(crate) struct Service {
    pub(crate) read_model: ReadModel,
    pub(crate) orders: Orders,
    /// How long a request waits for the version that it asks for.
    pub(crate) wait: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderQuery {
    /// What the caller knows to be there: the version that its command came to.
    min_version: Option<i64>,
    /// Whether an older order is better than none.
    #[serde(default)]
    stale: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<u16>,
}

pub(crate) fn routes(service: Service) -> Router {
    Router::new()
        .route("/orders/{id}", get(order))
        .route("/customers/{id}/orders", get(orders_of_customer))
        .route("/healthz", get(health))
        .method_not_allowed_fallback(async || Refusal::Method)
        .fallback(async || Refusal::NoRoute)
        .layer(from_fn(answered))
        .with_state(Arc::new(service))
}

async fn order(
    State(service): State<Arc<Service>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let id = id_of(id)?;
    let asked: OrderQuery = query(&uri, "min_version=NUMBER and stale=true or false")?;
    // Postgres text holds no NUL, so there is no such order.
    if id.contains('\0') {
        return Err(Refusal::NoOrder(id));
    }
    let waited = match asked.min_version {
        None => Waited::Reached,
        Some(version) if version < 1 => {
            return Err(Refusal::BadRequest(format!(
                "expected min_version to be 1 or more, found {version}"
            )));
        }
        Some(version) => {
            let waited = service
                .read_model
                .await_version(OrderSummary.name(), AGGREGATE_TYPE, &id, version, service.wait)
                .await
                .map_err(Refusal::unavailable)?;
            if waited.is_stale() && !asked.stale {
                return Err(Refusal::NotYet { id, version, wait: service.wait });
            }
            waited
        }
    };
    // A statement of its own, after the wait: it sees what was waited for.
    let order = service.orders.order(&id).await.map_err(Refusal::unavailable)?;
    let mut response = match order {
        Some(order) => json_text(StatusCode::OK, order),
        None => Refusal::NoOrder(id).into_response(),
    };
    if waited.is_stale() {
        response.headers_mut().insert("x-stale", HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn orders_of_customer(
    State(service): State<Arc<Service>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let id = id_of(id)?;
    let asked: ListQuery = query(&uri, "limit=NUMBER")?;
    let limit = asked.limit.unwrap_or(LISTED);
    if !(1..=LISTED_AT_MOST).contains(&limit) {
        return Err(Refusal::BadRequest(format!(
            "expected limit to be between 1 and {LISTED_AT_MOST}, found {limit}"
        )));
    }
    if id.contains('\0') {
        return Ok(json_text(StatusCode::OK, "[]".to_owned()));
    }
    let orders = service.orders.of_customer(&id, limit).await.map_err(Refusal::unavailable)?;
    Ok(json_text(StatusCode::OK, orders))
}

async fn health(State(service): State<Arc<Service>>) -> Result<Response, Refusal> {
    service.orders.answers().await.map_err(Refusal::unavailable)?;
    Ok(json_text(StatusCode::OK, r#"{"status":"ok"}"#.to_owned()))
}

/// The id in the path. It is percent-encoded UTF-8.
fn id_of(path: Result<Path<String>, PathRejection>) -> Result<String, Refusal> {
    let Path(id) = path.map_err(|_| {
        Refusal::BadRequest("expected an id in percent-encoded UTF-8, found other bytes".to_owned())
    })?;
    Ok(id)
}

/// Answers a request whose handling panicked, as each failure is answered.
async fn answered(request: Request, next: Next) -> Response {
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| Refusal::Internal.into_response())
}

/// The query string; `expected` says what it may hold. The parser's own words would quote it.
fn query<T: DeserializeOwned>(uri: &Uri, expected: &str) -> Result<T, Refusal> {
    serde_urlencoded::from_str(uri.query().unwrap_or_default()).map_err(|_| {
        Refusal::BadRequest(format!("expected {expected} in the query, found another"))
    })
}
