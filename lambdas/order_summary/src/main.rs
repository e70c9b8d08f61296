//! The Lambda function `order_summary`: deployed as `bootstrap`, behind an SQS queue.

use consumer::Consumer;
use consumer::host::lambda::{self, Error};
use order_summary::OrderSummary;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let traces = consumer::start_logging();
    let url = std::env::var("READ_MODEL_URL").map_err(
        |_| "expected READ_MODEL_URL, the connection string of the read model; found nothing",
    )?;
    let read_model = lambda::login(url.parse()?)?;
    lambda::serve(Consumer::new(OrderSummary, &read_model).with_traces(&traces)).await
}
