//! The same function as a worker that polls: `READ_MODEL_URL`, `QUEUE_URL`, `WORKERS` (how many
//! batches at a time, 4), and what [`Settings`] reads.

use consumer::host::{self, poll};
use notifier::Settings;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let traces = host::start_logging();
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    let read_model = poll::login(host::read_model()?).await?;
    Ok(poll::work(|| settings.consumer(&read_model).with_traces(&traces)).await?)
}
