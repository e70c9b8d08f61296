//! The Lambda function `__name__`: deployed as `bootstrap`, behind an SQS queue. `READ_MODEL_URL`.

use consumer::host::{self, lambda};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    host::start_logging();
    lambda::run(__name__::handler(), &host::read_model()?).await
}
