//! The Lambda function `customer_orders`: deployed as `bootstrap`, behind SQS queues.

use consumer::host::lambda::{self, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    customer_orders::start_logging();
    let url = std::env::var("READ_MODEL_URL").map_err(
        |_| "expected READ_MODEL_URL, the connection string of the read model; found nothing",
    )?;
    lambda::run(customer_orders::handler(), &lambda::login(url.parse()?)?).await
}
