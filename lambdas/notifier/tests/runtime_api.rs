//! The real binary, driven as Lambda drives it.

use crate::support::{body, calls, open, read_model};
use local::receiver::{Behaviour, Receiver};
use local::runtime_api::{Answer, Function, messages};
use std::time::Duration;

#[tokio::test]
async fn the_function_calls_once_for_each_paid_order_and_names_what_goes_back() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let environment = [("READ_MODEL_URL", &*read_model.url()), ("NOTIFY_URL", &receiver.url())];
    let program = env!("CARGO_BIN_EXE_notifier");
    let mut function =
        Function::start(program, Duration::from_secs(60), &environment).await.unwrap();
    let (first, second) = (body(1, 3, "order.paid"), body(2, 3, "order.paid"));

    let batch = messages(&[("m1", &first), ("m2", "no event")]);
    assert_eq!(function.invoke(batch).await.unwrap(), Answer::all_but(&["m2"]));
    // The receiver says that it did nothing: the message comes again, and so does the call.
    receiver.then([Behaviour::Answer(503)]);
    let batch = messages(&[("m1", &first), ("m3", &second)]);
    assert_eq!(function.invoke(batch.clone()).await.unwrap(), Answer::all_but(&["m3"]));
    assert_eq!(function.invoke(batch).await.unwrap(), Answer::all_but(&[]));
    assert_eq!((calls(&receiver), open(&read_model).await), (vec![1, 2], (0, 0)));
}

#[tokio::test]
async fn a_function_that_is_not_told_whom_to_call_ends_and_says_so() {
    let environment = [("READ_MODEL_URL", "postgres://localhost/none")];
    let program = env!("CARGO_BIN_EXE_notifier");
    let mut function =
        Function::start(program, Duration::from_secs(60), &environment).await.unwrap();
    assert!(!function.ended().await.unwrap().success());
    assert!(function.log().contains("expected NOTIFY_URL"), "{}", function.log());
}
