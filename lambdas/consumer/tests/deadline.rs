//! What cannot be done in time goes back to the queue, not half done.

use crate::support::{ReadModel, sent};
use consumer::Mode;
use consumer::Outcome::{Applied, Failed};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn an_event_that_takes_too_long_leaves_no_effect_and_those_before_it_are_done() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch = [sent("a", 1), sent("b", 1).kind("slow"), sent("c", 1)];
    let records = batch.iter().map(crate::support::Sent::record).collect();
    let deadline = Instant::now() + Duration::from_secs(2);
    let report = consumer.deliver_until(records, Some(deadline)).await.unwrap();
    assert!(
        Instant::now() < deadline + Duration::from_secs(5),
        "it does not wait for the slow one"
    );
    let outcomes: Vec<_> = report.outcomes.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, [Applied, Failed, Failed]);
    assert_eq!(read_model.effects().await.len(), 1);
    // The next delivery has a connection of its own.
    let records = vec![sent("c", 1).record()];
    assert_eq!(consumer.deliver(records).await.unwrap().count(Applied), 1);
}

#[tokio::test]
async fn while_there_is_time_the_read_model_is_waited_for() {
    let mut read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    read_model.postgres.stop().await.unwrap();
    let records = || vec![sent("a", 1).record()];
    let at_once = Some(Instant::now());
    assert!(consumer.deliver_until(records(), at_once).await.is_err());
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    let (report, restarted) =
        tokio::join!(consumer.deliver_until(records(), deadline), read_model.postgres.restart());
    restarted.unwrap();
    assert_eq!(report.unwrap().count(Applied), 1);
}
