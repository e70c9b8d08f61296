//! Versions that begin again, gaps that stay, versions beside none: an operator learns of each.

use crate::observed::Lines;
use crate::support::{ReadModel, Sent, deliver, sent};
use consumer::Mode;
use consumer::Outcome::{self, Applied, Duplicate, Gap, Parked, Stale};
use serde_json::Value;
use tracing::subscriber::DefaultGuard;

/// Takes down what is logged on this thread.
fn log() -> (Lines, DefaultGuard) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

/// The lines that begin with this.
fn said(lines: &Lines, what: &str) -> Vec<Value> {
    let begins = |line: &Value| {
        line["fields"]["message"].as_str().is_some_and(|message| message.starts_with(what))
    };
    lines.read().into_iter().filter(begins).collect()
}

/// The same aggregate and version, of another history: under another id.
fn again(aggregate: &str, version: i64) -> Sent {
    let sent = sent(aggregate, version);
    let event_id = sent.event_id.replace("-0000-4000-", "-1111-4000-");
    Sent { event_id, data: "\"again\"".to_owned(), ..sent }
}

fn figure(lines: &Lines, name: &str) -> Vec<u64> {
    lines.read().iter().map(|line| line[name].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn versions_that_begin_again_are_counted_said_once_and_parked_where_that_is_set() {
    let read_model = ReadModel::start().await;
    let (lines, _here) = log();
    let figures = Lines::default();
    let mut consumer = read_model.consumer(Mode::Versioned).with_metrics(figures.clone());
    let first: Vec<Sent> = (1..=3).map(|version| sent("a", version)).collect();
    assert_eq!(deliver(&mut consumer, &first).await, [Applied; 3]);
    let restarted: Vec<Sent> = (1..=3).map(|version| again("a", version)).collect();
    assert_eq!(deliver(&mut consumer, &restarted).await, [Duplicate; 3]);
    assert_eq!(read_model.count("relay.parked").await, 0);

    let mut consumer = consumer.park_after(4);
    assert_eq!(deliver(&mut consumer, &restarted).await, [Parked; 3]);
    // Twice is once; real repeats beside them are repeats.
    let batch = [restarted[0].clone(), first[0].clone(), sent("b", 1), first[2].clone()];
    assert_eq!(deliver(&mut consumer, &batch).await, [Parked, Duplicate, Applied, Duplicate]);
    assert_eq!(read_model.count("relay.parked").await, 3);
    assert_eq!(read_model.effects().await["a"], [1, 2, 3]);
    let sql = "select reason from relay.parked order by id";
    let reason: String = read_model.client.query(sql, &[]).await.unwrap()[0].get(0);
    assert!(reason.starts_with("expected a version above 3, found 1"), "{reason}");
    assert_eq!(figure(&figures, "version_restarted"), [0, 3, 3, 1]);
    assert_eq!(said(&lines, "version restarted").len(), 1, "once for the aggregate");

    // The cure: where the aggregate stands is taken back, and what was parked is replayed.
    let cure = "delete from relay.progress where projection = 'recorder' and aggregate_id = 'a';
        select relay.replay_parked(array(select id from relay.parked))";
    read_model.client.batch_execute(cure).await.unwrap();
    assert_eq!(consumer.replay_parked(None).await.unwrap().applied, 3);
    assert_eq!(read_model.effects().await["a"], [1, 2, 3, 1, 2, 3]);
    assert_eq!(deliver(&mut consumer, &[again("a", 4)]).await, [Applied]);
}

#[tokio::test]
async fn the_real_event_under_a_version_that_a_mistaken_one_took_is_not_lost() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned).park_after(4);
    let first = sent("a", 1);
    let mut mistaken = sent("a", 2);
    mistaken.event_id.clone_from(&first.event_id);
    assert_eq!(deliver(&mut consumer, [&first, &mistaken]).await, [Applied, Parked]);
    assert_eq!(deliver(&mut consumer, &[sent("a", 2)]).await, [Parked]);
    assert_eq!(read_model.count("relay.parked").await, 2);
}

#[tokio::test]
async fn what_the_inbox_cannot_tell_is_a_repeat_as_before() {
    let read_model = ReadModel::start().await;
    for mode in [Mode::Versioned, Mode::Latest, Mode::Once] {
        let aggregate = format!("{mode:?}");
        let mut consumer = read_model.consumer(mode).park_after(1);
        let late = sent(&aggregate, 2).at(2);
        let batch = [sent(&aggregate, 1).at(1), late.clone()];
        assert_eq!(deliver(&mut consumer, &batch).await, [Applied; 2], "{mode:?}");
        // Beyond the horizon a repeat is a repeat, though the inbox does not know it.
        let forget = "delete from relay.inbox; update relay.inbox_horizon set day = '2026-06-01'";
        read_model.client.batch_execute(forget).await.unwrap();
        let expected = if mode == Mode::Once { Parked } else { Duplicate };
        assert_eq!(deliver(&mut consumer, [&late]).await, [expected], "{mode:?}");
        read_model
            .client
            .batch_execute("update relay.inbox_horizon set day = '-infinity'")
            .await
            .unwrap();
    }
    // An older one that the last write has overtaken never was in the inbox.
    let mut latest = read_model.consumer(Mode::Latest).park_after(1);
    assert_eq!(deliver(&mut latest, &[sent("l", 5).at(5)]).await, [Applied]);
    let older = [sent("l", 4).at(4)];
    assert_eq!(deliver(&mut latest, &older).await, [Stale]);
    assert_eq!(deliver(&mut latest, &older).await, [Stale]);
}

#[tokio::test]
async fn a_gap_that_stays_is_said_once_and_its_event_parked() {
    let read_model = ReadModel::start().await;
    let (lines, _here) = log();
    let mut consumer = read_model.consumer(Mode::Versioned).park_after(consumer::host::PARK_AFTER);
    let outcomes = async |consumer: &mut _, received| -> Vec<Outcome> {
        let batch = [sent("a", 3).received(received), sent("b", 2).received(received)];
        deliver(consumer, &batch).await
    };
    for received in 1..4 {
        assert_eq!(outcomes(&mut consumer, received).await, [Gap; 2]);
    }
    assert_eq!(outcomes(&mut consumer, 4).await, [Parked; 2]);
    let said = said(&lines, "gap: ");
    let of = |line: &Value| line["fields"]["aggregate_id"].as_str().unwrap().to_owned();
    assert_eq!(said.iter().map(of).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(said[0]["fields"]["expected"], 1);
}

#[tokio::test]
async fn versions_beside_none_are_said_once_for_each_aggregate() {
    const MIXED: &str = "the aggregate has events with a version and events without";
    for mode in [Mode::Versioned, Mode::Latest, Mode::Once] {
        let read_model = ReadModel::start().await;
        let (lines, _here) = log();
        let mut consumer = read_model.consumer(mode);
        let plain = |aggregate: &str, n| Sent { version: None, ..sent(aggregate, n) }.at(90);
        // All with versions, and all without: nothing to say.
        let fine = [sent("v", 1).at(1), plain("n", 1), sent("v", 2).at(2), plain("n", 2)];
        deliver(&mut consumer, &fine).await;
        assert_eq!(said(&lines, MIXED).len(), 0, "{mode:?}");
        // In one batch, and behind what was there.
        deliver(&mut consumer, &[sent("m", 1).at(1), plain("m", 9)]).await;
        deliver(&mut consumer, &[plain("v", 9)]).await;
        deliver(&mut consumer, &[plain("v", 8), plain("m", 8)]).await;
        let expected = if mode == Mode::Once { 0 } else { 2 };
        assert_eq!(said(&lines, MIXED).len(), expected, "{mode:?}");
    }
}
