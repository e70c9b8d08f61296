//! Bodies that are no event, and payloads that few parsers like.

use crate::support::{ReadModel, deliver, record, sent};
use consumer::Outcome::{Applied, Failed, HeldBack, Skipped};
use consumer::{Mode, Outcome};

#[tokio::test]
async fn a_body_that_is_no_event_fails_alone_and_on_fifo_with_the_rest_of_its_group() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    for (standard, rest) in [(true, Applied), (false, HeldBack)] {
        let (a, b) = if standard { ("a", "b") } else { ("c", "d") };
        let group = |name| (!standard).then_some(name);
        let event = |name, version| record("m", &sent(name, version).body(), group(name));
        let records = vec![
            event(a, 1),
            record("bad", "not an event", group(a)),
            event(a, 2),
            event(b, 1),
            record("probe", &sent("x", 1).kind(envelope::PROBE_EVENT_TYPE).body(), group(b)),
        ];
        let report = consumer.deliver(records).await.unwrap();
        let outcomes: Vec<Outcome> = report.outcomes.iter().map(|(_, o)| *o).collect();
        assert_eq!(outcomes, [Applied, Failed, rest, Applied, Skipped]);
    }
}

#[tokio::test]
async fn a_batch_without_events_needs_no_database() {
    let dsn = "postgres://nobody@127.0.0.1:1/none".parse().unwrap();
    let mut consumer = consumer::Consumer::new(crate::support::Recorder::default(), &dsn);
    assert!(consumer.deliver(Vec::new()).await.unwrap().outcomes.is_empty());
    let report = consumer.deliver(vec![record("bad", "", None)]).await.unwrap();
    assert_eq!(report.failed_ids(), Some(vec!["bad"]));
}

#[tokio::test]
async fn every_oddity_of_json_arrives_byte_for_byte() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let oddities = [
        r#"{"lone":"\ud800","low":"\udc00x"}"#,
        r#"{"big":1e999,"small":-0.0,"exact":0.10,"long":123456789012345678901234567890}"#,
        r#"{"nul":"\u0000","control":"\u001f\ufffe","slash":"\/"}"#,
        r#"{"a":1,"a":2,"":null}"#,
        "{ \"space\" :\t[ 1 ,2 ] }",
        "\"\u{10ffff}é\u{2028}\"",
        "null",
        &deep,
    ];
    let batch: Vec<_> = (1..)
        .zip(oddities)
        .map(|(version, data)| {
            let mut event = sent("a", version);
            event.data = data.to_owned();
            event
        })
        .collect();
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied; 8]);
    let sql = "select array_agg(data order by place) from effects";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, Vec<String>>(0), oddities);
}
