//! The real binary, driven as Lambda drives it.

use crate::support::{created, list, read_model, registered};
use local::runtime_api::{Answer, Function, messages};
use std::time::Duration;

#[tokio::test]
async fn the_function_puts_orders_beside_their_customers_and_names_what_goes_back() {
    let read_model = read_model().await;
    let environment = [("READ_MODEL_URL", &*read_model.url())];
    let program = env!("CARGO_BIN_EXE_customer_orders");
    let mut function =
        Function::start(program, Duration::from_secs(30), &environment).await.unwrap();
    // From two queues, and so in two invocations.
    let orders = messages(&[("m1", &created(1, 7).body()), ("m2", "no event")]);
    assert_eq!(function.invoke(orders).await.unwrap(), Answer::all_but(&["m2"]));
    let customers = messages(&[("m3", &registered(7, "Ada", "Lee", "Oslo").body())]);
    assert_eq!(function.invoke(customers).await.unwrap(), Answer::all_but(&[]));
    let list = list(&read_model).await;
    assert_eq!(
        (list.len(), &list[0]["name"], &list[0]["city"]),
        (1, &"Ada Lee".into(), &"Oslo".into())
    );
}
