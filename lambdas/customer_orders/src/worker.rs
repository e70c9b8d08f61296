//! The same projection as a worker that polls: `READ_MODEL_URL`, `QUEUE_URL`, and
//! `WORKERS` (how many batches at a time, 4). It has two queues: run one worker for each.

use consumer::Consumer;
use consumer::host::{self, Misconfigured, poll};
use customer_orders::handler;

#[tokio::main]
async fn main() -> Result<(), Misconfigured> {
    let traces = host::start_logging();
    let read_model = poll::login(host::read_model()?).await?;
    let consumer = || Consumer::new(handler(), &read_model).park_after(host::PARK_AFTER);
    poll::work(|| consumer().with_traces(&traces)).await
}
