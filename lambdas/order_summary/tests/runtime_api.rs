//! The real binary, driven as Lambda drives it.

use crate::support::{body, read_model, row};
use local::runtime_api::{Answer, Function, messages};
use serde_json::json;
use std::time::Duration;

async fn function(read_model_url: &str) -> Function {
    function_with(read_model_url, &[]).await
}

pub(crate) async fn function_with(read_model_url: &str, more: &[(&str, &str)]) -> Function {
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
