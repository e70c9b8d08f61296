//! The Lambda function `customer_orders`: deployed as `bootstrap`, behind SQS queues. `READ_MODEL_URL`.

use consumer::host::{self, lambda};
use customer_orders::handler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    host::start_logging();
    lambda::run(handler(), &host::read_model()?).await
}
