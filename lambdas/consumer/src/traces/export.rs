//! Spans to a receiver of OTLP, over HTTP with Protocol Buffers, as OpenTelemetry's variables say.
//!
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>. The request is made and waited
//! for where the host can spare the time, on its own runtime.

use super::Traces;
use super::kept::Kept;
use super::transport::{Noted, Reason};
use http::Uri;
use http::uri::Scheme;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{
    ExporterBuildError, HttpExporterBuilderSet, Protocol, RetryPolicy, SpanExporter,
    SpanExporterBuilder, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// How long a request may take where nothing else is said; a host gives it less where it has less.
const LONGEST: Duration = Duration::from_secs(10);

/// Why no spans can be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// It is another protocol than the one that is spoken here.
    #[error("expected {variable} to be http/protobuf, found {found:?}")]
    Protocol {
        /// Name of OpenTelemetry's variable.
        variable: &'static str,
        /// Its value.
        found: String,
    },
    /// It is no address of the web.
    #[error("expected {variable} to be an address such as https://collector.example.com:4318")]
    Address {
        /// Name of OpenTelemetry's variable.
        variable: &'static str,
    },
    /// Spans would go in the clear.
    #[error(
        "expected {variable} to be https to a host that is not this machine, found http to {host}"
    )]
    InTheClear {
        /// Name of OpenTelemetry's variable.
        variable: &'static str,
        /// Host in the address.
        host: String,
    },
    /// A timeout that is no number of milliseconds.
    #[error("expected {variable} to be a number of milliseconds, found {found:?}")]
    Timeout {
        /// Name of OpenTelemetry's variable.
        variable: &'static str,
        /// Its value.
        found: String,
    },
    /// No certificate authority can be read.
    #[error("expected certificates of trusted authorities in {place}, found none that can be read")]
    Roots {
        /// The file, or the system's store.
        place: String,
    },
    /// TLS refuses its own configuration.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// Another of the variables is not what it should be.
    #[error("spans cannot be sent")]
    Exporter(#[from] ExporterBuildError),
}

/// What sends, and what is to be sent.
#[derive(Debug)]
pub(super) struct Export {
    provider: SdkTracerProvider,
    kept: Kept,
    /// One request at a time, as an exporter wants it.
    exporter: Mutex<SpanExporter>,
    /// Why the exporter's last request failed.
    reason: Reason,
}

impl Traces {
    /// Spans to where `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` says;
    /// none where neither is set or `OTEL_SDK_DISABLED` is `true`.
    ///
    /// Read too: `OTEL_SERVICE_NAME` (the function's name where it is not set),
    /// `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, `…_TIMEOUT`, `…_CERTIFICATE` (a
    /// PEM file of authorities in place of the system's), `OTEL_TRACES_SAMPLER` with its `…_ARG`.
    ///
    /// # Errors
    /// When one of them is not what it should be, or spans would go in the clear to another machine.
    pub fn from_environment() -> Result<Self, TracesError> {
        let disabled =
            variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let Some((name, address)) =
            first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
                .filter(|_| !disabled)
        else {
            return Ok(Self::default());
        };
        check_protocol()?;
        Self::open(name, &address, SpanExporter::builder().with_http())
    }

    /// Spans to this address, such as `http://localhost:4318/v1/traces`, with the other variables
    /// as [`from_environment`](Self::from_environment) reads them.
    ///
    /// # Errors
    /// As there.
    pub fn to(address: &str) -> Result<Self, TracesError> {
        let exporter = SpanExporter::builder().with_http().with_endpoint(address);
        Self::open("the address of the receiver", address, exporter)
    }

    fn open(
        name: &'static str,
        address: &str,
        exporter: SpanExporterBuilder<HttpExporterBuilderSet>,
    ) -> Result<Self, TracesError> {
        let builder = exporter.with_protocol(Protocol::HttpBinary);
        // A connection that the receiver closed while the function was frozen is noticed only by
        // its next use.
        let soon = RetryPolicy::default().with_initial_delay(Duration::from_millis(20));
        let builder = builder.with_retry_policy(soon.with_max_jitter(Duration::from_millis(20)));
        let (limit, reason) = (limit()?, Reason::default());
        let builder = if is_encrypted(name, address)? {
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            let https = HttpsConnectorBuilder::new().with_tls_config(tls()?).https_only();
            let https = https.enable_http1().wrap_connector(tcp);
            let client = HyperClient::new(https, limit, None);
            builder.with_http_client(Noted { client, reason: reason.clone() })
        } else {
            let client = HyperClient::with_default_connector(limit, None);
            builder.with_http_client(Noted { client, reason: reason.clone() })
        };
        let mut exporter = builder.build()?;
        let resource = resource();
        exporter.set_resource(&resource);
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(kept.clone())
            .build();
        let export = Export { provider, kept, exporter: Mutex::new(exporter), reason };
        Ok(Self { export: Some(Arc::new(export)) })
    }

    /// What keeps the spans, as a layer of the subscriber: those of this crate, and those that a
    /// handler opens with `tracing`, at the level `info` or above. Log lines are not among them.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let layer = self.export.as_ref().map(|export| {
            tracing_opentelemetry::layer()
                .with_tracer(export.provider.tracer(env!("CARGO_PKG_NAME")))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
        });
        layer.with_filter(filter_fn(is_wanted))
    }
}

/// A span of the runtime's ends after the answer: what is sent before that would lack its parent.
fn is_wanted(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && *metadata.level() <= Level::INFO
        && !metadata.target().starts_with("lambda_runtime")
}

impl Export {
    /// Sends what was kept; gives it up after so long.
    pub(super) async fn flush(&self, limit: Duration) {
        let (spans, lost) = self.kept.take();
        let count = spans.len();
        if lost > 0 {
            tracing::warn!(lost, "there were more spans than are kept; the rest is lost");
        }
        if count == 0 {
            return;
        }
        let sent = async { self.exporter.lock().await.export(spans).await };
        match tokio::time::timeout(limit, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let (error, reason) = (crate::error::chain(&error), self.reason.take());
                tracing::warn!(
                    lost = count,
                    error,
                    reason,
                    "spans could not be sent; they are lost"
                );
            }
            Err(_) => tracing::warn!(
                lost = count,
                "expected spans to be taken within {limit:?}, found no answer; they are lost"
            ),
        }
    }
}

/// Who speaks: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, or the function's name.
fn resource() -> Resource {
    let builder = Resource::builder();
    let named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|text| text.contains("service.name="));
    match variable("AWS_LAMBDA_FUNCTION_NAME").filter(|_| !named) {
        Some(function) => builder.with_service_name(function).build(),
        None => builder.build(),
    }
}

fn check_protocol() -> Result<(), TracesError> {
    let set = first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
    match set {
        Some((variable, found)) if found != "http/protobuf" => {
            Err(TracesError::Protocol { variable, found })
        }
        Some(_) | None => Ok(()),
    }
}

/// How long a request may take.
fn limit() -> Result<Duration, TracesError> {
    let set = first(["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]);
    let Some((variable, found)) = set else { return Ok(LONGEST) };
    match found.parse() {
        Ok(milliseconds) => Ok(Duration::from_millis(milliseconds)),
        Err(_) => Err(TracesError::Timeout { variable, found }),
    }
}

/// Whether TLS is spoken; in the clear only to this machine.
fn is_encrypted(variable: &'static str, address: &str) -> Result<bool, TracesError> {
    let uri: Uri = address.parse().map_err(|_| TracesError::Address { variable })?;
    let host = uri.host().ok_or(TracesError::Address { variable })?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let local =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Ok(true),
        Some(scheme) if *scheme == Scheme::HTTP && local => Ok(false),
        Some(scheme) if *scheme == Scheme::HTTP => Err(TracesError::InTheClear { variable, host }),
        Some(_) | None => Err(TracesError::Address { variable }),
    }
}

/// TLS that verifies in full, by the system's authorities or those of a file.
fn tls() -> Result<rustls::ClientConfig, TracesError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let file = first(["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"]);
    let (place, certificates) = match file {
        Some((_, file)) => {
            let read = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect);
            (file, read.unwrap_or_default())
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            ("the system's store".to_owned(), found)
        }
    };
    let mut roots = rustls::RootCertStore::empty();
    if let (0, _) = roots.add_parsable_certificates(certificates) {
        return Err(TracesError::Roots { place });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The first of these variables that is set, with its value.
fn first<const N: usize>(names: [&'static str; N]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, variable(name)?)))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_in_the_clear_to_this_machine_alone() {
        for (address, encrypted) in [
            ("http://localhost:4318", false),
            ("http://127.0.0.1:4318/", false),
            ("http://[::1]:4318", false),
            ("https://otlp.example.com", true),
        ] {
            assert_eq!(is_encrypted("V", address).unwrap(), encrypted, "{address}");
        }
        let remote = is_encrypted("V", "http://otlp.example.com:4318");
        assert!(matches!(remote, Err(TracesError::InTheClear { .. })), "{remote:?}");
        for none in ["", "localhost:4318", "/v1/traces", "grpc://localhost:4317"] {
            let refused = is_encrypted("V", none);
            assert!(matches!(refused, Err(TracesError::Address { .. })), "{none}: {refused:?}");
        }
    }
}
