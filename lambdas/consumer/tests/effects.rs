//! Effects outside the database: after the commit, once, and nothing said that nobody knows.

use crate::support::{ReadModel, Sent, deliver, sent};
use consumer::Outcome::{Applied, Duplicate, Failed};
use consumer::{Consumer, Effects, Event, Handler, HandlerError, Outcome, Performed, Tx};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Asks for one effect for each event, named after its aggregate and version; then does as the
/// event's type says.
struct Caller;

impl Handler for Caller {
    fn name(&self) -> &'static str {
        "caller"
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let version = event.aggregate_version.unwrap_or_default();
        let name = format!("{}{version}", event.aggregate_id);
        tx.effect(&name)?;
        match event.event_type.as_str() {
            "retry" => Err(HandlerError::Retry("not now".to_owned())),
            "twice" => tx.effect(&name),
            _ => Ok(()),
        }
    }
}

/// A receiver that answers as it is told, and remembers what it was asked.
#[derive(Clone, Default)]
struct Receiver {
    calls: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<Vec<Performed>>>,
}

impl Receiver {
    /// The next calls are answered so, those after them with `Done`.
    fn answers(self, answers: impl IntoIterator<Item = Performed>) -> Self {
        self.answers.lock().unwrap().extend(answers);
        self
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn effects(&self) -> Effects {
        let own = self.clone();
        Effects::new(move |effect| {
            own.calls.lock().unwrap().push(effect.request().unwrap());
            let mut answers = own.answers.lock().unwrap();
            let answer = if answers.is_empty() { Performed::Done } else { answers.remove(0) };
            async move { answer }
        })
    }

    fn consumer(&self, read_model: &ReadModel) -> Consumer<Caller> {
        Consumer::new(Caller, &read_model.dsn()).with_effects(self.effects())
    }
}

async fn parked(read_model: &ReadModel) -> Vec<String> {
    let sql = "select reason from relay.parked order by id";
    read_model.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn one(consumer: &mut Consumer<Caller>, sent: &Sent) -> Outcome {
    deliver(consumer, [sent]).await[0]
}

fn not_done() -> Performed {
    Performed::NotDone("busy".to_owned())
}

#[tokio::test]
async fn each_event_has_its_effect_once_and_in_order_however_often_it_comes() {
    let (read_model, receiver) = (ReadModel::start().await, Receiver::default());
    let mut consumer = receiver.consumer(&read_model);
    let batch = [sent("a", 1), sent("b", 1), sent("a", 2)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied; 3]);
    assert_eq!(deliver(&mut consumer, &batch).await, [Duplicate; 3]);
    assert_eq!(receiver.calls(), ["a1", "b1", "a2"]);
    assert_eq!(read_model.count("relay.effect").await, 0);
}

#[tokio::test]
async fn an_effect_is_performed_after_the_commit_of_its_event() {
    let read_model = ReadModel::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (dsn, seen_by_it) = (read_model.dsn(), seen.clone());
    let effects = Effects::new(move |_| {
        let (url, noted) = (dsn.clone(), seen_by_it.clone());
        async move {
            let (client, _driver) = url.connect("witness").await.unwrap();
            let sql = "select (select count(*) from relay.inbox),
                (select count(*) from relay.effect where begun_at is not null)";
            let row = client.query_one(sql, &[]).await.unwrap();
            noted.lock().unwrap().push((row.get::<_, i64>(0), row.get::<_, i64>(1)));
            Performed::Done
        }
    });
    let mut consumer = Consumer::new(Caller, &read_model.dsn()).with_effects(effects);
    assert_eq!(one(&mut consumer, &sent("a", 1)).await, Applied);
    assert_eq!(*seen.lock().unwrap(), [(1, 1)], "its event and its note, as others see them");
}

#[tokio::test]
async fn what_is_rolled_back_has_no_effect() {
    let (read_model, receiver) = (ReadModel::start().await, Receiver::default());
    let mut consumer = receiver.consumer(&read_model);
    let batch = [sent("a", 1), sent("b", 1).kind("retry")];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied, Failed]);
    assert_eq!(one(&mut consumer, &sent("c", 1).kind("twice")).await, Outcome::Parked);
    assert_eq!(receiver.calls(), ["a1"]);
    assert_eq!(read_model.count("relay.effect").await, 0);
    assert!(parked(&read_model).await[0].contains("found a second"));
}

#[tokio::test]
async fn a_consumer_that_performs_none_takes_no_event_that_asks_for_one() {
    let read_model = ReadModel::start().await;
    let mut consumer = Consumer::new(Caller, &read_model.dsn());
    assert_eq!(one(&mut consumer, &sent("a", 1)).await, Failed);
    assert_eq!(read_model.count("relay.inbox").await, 0);
}

#[tokio::test]
async fn what_was_not_done_is_done_when_its_message_comes_again() {
    let read_model = ReadModel::start().await;
    let receiver = Receiver::default().answers([not_done()]);
    let mut consumer = receiver.consumer(&read_model);
    // The second of the aggregate waits for the first.
    let batch = [sent("a", 1), sent("a", 2), sent("b", 1)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Failed, Failed, Applied]);
    assert_eq!(receiver.calls(), ["a1", "b1"]);
    assert_eq!(deliver(&mut consumer, &batch[..2]).await, [Duplicate; 2]);
    assert_eq!(receiver.calls(), ["a1", "b1", "a1", "a2"]);
}

#[tokio::test]
async fn what_is_never_done_is_parked_once_it_was_received_often_enough() {
    let read_model = ReadModel::start().await;
    let receiver = Receiver::default().answers([not_done(), not_done()]);
    let mut consumer = receiver.consumer(&read_model).park_after(2);
    assert_eq!(one(&mut consumer, &sent("a", 1)).await, Failed);
    assert_eq!(one(&mut consumer, &sent("a", 1).received(2)).await, Duplicate);
    assert_eq!(parked(&read_model).await, ["not done in 2 deliveries, the last time: busy"]);
    assert_eq!(read_model.count("relay.effect").await, 0);
}

#[tokio::test]
async fn what_is_refused_or_unknown_is_parked_and_not_called_again() {
    let read_model = ReadModel::start().await;
    let refused = Performed::Refused("no such address".to_owned());
    let unknown = Performed::Unknown("the answer was lost".to_owned());
    let receiver = Receiver::default().answers([refused, unknown]);
    let mut consumer = receiver.consumer(&read_model);
    let batch = [sent("a", 1), sent("b", 1)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied; 2]);
    assert_eq!(deliver(&mut consumer, &batch).await, [Duplicate; 2]);
    assert_eq!(receiver.calls(), ["a1", "b1"]);
    assert_eq!(parked(&read_model).await, ["no such address", "the answer was lost"]);
}

#[tokio::test]
async fn a_call_without_an_end_is_unknown_and_again_due_where_a_repeat_does_no_harm() {
    let read_model = ReadModel::start().await;
    let limit = Duration::from_millis(50);
    let silent = || Effects::new(|_| pending()).limit(limit);
    let mut consumer = Consumer::new(Caller, &read_model.dsn()).with_effects(silent());
    assert_eq!(one(&mut consumer, &sent("a", 1)).await, Applied);
    assert!(parked(&read_model).await[0].contains("expected an end within 50ms"));

    let repeatable = silent().repeatable();
    let mut consumer = Consumer::new(Caller, &read_model.dsn()).with_effects(repeatable);
    assert_eq!(one(&mut consumer, &sent("b", 1)).await, Failed);
    assert_eq!(parked(&read_model).await.len(), 1);
    let receiver = Receiver::default();
    assert_eq!(one(&mut receiver.consumer(&read_model), &sent("b", 1)).await, Duplicate);
    assert_eq!(receiver.calls(), ["b1"]);
}
