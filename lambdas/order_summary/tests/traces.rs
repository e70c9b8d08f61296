//! The real binary sends its spans to a receiver of OpenTelemetry's protocol, or goes on without.

use crate::otlp::{Otlp, attribute, hex};
use crate::runtime_api::function_with;
use crate::support::{body, read_model, row};
use axum::serve::Listener;
use local::runtime_api::{Answer, messages};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// An order's creation as it comes with the headers of its trace.
fn traced() -> serde_json::Value {
    let data = json!({ "customer_id": "c", "currency": "EUR" });
    let metadata = r#""metadata":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},"data":"#;
    let created = body(1, 1, "order.created", &data).replacen("\"data\":", metadata, 1);
    let mut invocation = messages(&[("m1", &created)]);
    invocation["Records"][0]["attributes"]["AWSTraceHeader"] =
        "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1".into();
    invocation
}

#[tokio::test]
async fn the_spans_are_sent_before_the_answer_to_where_opentelemetrys_variables_say() {
    let done = Answer::all_but(&[]);
    for (service, expected) in [("orders", "orders"), ("", "f")] {
        let (read_model, otlp) = (read_model().await, Otlp::start().await);
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.address()),
            ("OTEL_SERVICE_NAME", service),
            // The filter of the log has no say in it.
            ("RUST_LOG", "error"),
        ];
        let mut function = function_with(&read_model.url(), &variables).await;
        assert_eq!(function.invoke(traced()).await.unwrap(), done);
        let requests = otlp.requests();
        assert_eq!(requests.len(), 1);
        let resource = requests[0].resource_spans[0].resource.clone().unwrap();
        assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some(expected));
        let spans = otlp.spans();
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["process order_summary", "batch order_summary"]);
        assert_eq!(hex(&spans[1].parent_span_id), "", "the runtime's span is not sent");
        let links: Vec<String> = spans[0].links.iter().map(|link| hex(&link.span_id)).collect();
        assert_eq!(links, ["b7ad6b7169203331", "53995c3f42cd8ad8"]);
        assert_eq!(function.invoke(traced()).await.unwrap(), done);
        assert_eq!(otlp.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_function_that_cannot_send_spans_works_without_them() {
    let done = Answer::all_but(&[]);
    for address in ["http://127.0.0.1:1", "http://otlp.example.com:4318", "nonsense"] {
        let read_model = read_model().await;
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", address)];
        let mut function = function_with(&read_model.url(), &variables).await;
        assert_eq!(function.invoke(traced()).await.unwrap(), done, "{address}");
    }
}

/// What speaks TLS with a certificate of its own making.
struct Encrypted {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.tcp).await;
            // Who mistrusts the certificate hangs up.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// A receiver on this machine whose certificate is of this name; it is written into the file.
async fn receiver(name: &str, certificate: &Path) -> Otlp {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(certificate, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", tcp.local_addr().unwrap().port());
    Otlp::behind(Encrypted { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) }, address)
}

#[tokio::test]
async fn spans_go_over_tls_to_a_receiver_that_shows_who_it_is_and_to_no_other() {
    let file = |name: &str| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        folder.join(format!("otlp-{name}-{}.pem", std::process::id()))
    };
    let (known, other, elsewhere) = (file("known"), file("other"), file("elsewhere"));
    let trusted = receiver("localhost", &known).await;
    let unknown = receiver("localhost", &other).await;
    let misnamed = receiver("elsewhere.example", &elsewhere).await;
    for (otlp, authority, refusal) in [
        (&trusted, &known, None),
        (&unknown, &known, Some("invalid peer certificate")),
        (&misnamed, &elsewhere, Some("not valid for name")),
    ] {
        let read_model = read_model().await;
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.address()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.to_str().unwrap()),
        ];
        let mut function = function_with(&read_model.url(), &variables).await;
        for _ in 0..2 {
            assert_eq!(function.invoke(traced()).await.unwrap(), Answer::all_but(&[]));
        }
        assert_eq!(row(&read_model, "o-1").await["status"], "created");
        let log = function.log();
        match refusal {
            None => assert_eq!(otlp.requests().len(), 2, "{log}"),
            Some(why) => {
                assert_eq!(otlp.requests().len(), 0, "{log}");
                let lost = log.matches("spans could not be sent; they are lost").count();
                assert!(lost == 2 && log.contains(why), "{log}");
            }
        }
    }
}
