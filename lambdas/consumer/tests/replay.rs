//! Parked events come back when someone asks for it.

use crate::support::{ReadModel, deliver, sent};
use consumer::Outcome::{Applied, Gap, Parked};
use consumer::{Consumer, Event, Handler, HandlerError, Mode, Replayed, Tx};

const ASK: &str = "select relay.replay_parked(array(select id from relay.parked))";

#[tokio::test]
async fn a_parked_event_is_replayed_once_its_cause_is_mended() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch = [sent("a", 1), sent("a", 2).kind("wants_table"), sent("a", 3)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied, Parked, Applied]);
    // Not asked for: it stays.
    assert_eq!(consumer.replay_parked(None).await.unwrap(), Replayed::default());

    // Asked for too early: refused again, with the reason of now.
    let asked: i64 = read_model.client.query_one(ASK, &[]).await.unwrap().get(0);
    assert_eq!(asked, 1);
    let refused = Replayed { refused: 1, ..Replayed::default() };
    assert_eq!(consumer.replay_parked(None).await.unwrap(), refused);
    let sql = "select replays, reason from relay.parked where replay_requested_at is null";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (1, "no table yet"));

    read_model.client.batch_execute("create table wanted ()").await.unwrap();
    read_model.client.query_one(ASK, &[]).await.unwrap();
    // An invocation without records does it, as `aws lambda invoke` with {} would.
    consumer.deliver(Vec::new()).await.unwrap();
    assert_eq!(read_model.count("relay.parked").await, 0);
    assert_eq!(read_model.effects().await["a"], [1, 3, 2]);
    consumer.deliver(Vec::new()).await.unwrap();
    assert_eq!(read_model.count("effects").await, 3, "once");
}

#[tokio::test]
async fn a_parked_event_that_a_later_write_made_stale_has_no_effect() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Latest);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1).kind("wants_table")]).await, [Parked]);
    assert_eq!(deliver(&mut consumer, &[sent("a", 2)]).await, [Applied]);
    read_model.client.batch_execute("create table wanted ()").await.unwrap();
    read_model.client.query_one(ASK, &[]).await.unwrap();
    let stale = Replayed { stale: 1, ..Replayed::default() };
    assert_eq!(consumer.replay_parked(None).await.unwrap(), stale);
    assert_eq!(read_model.effects().await["a"], [2]);
    assert_eq!(read_model.count("relay.parked").await, 0);
}

#[tokio::test]
async fn an_event_that_was_parked_behind_a_gap_takes_its_place_once_the_gap_is_filled() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned).park_after(1);
    assert_eq!(deliver(&mut consumer, &[sent("a", 2)]).await, [Parked]);
    read_model.client.query_one(ASK, &[]).await.unwrap();
    assert_eq!(consumer.replay_parked(None).await.unwrap().refused, 1, "version 1 is missing");
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
    read_model.client.query_one(ASK, &[]).await.unwrap();
    assert_eq!(consumer.replay_parked(None).await.unwrap().applied, 1);
    let mut patient = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut patient, &[sent("a", 3), sent("a", 5)]).await, [Applied, Gap]);
    assert_eq!(read_model.effects().await["a"], [1, 2, 3]);
}

/// Notes how many statements its connection has prepared that say so: this one, and the one that
/// compares duplicates.
struct Counter;

impl Handler for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    async fn handle(&self, _: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let sql = "insert into effects (version) select count(*) from pg_prepared_statements
            where statement ~ 'as repeated'";
        Ok(tx.execute(sql, &[]).await.map(drop)?)
    }
}

#[tokio::test]
async fn to_look_for_replays_keeps_what_was_prepared_unless_a_pooler_stands_between() {
    let read_model = ReadModel::start().await;
    for (pooled, kept) in [(false, 2), (true, 1)] {
        read_model.client.batch_execute("truncate effects").await.unwrap();
        let mut consumer = Consumer::new(Counter, &read_model.dsn());
        if pooled {
            consumer = consumer.through_a_pool();
        }
        let name = |n: u8| format!("{pooled}-{n}");
        assert_eq!(deliver(&mut consumer, &[sent(&name(1), 1)]).await, [Applied]);
        consumer.deliver(Vec::new()).await.unwrap();
        let again = [sent(&name(1), 1), sent(&name(2), 1)];
        deliver(&mut consumer, &again).await;
        consumer.deliver(Vec::new()).await.unwrap();
        assert_eq!(deliver(&mut consumer, &[sent(&name(3), 1)]).await, [Applied]);
        let sql = "select version from effects order by place desc limit 1";
        let prepared: i64 = read_model.client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(prepared, kept, "pooled: {pooled}");
    }
}
