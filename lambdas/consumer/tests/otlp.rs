//! A receiver of OpenTelemetry's protocol over HTTP, on a port of its own.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::serve::Listener;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::sync::{Arc, Mutex};

/// What came, request by request.
#[derive(Clone, Default)]
pub(crate) struct Otlp {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    address: String,
}

impl Otlp {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        Self::behind(listener, address)
    }

    /// One that gets its connections from this listener, which is found at this address.
    pub(crate) fn behind<L: Listener>(listener: L, address: String) -> Self
    where
        L::Addr: std::fmt::Debug,
    {
        let otlp = Self { address, ..Self::default() };
        let routes = Router::new().route("/v1/traces", post(take)).with_state(otlp.clone());
        tokio::spawn(async { axum::serve(listener, routes).await });
        otlp
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// The spans of all requests, in the order they came.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.requests();
        let resources = requests.into_iter().flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

async fn take(State(otlp): State<Otlp>, body: Bytes) -> StatusCode {
    match ExportTraceServiceRequest::decode(body) {
        Ok(request) => {
            otlp.requests.lock().unwrap().push(request);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

/// An attribute as text.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref() {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.clone()),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
