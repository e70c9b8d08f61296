//! The Lambda function `order_summary`: deployed as `bootstrap`, behind an SQS queue.

use consumer::host::lambda::{self, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    order_summary::start_logging();
    let url = std::env::var("READ_MODEL_URL").map_err(
        |_| "expected READ_MODEL_URL, the connection string of the read model; found nothing",
    )?;
    lambda::run(order_summary::OrderSummary, &lambda::login(url.parse()?)?).await
}
