//! The Lambda function `customer_orders`: deployed as `bootstrap`, behind SQS queues.

use consumer::Consumer;
use consumer::host::lambda::{self, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let traces = consumer::start_logging();
    let url = std::env::var("READ_MODEL_URL").map_err(
        |_| "expected READ_MODEL_URL, the connection string of the read model; found nothing",
    )?;
    let read_model = lambda::login(url.parse()?)?;
    lambda::serve(Consumer::new(customer_orders::handler(), &read_model).with_traces(&traces)).await
}
