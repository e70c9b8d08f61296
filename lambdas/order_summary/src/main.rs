//! The Lambda function `order_summary`: deployed as `bootstrap`, behind an SQS queue. `READ_MODEL_URL`.

use consumer::Consumer;
use consumer::host::{self, lambda};
use order_summary::OrderSummary;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    let traces = host::start_logging();
    let read_model = lambda::login(host::read_model()?)?;
    let consumer = Consumer::new(OrderSummary, &read_model).park_after(host::PARK_AFTER);
    lambda::serve(consumer.with_traces(&traces)).await
}
