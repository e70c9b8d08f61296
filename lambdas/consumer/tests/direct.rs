//! The projection applied in the command's own transaction: the later delivery is a no-op.

use crate::support::{ReadModel, Recorder, Sent, deliver, record, sent};
use consumer::Outcome::{Applied, Duplicate, Gap, Stale};
use consumer::{ApplyError, Consumer, Event, Mode, NewEvent, Outcome, apply_now};

/// A command: an event in the outbox, and its effect, in one transaction.
async fn command(read_model: &mut ReadModel, handler: Recorder, version: Option<i64>) -> Event {
    let mut transaction = read_model.client.transaction().await.unwrap();
    let new = NewEvent::new("thing", "a", "thing.done", &serde_json::json!({ "n": 0.10 })).unwrap();
    let new = match version {
        Some(version) => new.aggregate_version(version),
        None => new,
    };
    let event = new.append(&transaction).await.unwrap();
    assert_eq!(apply_now(&handler, &mut transaction, &event).await.unwrap(), Applied);
    transaction.commit().await.unwrap();
    event
}

/// What the relay makes of the outbox's rows, in their order, at positions that grow.
async fn published(read_model: &ReadModel) -> Vec<String> {
    let sql = "select json_build_object(
          'event_id', event_id, 'event_type', event_type, 'event_version', event_version,
          'timestamp', recorded_at, 'source', 'shop', 'aggregate_type', aggregate_type,
          'aggregate_id', aggregate_id, 'aggregate_version', aggregate_version, 'data', data,
          'metadata', metadata, 'position', '00000000016b3748-' || lpad(position::text, 8, '0'))::text
        from relay.outbox order by position";
    let rows = read_model.client.query(sql, &[]).await.unwrap();
    rows.into_iter().map(|row| row.get(0)).collect()
}

async fn deliver_bodies(consumer: &mut Consumer<Recorder>, bodies: &[String]) -> Vec<Outcome> {
    let records = bodies.iter().map(|body| record("m", body, None)).collect();
    let report = consumer.deliver(records).await.unwrap();
    report.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[tokio::test]
async fn in_every_mode_the_later_delivery_is_a_duplicate() {
    for mode in [Mode::Once, Mode::Versioned, Mode::Latest] {
        let mut read_model = ReadModel::start().await.with_outbox().await;
        let mut consumer = read_model.consumer(mode);
        for version in 1..=2 {
            command(&mut read_model, Recorder::new(mode), Some(version)).await;
            let delivered = published(&read_model).await.pop().unwrap();
            let twice = [delivered.clone(), delivered];
            assert_eq!(deliver_bodies(&mut consumer, &twice).await, [Duplicate; 2], "{mode:?}");
        }
        assert_eq!(read_model.effects().await["a"], [1, 2], "{mode:?}");
        assert_eq!(read_model.count("relay.parked").await, 0, "the content is the same");
        // And what comes after goes on from there.
        assert_eq!(deliver(&mut consumer, [&sent("a", 3)]).await, [Applied], "{mode:?}");
    }
}

#[tokio::test]
async fn a_commands_event_carries_the_trace_that_it_is_given() {
    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut read_model = ReadModel::start().await.with_outbox().await;
    for (given, metadata) in [
        (None, serde_json::json!({})),
        (Some(TRACEPARENT), serde_json::json!({ "traceparent": TRACEPARENT })),
        (Some("\"}, it \\ is"), serde_json::json!({ "traceparent": "\"}, it \\ is" })),
    ] {
        let transaction = read_model.client.transaction().await.unwrap();
        let new = NewEvent::new("thing", "a", "thing.done", &1).unwrap();
        let event = new.append_traced(&transaction, given).await.unwrap();
        transaction.commit().await.unwrap();
        let published = published(&read_model).await.pop().unwrap();
        for event in [event, Event::from_json(&published).unwrap()] {
            let found = event.metadata.as_ref().map(|metadata| metadata.get()).unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(found).unwrap(), metadata);
        }
    }
}

#[tokio::test]
async fn characters_that_sqs_refuses_are_the_same_content_at_once_and_delivered() {
    let mut read_model = ReadModel::start().await.with_outbox().await;
    let mut transaction = read_model.client.transaction().await.unwrap();
    let data = "\u{fffe} and \u{ffff}";
    let new = NewEvent::new("thing", "a", "thing.done", data).unwrap();
    let event = new.append(&transaction).await.unwrap();
    let handler = Recorder::new(Mode::Once);
    assert_eq!(apply_now(&handler, &mut transaction, &event).await.unwrap(), Applied);
    transaction.commit().await.unwrap();
    let bodies: Vec<_> = published(&read_model)
        .await
        .iter()
        .map(|body| body.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff"))
        .collect();
    let mut consumer = read_model.consumer(Mode::Once);
    assert_eq!(deliver_bodies(&mut consumer, &bodies).await, [Duplicate]);
    assert_eq!(read_model.count("relay.parked").await, 0);
}

#[tokio::test]
async fn events_without_a_version_are_known_by_their_id() {
    for mode in [Mode::Once, Mode::Versioned] {
        let mut read_model = ReadModel::start().await.with_outbox().await;
        command(&mut read_model, Recorder::new(mode), None).await;
        let bodies = published(&read_model).await;
        let mut consumer = read_model.consumer(mode);
        assert_eq!(deliver_bodies(&mut consumer, &bodies).await, [Duplicate], "{mode:?}");
    }
}

#[tokio::test]
async fn a_last_write_without_a_version_is_refused_because_older_ones_may_be_on_their_way() {
    let mut read_model = ReadModel::start().await;
    let mut transaction = read_model.client.transaction().await.unwrap();
    let event = event(&sent("a", 1).unversioned());
    let error = apply_now(&Recorder::new(Mode::Latest), &mut transaction, &event).await;
    assert!(matches!(error, Err(ApplyError::Unversioned)), "{error:?}");
}

fn event(sent: &Sent) -> Event {
    Event::from_json(&sent.body()).unwrap()
}

#[tokio::test]
async fn a_command_that_is_rolled_back_leaves_the_event_to_be_delivered() {
    let mut read_model = ReadModel::start().await;
    let handler = Recorder::new(Mode::Versioned);
    {
        let mut transaction = read_model.client.transaction().await.unwrap();
        let event = event(&sent("a", 1));
        assert_eq!(apply_now(&handler, &mut transaction, &event).await.unwrap(), Applied);
        transaction.rollback().await.unwrap();
    }
    let mut consumer = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut consumer, [&sent("a", 1)]).await, [Applied]);
}

#[tokio::test]
async fn what_is_known_or_ahead_of_its_time_has_no_effect_at_once() {
    let mut read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut consumer, [&sent("a", 1)]).await, [Applied]);
    let handler = Recorder::new(Mode::Versioned);
    let mut transaction = read_model.client.transaction().await.unwrap();
    for (version, outcome) in [(1, Duplicate), (3, Gap), (2, Applied), (3, Applied)] {
        let event = event(&sent("a", version));
        assert_eq!(apply_now(&handler, &mut transaction, &event).await.unwrap(), outcome);
    }
    transaction.commit().await.unwrap();
    assert_eq!(read_model.effects().await["a"], [1, 2, 3]);

    let latest = Recorder::new(Mode::Latest);
    let mut transaction = read_model.client.transaction().await.unwrap();
    let older = event(&sent("a", 2));
    assert_eq!(apply_now(&latest, &mut transaction, &older).await.unwrap(), Stale);
}

#[tokio::test]
async fn an_event_that_cannot_be_applied_leaves_the_command_as_it_was() {
    let mut read_model = ReadModel::start().await;
    let handler = Recorder::new(Mode::Versioned);
    let mut transaction = read_model.client.transaction().await.unwrap();
    transaction
        .batch_execute("create table commands (n int); insert into commands values (1)")
        .await
        .unwrap();
    let mut failed = Vec::new();
    for kind in ["reject", "retry", "broken", "swallow"] {
        let event = event(&sent("a", 1).kind(kind));
        failed.push(apply_now(&handler, &mut transaction, &event).await.unwrap_err());
    }
    assert!(matches!(&failed[0], ApplyError::Refused(reason) if reason == "never"), "{failed:?}");
    assert!(matches!(&failed[1], ApplyError::NotNow(reason) if reason == "not now"), "{failed:?}");
    assert!(failed[2..].iter().all(|e| matches!(e, ApplyError::Database(_))), "{failed:?}");
    // The transaction goes on, and the command's own row is there.
    let event_1 = event(&sent("a", 1));
    assert_eq!(apply_now(&handler, &mut transaction, &event_1).await.unwrap(), Applied);
    // Another event under the same id is not set aside in the command's transaction.
    let other = event(&Sent { data: "2".to_owned(), ..sent("a", 1) });
    let error = apply_now(&handler, &mut transaction, &other).await.unwrap_err();
    assert!(error.to_string().contains("another content"), "{error}");
    transaction.commit().await.unwrap();
    assert_eq!(read_model.count("commands").await, 1);
    assert_eq!(read_model.count("relay.parked").await, 0);
    assert_eq!(read_model.effects().await["a"], [1]);
}

#[tokio::test]
async fn an_event_that_could_not_be_delivered_is_not_applied() {
    let mut read_model = ReadModel::start().await;
    let mut transaction = read_model.client.transaction().await.unwrap();
    let zero = event(&sent("a", 0));
    let error = apply_now(&Recorder::new(Mode::Once), &mut transaction, &zero).await.unwrap_err();
    assert!(matches!(error, ApplyError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn the_first_commands_of_an_aggregate_at_once_are_one_after_the_other() {
    let mut read_model = ReadModel::start().await;
    let mut other = read_model.postgres.connect(&read_model.database).await.unwrap();
    let handler = Recorder::new(Mode::Versioned);
    let mut first = read_model.client.transaction().await.unwrap();
    assert_eq!(apply_now(&handler, &mut first, &event(&sent("a", 1))).await.unwrap(), Applied);
    // Neither sees the other's progress; the second finds it when the first has ended.
    let (one, two) = (event(&sent("a", 1)), event(&sent("a", 2)));
    let second = async {
        let mut transaction = other.transaction().await.unwrap();
        let first = apply_now(&handler, &mut transaction, &one).await.unwrap();
        let second = apply_now(&handler, &mut transaction, &two).await.unwrap();
        transaction.commit().await.unwrap();
        (first, second)
    };
    let (outcomes, ()) = tokio::join!(second, async { first.commit().await.unwrap() });
    assert_eq!(outcomes, (Duplicate, Applied));
    assert_eq!(read_model.effects().await["a"], [1, 2]);
}
