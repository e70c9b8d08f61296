//! The Lambda function `__name__`: deployed as `bootstrap`, behind an SQS queue. `READ_MODEL_URL`.

use consumer::Consumer;
use consumer::host::{self, lambda};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    let traces = host::start_logging();
    let read_model = lambda::login(host::read_model()?)?;
    let consumer = Consumer::new(__name__::handler(), &read_model);
    lambda::serve(consumer.park_after(host::PARK_AFTER).with_traces(&traces)).await
}
