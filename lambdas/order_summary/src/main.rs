//! The Lambda function `order_summary`: deployed as `bootstrap`, behind an SQS queue. `READ_MODEL_URL`.

use consumer::host::{self, lambda};
use order_summary::OrderSummary;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    host::start_logging();
    lambda::run(OrderSummary, &host::read_model()?).await
}
