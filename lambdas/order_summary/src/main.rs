//! The Lambda function `order_summary`: deployed as `bootstrap`, behind an SQS queue. `READ_MODEL_URL`.

use consumer::Consumer;
use consumer::host::{self, lambda};
use order_summary::OrderSummary;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    let traces = host::start_logging();
    let read_model = lambda::login(host::read_model()?)?;
    lambda::serve(Consumer::new(OrderSummary, &read_model).with_traces(&traces)).await
}
