//! The Lambda function `notifier`: deployed as `bootstrap`, behind an SQS queue. `READ_MODEL_URL`,
//! and what [`Settings`] reads.

use consumer::host::{self, lambda};
use notifier::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    host::start_logging();
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    lambda::serve(settings.consumer(&host::read_model()?)).await
}
