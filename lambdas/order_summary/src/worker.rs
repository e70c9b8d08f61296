//! The same projection as a worker that polls: `READ_MODEL_URL`, `QUEUE_URL`, and
//! `WORKERS` (how many batches at a time, 4).

use anyhow::Context;
use consumer::Consumer;
use consumer::host::poll;
use order_summary::OrderSummary;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let traces = consumer::start_logging();
    let read =
        |name: &str| std::env::var(name).with_context(|| format!("expected {name}, found nothing"));
    let read_model = poll::login(read("READ_MODEL_URL")?.parse()?).await?;
    let queue_url = read("QUEUE_URL")?;
    let workers = match std::env::var("WORKERS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("expected WORKERS to be a number, found {text:?}"))?,
        Err(_) => 4,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let consumer = || Consumer::new(OrderSummary, &read_model).with_traces(&traces);
    poll::serve(consumer, &poll::client().await, &queue_url, workers, stop).await;
    Ok(())
}
