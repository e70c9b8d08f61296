//! The Lambda function `__name__`: deployed as `bootstrap`, behind an SQS queue.

use consumer::host::lambda::{self, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    start_logging();
    let url = std::env::var("READ_MODEL_URL").map_err(
        |_| "expected READ_MODEL_URL, the connection string of the read model; found nothing",
    )?;
    lambda::run(__name__::handler(), &url.parse()?).await
}

/// Logs as Lambda shows them best: a JSON object a line. `RUST_LOG` filters.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_target(false).init();
}
