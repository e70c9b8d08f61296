//! The real binary, driven as Lambda drives it.

use crate::support::{body, read_model, row};
use local::runtime_api::{Answer, Function, messages};
use serde_json::json;
use std::time::Duration;

async fn function(read_model_url: &str) -> Function {
    function_with(read_model_url, &[]).await
}

async fn function_with(read_model_url: &str, more: &[(&str, &str)]) -> Function {
    let environment = [&[("READ_MODEL_URL", read_model_url)], more].concat();
    let timeout = Duration::from_secs(5);
    Function::start(env!("CARGO_BIN_EXE_order_summary"), timeout, &environment).await.unwrap()
}

#[tokio::test]
async fn the_function_applies_batches_and_names_what_goes_back() {
    let read_model = read_model().await;
    let mut function = function(&read_model.url()).await;
    let created = body(1, 1, "order.created", &json!({ "customer_id": "c", "currency": "EUR" }));
    let paid = body(1, 2, "order.paid", &json!({ "amount": "1" }));

    let done = Answer::all_but(&[]);
    assert_eq!(function.invoke(messages(&[])).await.unwrap(), done);
    assert_eq!(function.invoke(json!({})).await.unwrap(), done);
    let batch = messages(&[("m1", &created), ("m2", "no event"), ("m3", &paid)]);
    assert_eq!(function.invoke(batch).await.unwrap(), Answer::all_but(&["m2", "m3"]));
    assert_eq!(row(&read_model, "o-1").await["status"], "created");

    let redelivered = messages(&[("m1", &created), ("m3", &paid)]);
    assert_eq!(function.invoke(redelivered).await.unwrap(), done);
    assert_eq!(row(&read_model, "o-1").await["status"], "paid");
}

#[tokio::test]
async fn a_read_model_that_cannot_be_reached_is_an_error_for_the_whole_batch() {
    let mut function = function("postgres://nobody:secret@127.0.0.1:1/none").await;
    let paid = body(1, 1, "order.paid", &json!({}));
    let Answer::Error(error) = function.invoke(messages(&[("m1", &paid)])).await.unwrap() else {
        panic!("expected an error, for all of the batch goes back");
    };
    assert_eq!(error["errorType"], "Unreachable");
    assert!(!error.to_string().contains("secret") && !function.log().contains("secret"));
}

/// An order's creation as it comes with the headers of its trace.
#[cfg(feature = "otel")]
fn traced() -> serde_json::Value {
    let data = json!({ "customer_id": "c", "currency": "EUR" });
    let metadata = r#""metadata":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},"data":"#;
    let created = body(1, 1, "order.created", &data).replacen("\"data\":", metadata, 1);
    let mut invocation = messages(&[("m1", &created)]);
    invocation["Records"][0]["attributes"]["AWSTraceHeader"] =
        "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1".into();
    invocation
}

#[cfg(feature = "otel")]
#[tokio::test]
async fn the_spans_are_sent_before_the_answer_to_where_opentelemetrys_variables_say() {
    use crate::otlp::{Otlp, attribute, hex};
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

#[cfg(feature = "otel")]
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
