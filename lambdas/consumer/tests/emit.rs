//! Events that a handler emits stand in the outbox of the same transaction.

use crate::support::{ReadModel, deliver, sent};
use consumer::Mode;
use consumer::Outcome::{Applied, Duplicate, Failed};

const EMITTED: &str = "select event_id::text, event_type, causation_id, correlation_id, tenant_id,
    data::text, metadata::text from relay.outbox order by position";

#[tokio::test]
async fn what_is_emitted_follows_from_what_was_handled() {
    let read_model = ReadModel::start().await.with_outbox().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let handled = sent("a", 1).kind("emit");
    assert_eq!(deliver(&mut consumer, [&handled]).await, [Applied]);
    assert_eq!(deliver(&mut consumer, [&handled]).await, [Duplicate]);
    let rows = read_model.client.query(EMITTED, &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_ne!(ids[0], ids[1]);
    for row in &rows {
        assert_eq!(row.get::<_, &str>(1), "thing.seen");
        assert_eq!(row.get::<_, &str>(2), handled.event_id, "the cause");
        assert_eq!(row.get::<_, &str>(3), handled.event_id, "an operation begins here");
        assert_eq!(row.get::<_, Option<&str>>(4), None);
        assert_eq!(row.get::<_, &str>(5), r#"{"n":1}"#);
    }

    // Lost from the inbox and delivered again: the same ids, so consumers know them.
    read_model.client.batch_execute("truncate relay.inbox, relay.progress").await.unwrap();
    assert_eq!(deliver(&mut consumer, [&handled]).await, [Applied]);
    let rows = read_model.client.query(EMITTED, &[]).await.unwrap();
    assert_eq!(rows.iter().skip(2).map(|row| row.get(0)).collect::<Vec<String>>(), ids);
}

#[tokio::test]
async fn what_is_rolled_back_emits_nothing() {
    let read_model = ReadModel::start().await.with_outbox().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1).kind("emit_and_retry")]).await, [Failed]);
    assert_eq!(read_model.count("relay.outbox").await, 0);
}
