//! The Lambda function `notifier`: deployed as `bootstrap`, behind an SQS queue.

use consumer::host::lambda::{self, Error};
use notifier::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let traces = consumer::start_logging();
    let mut settings = Settings::read(|name| std::env::var(name).ok())?;
    settings.read_model = lambda::login(settings.read_model)?;
    lambda::serve(settings.consumer().with_traces(&traces)).await
}
