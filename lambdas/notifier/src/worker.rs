//! The same function as a worker that polls: `READ_MODEL_URL`, `QUEUE_URL`, `WORKERS` (how many
//! batches at a time, 4), and what [`Settings`] reads.

use consumer::host::{self, poll};
use notifier::Settings;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let traces = host::start_logging();
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    let read_model = poll::login(host::read_model()?).await?;
    let consumer = || settings.consumer(&read_model).park_after(host::PARK_AFTER);
    Ok(poll::work(|| consumer().with_traces(&traces)).await?)
}
