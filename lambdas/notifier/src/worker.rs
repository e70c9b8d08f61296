//! The same function as a worker that polls: `READ_MODEL_URL`, `QUEUE_URL`, `NOTIFY_URL`, and
//! `WORKERS` (how many batches at a time, 4).

use anyhow::Context;
use consumer::host::poll;
use notifier::Settings;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let traces = consumer::start_logging();
    let variable = |name: &str| std::env::var(name).ok();
    let mut settings = Settings::read(variable)?;
    settings.read_model = poll::login(settings.read_model).await?;
    let queue_url = variable("QUEUE_URL").context("expected QUEUE_URL, found nothing")?;
    let workers = match variable("WORKERS") {
        Some(text) => text
            .parse()
            .with_context(|| format!("expected WORKERS to be a number, found {text:?}"))?,
        None => 4,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let consumer = || settings.consumer().with_traces(&traces);
    poll::serve(consumer, &poll::client().await, &queue_url, workers, stop).await;
    Ok(())
}
