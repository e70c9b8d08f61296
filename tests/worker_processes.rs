//! The workers of the three functions as the processes that a container runs: from a commit to
//! its effects, and to an end in order.

use crate::harness::{INSERT, LIMIT, World};
use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use local::ministack::point_at;
use local::process::{Process, command};
use local::receiver::Receiver;
use local::stack::{CUSTOMER_ORDERS, ORDER_SUMMARY, binary};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

const WORKERS: [&str; 3] = ["order_summary_worker", "customer_orders_worker", "notifier_worker"];

/// Starts a worker of the read model in the world's database, with these variables too.
fn start(world: &World, name: &str, environment: &[(&str, &str)]) -> Result<Process> {
    let mut run = command(&binary(name)?, "KILL", None);
    point_at(&mut run, world.broker.endpoint());
    run.env_remove("RUST_LOG")
        .env_remove("QUEUE_URL")
        .env("READ_MODEL_URL", world.postgres.url(&world.database))
        .envs(environment.iter().copied());
    Process::start(name, run, &world.folder().join(format!("{name}.log")))
}

/// Where spans are sent to, and what came: a request each.
async fn spans() -> Result<(String, Arc<Mutex<Vec<Bytes>>>)> {
    let came = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&came);
    let take = move |body| {
        taken.lock().unwrap().push(body);
        std::future::ready(())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let routes = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async { axum::serve(listener, routes).await });
    Ok((address, came))
}

#[tokio::test]
async fn committed_events_have_their_effects_by_each_functions_worker_which_ends_when_told()
-> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    local::migrations::apply(&client, "sql/read_model").await?;
    client.batch_execute(ORDER_SUMMARY).await?;
    client.batch_execute(CUSTOMER_ORDERS).await?;
    let receiver = Receiver::start().await?;
    let (otlp, sent) = spans().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut workers = Vec::new();
    for name in WORKERS {
        let queue = format!("{name}.fifo");
        let queue_url = world.broker.queue(&queue);
        world.broker.subscribe(&topic, &queue);
        let environment = [
            ("QUEUE_URL", &*queue_url),
            ("NOTIFY_URL", &receiver.url()),
            ("WORKERS", "2"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &otlp),
        ];
        workers.push((start(&world, name, &environment)?, queue));
    }
    let _relay = world.run(&topic).await?;
    for (version, event, data) in [
        (1_i64, "order.created", r#"{"customer_id": "c", "currency": "EUR"}"#),
        (2, "order.paid", r#"{"amount": "1.00", "method": "card"}"#),
    ] {
        client.execute(INSERT, &[&"ord_1", &version, &event, &data]).await?;
    }
    for table in ["order_summary", "customer_orders"] {
        let paid = format!("select exists (select from {table} where status = 'paid')");
        world.until(&client, &paid).await?;
    }
    for (worker, queue) in &mut workers {
        world.broker.wait("an empty queue", LIMIT, |s| s.is_drained(queue)).await;
        let status = worker.terminate(LIMIT).await?;
        assert!(status.success(), "{status}: {}", worker.log());
        assert!(worker.log().contains("stopping"), "{}", worker.log());
    }
    assert_eq!(receiver.calls().into_values().collect::<Vec<_>>(), [1]);
    let sent = sent.lock().unwrap().concat();
    for span in ["process order_summary", "process customer_orders", "process notifier"] {
        let found = sent.windows(span.len()).any(|bytes| bytes == span.as_bytes());
        assert!(found, "expected the span {span:?}; {} bytes were sent", sent.len());
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_not_told_its_queue_or_told_nonsense_ends_and_says_so() -> Result<()> {
    let world = World::bare(&[]).await?;
    let notify = ("NOTIFY_URL", "http://127.0.0.1:1/");
    for name in WORKERS {
        for (environment, said) in [
            (&[notify][..], "expected QUEUE_URL"),
            (&[notify, ("QUEUE_URL", "http://q"), ("WORKERS", "x")], "expected WORKERS"),
            (&[notify, ("READ_MODEL_URL", "")], "expected READ_MODEL_URL"),
        ] {
            let mut worker = start(&world, name, environment)?;
            assert!(!worker.ended(LIMIT).await?.success());
            assert!(worker.log().contains(said), "{name}: {}", worker.log());
        }
    }
    Ok(())
}
