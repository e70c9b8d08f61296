//! The same projection as a worker that polls: `READ_MODEL_URL`, `QUEUE_URL`, and
//! `WORKERS` (how many batches at a time, 4). It has two queues: run one worker for each.

use consumer::Consumer;
use consumer::host::{self, Misconfigured, poll};
use customer_orders::handler;

#[tokio::main]
async fn main() -> Result<(), Misconfigured> {
    host::start_logging();
    let read_model = host::read_model()?;
    poll::work(|| Consumer::new(handler(), &read_model)).await
}
