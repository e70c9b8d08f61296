//! The Lambda function `notifier`: deployed as `bootstrap`, behind an SQS queue. `READ_MODEL_URL`,
//! and what [`Settings`] reads.

use consumer::host::{self, lambda};
use notifier::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    let traces = host::start_logging();
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    let read_model = lambda::login(host::read_model()?)?;
    let consumer = settings.consumer(&read_model).park_after(host::PARK_AFTER);
    lambda::serve(consumer.with_traces(&traces)).await
}
