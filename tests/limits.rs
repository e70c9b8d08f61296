//! What a destination takes is learned until it is known, and again when it changes.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::Result;
use std::time::{Duration, Instant};

/// Waits until `relay status` says this; returns its exit code.
async fn status(world: &World, to: &str, expected: &str) -> Result<Option<i32>> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let output = world.relay(to).arg("status").output()?;
        if text(&output).contains(expected) {
            return Ok(output.status.code());
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, found {}", text(&output));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn data(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes))
}

#[tokio::test]
async fn a_queue_given_by_its_arn_is_found_once_it_may_be_asked() -> Result<()> {
    let world = World::new().await?;
    let _ = world.broker.queue("orders.fifo");
    world.broker.change("orders.fifo", |queue| queue.asked = Some("AccessDenied"));
    let arn = "arn:aws:sqs:us-east-1:000000000000:orders.fifo";
    let client = world.client().await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    let _relay = world.run(arn).await?;
    assert_eq!(status(&world, arn, "sqs:GetQueueUrl").await?, Some(1));
    assert_eq!(world.broker.state().requests, 0, "nothing is sent to an ARN");
    world.broker.change("orders.fifo", |queue| queue.asked = None);
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    assert_eq!(status(&world, arn, "Events flow.").await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn while_a_limit_is_not_told_the_broker_judges_a_large_event() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    world.broker.change(&topic, |topic| {
        (topic.asked, topic.limit) = (Some("AuthorizationError"), 1 << 20);
    });
    let client = world.client().await?;
    let mut relay = world.run(&topic).await?;
    for key in ["a", "b", "c"] {
        client.execute(INSERT, &[&key, &1_i64, &"order.created", &data(400_000)]).await?;
    }
    world.broker.wait("the large events", LIMIT, |s| s.accepted.len() == 3).await;
    assert_eq!(status(&world, &topic, "sns:GetTopicAttributes").await?, Some(0));
    // Above what any topic takes: at once, without asking the broker.
    client.execute(INSERT, &[&"d", &1_i64, &"order.created", &data(1_100_000)]).await?;
    world
        .until(&client, "select count(*) = 1 from relay.dead_letter where error_code is null")
        .await?;
    world.broker.change(&topic, |topic| topic.limit = 300_000);
    client.execute(INSERT, &[&"e", &1_i64, &"order.created", &data(400_000)]).await?;
    world
        .until(
            &client,
            "select count(*) = 1 from relay.dead_letter where error_code = 'BatchRequestTooLong'",
        )
        .await?;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_limit_that_is_raised_while_the_relay_runs_is_taken_up() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    let _relay = world.run(&topic).await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &data(400_000)]).await?;
    world.until(&client, "select count(*) = 1 from relay.dead_letter").await?;
    world.broker.change(&topic, |topic| topic.limit = 1 << 20);
    // As the page on dead letters says: the cause is mended, then the letter is redriven.
    let deadline = Instant::now() + LIMIT;
    while world.broker.state().accepted.is_empty() {
        assert!(Instant::now() < deadline, "expected the new limit to be taken up");
        let _ = world.relay("").args(["dead-letters", "redrive", "--all"]).output()?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_limit_that_was_told_and_cannot_be_asked_for_again_is_the_brokers_to_judge() -> Result<()>
{
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    let mut relay = world.run(&topic).await?;
    client.execute(INSERT, &[&"told", &1_i64, &"order.created", &data(400_000)]).await?;
    world.until(&client, "select count(*) = 1 from relay.dead_letter").await?;
    world.broker.change(&topic, |topic| {
        (topic.asked, topic.limit) = (Some("AuthorizationError"), 1 << 20);
    });
    // The answer of a moment ago counts for a few seconds.
    let deadline = Instant::now() + LIMIT;
    let mut n = 0;
    while world.broker.state().accepted.is_empty() {
        assert!(Instant::now() < deadline, "expected the broker to be asked");
        n += 1;
        let key = format!("key {n}");
        client.execute(INSERT, &[&key, &1_i64, &"order.created", &data(400_000)]).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(status(&world, &topic, "The role may not ask").await?, Some(0));
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
