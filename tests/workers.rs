//! The polling host on a real queue: messages are held while they are worked on, groups keep
//! their order, a stop finishes what is in hand.

use crate::crash::sqs;
use crate::harness::{LIMIT, World};
use anyhow::Result;
use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::types::QueueAttributeName;
use consumer::host::poll::{self, Polling};
use consumer::{Consumer, Event, Handler, HandlerError, Mode, Tx};
use local::ministack::MiniStack;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_postgres::Client;

/// A queue, a read model, and who saw what.
struct Workplace {
    world: World,
    _ministack: MiniStack,
    sqs: Sqs,
    queue: String,
    client: Client,
    seen: Arc<Seen>,
}

/// What handlers have begun, by event: the moments.
#[derive(Default)]
struct Seen {
    begun: Mutex<HashMap<String, Vec<Instant>>>,
    one_more: Notify,
}

impl Seen {
    fn runs(&self, id: &str) -> Vec<Instant> {
        self.begun.lock().unwrap().get(id).cloned().unwrap_or_default()
    }
}

impl Workplace {
    async fn new(queue: &str, seconds: u32) -> Result<Self> {
        let world = World::bare(&[]).await?;
        let client = world.client().await?;
        local::migrations::apply(&client, "sql/read_model").await?;
        let own =
            "create table effects (place int generated always as identity, id text, grp text)";
        client.batch_execute(own).await?;
        let ministack = MiniStack::start(world.folder()).await?;
        let sqs = sqs(&ministack.endpoint());
        let mut create = sqs
            .create_queue()
            .queue_name(queue)
            .attributes(QueueAttributeName::VisibilityTimeout, seconds.to_string());
        if queue.ends_with(".fifo") {
            create = create
                .attributes(QueueAttributeName::FifoQueue, "true")
                .attributes(QueueAttributeName::ContentBasedDeduplication, "true");
        }
        let queue = create.send().await?.queue_url.unwrap();
        Ok(Self { world, _ministack: ministack, sqs, queue, client, seen: Arc::default() })
    }

    /// The event `id` of a group; its type says what the handler does with it.
    async fn send(&self, group: &str, n: u32, kind: &str) -> Result<()> {
        let event_id = uuid::Uuid::new_v4();
        let body = serde_json::json!({
            "event_id": event_id, "event_type": kind, "timestamp": "2026-01-15T10:30:00Z",
            "aggregate_type": "thing", "aggregate_id": group, "data": format!("{group}{n}"),
        });
        let send = self.sqs.send_message().queue_url(&self.queue).message_body(body.to_string());
        let fifo = self.queue.ends_with(".fifo");
        let send = if fifo { send.message_group_id(group) } else { send };
        send.send().await?;
        Ok(())
    }

    async fn work(&self, polling: Polling, until: impl Future<Output = ()>) {
        let dsn: dsn::Dsn = self.world.postgres.url(&self.world.database).parse().unwrap();
        let handler = Slow { seen: Arc::clone(&self.seen) };
        let consumer = || Consumer::new(handler.clone(), &dsn);
        poll::serve(consumer, &self.sqs, &self.queue, polling, until).await;
    }

    async fn until(&self, condition: &str) {
        self.world.until(&self.client, condition).await.unwrap();
    }

    /// Messages that the queue still has, with receivers or not.
    async fn left(&self) -> Result<u32> {
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(&self.queue)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await?;
        let attributes = answer.attributes.unwrap();
        let count = |name| attributes[&name].parse::<u32>().unwrap();
        Ok(count(QueueAttributeName::ApproximateNumberOfMessages)
            + count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible))
    }

    async fn effects(&self, group: &str) -> Result<Vec<String>> {
        let sql = "select id from effects where grp = $1 order by place";
        let rows = self.client.query(sql, &[&group]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// In the mode `Once`: the order of a group is the queue's alone.
#[derive(Clone)]
struct Slow {
    seen: Arc<Seen>,
}

impl Handler for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn mode(&self) -> Mode {
        Mode::Once
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let id: String = event.data()?;
        let runs = {
            let mut begun = self.seen.begun.lock().unwrap();
            let runs = begun.entry(id.clone()).or_default();
            runs.push(Instant::now());
            runs.len()
        };
        self.seen.one_more.notify_waiters();
        let sql = "insert into effects (id, grp) values ($1, $2)";
        tx.execute(sql, &[&id, &event.aggregate_id]).await?;
        let again = |after| HandlerError::RetryAfter { after, reason: "later".to_owned() };
        match event.event_type.as_str() {
            "long" => tokio::time::sleep(Duration::from_secs(6)).await,
            "hangs_once" if runs == 1 => std::future::pending().await,
            // A batch is taken one by one after its first failure: that is the second run.
            "later" if runs <= 2 => return Err(again(Duration::from_secs(2))),
            "at_once" if runs <= 2 => return Err(again(Duration::ZERO)),
            _ => {}
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_delivery_that_outlasts_the_visibility_timeout_is_given_to_no_one_else() -> Result<()> {
    let place = Workplace::new("orders", 2).await?;
    place.send("a", 1, "long").await?;
    place.work(Polling::new(2), place.until("select count(*) = 1 from effects")).await;
    assert_eq!(place.seen.runs("a1").len(), 1);
    assert_eq!(place.left().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_may_be_held_no_longer_goes_back_before_another_gets_it() -> Result<()> {
    let place = Workplace::new("orders.fifo", 2).await?;
    for n in 1..=3 {
        place.send("a", n, if n == 1 { "hangs_once" } else { "ok" }).await?;
    }
    let polling = Polling::new(2).hold_for(1);
    place.work(polling, place.until("select count(*) = 3 from effects")).await;
    assert_eq!(place.seen.runs("a1").len(), 2);
    assert_eq!(place.effects("a").await?, ["a1", "a2", "a3"]);
    assert_eq!(place.left().await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_the_handler_wants_later_comes_later_and_not_when_the_queue_would_bring_it()
-> Result<()> {
    let place = Workplace::new("orders.fifo", 600).await?;
    place.send("a", 1, "later").await?;
    place.send("a", 2, "ok").await?;
    place.send("b", 1, "ok").await?;
    let began = Instant::now();
    place.work(Polling::new(2), place.until("select count(*) = 3 from effects")).await;
    assert!(began.elapsed() < Duration::from_secs(60), "long before the visibility timeout");
    let runs = place.seen.runs("a1");
    let waited = *runs.last().unwrap() - runs[runs.len() - 2];
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    assert_eq!(place.effects("a").await?, ["a1", "a2"]);
    assert_eq!(place.left().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_stop_finishes_the_delivery_in_hand() -> Result<()> {
    let place = Workplace::new("orders", 2).await?;
    place.send("a", 1, "long").await?;
    let begun = async {
        let one_more = place.seen.one_more.notified();
        if place.seen.runs("a1").is_empty() {
            tokio::time::timeout(LIMIT, one_more).await.unwrap();
        }
    };
    place.work(Polling::new(2), begun).await;
    assert_eq!(place.effects("a").await?, ["a1"]);
    assert_eq!(place.left().await?, 0);
    Ok(())
}

#[tokio::test]
async fn groups_keep_their_order_through_failures_and_several_workers() -> Result<()> {
    let place = Workplace::new("orders.fifo", 600).await?;
    let groups = ["a", "b", "c", "d"];
    for n in 1..=6_u32 {
        for (at, group) in (0..).zip(groups) {
            let kind = if n % 4 == at { "at_once" } else { "ok" };
            place.send(group, n, kind).await?;
        }
    }
    place.work(Polling::new(4), place.until("select count(*) = 24 from effects")).await;
    for group in groups {
        let expected: Vec<_> = (1..=6).map(|n| format!("{group}{n}")).collect();
        assert_eq!(place.effects(group).await?, expected);
    }
    assert_eq!(place.left().await?, 0);
    Ok(())
}
