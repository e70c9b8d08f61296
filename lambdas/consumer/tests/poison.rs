//! One bad event costs only itself.

use crate::support::{ReadModel, deliver, sent};
use consumer::Mode;
use consumer::Outcome::{Applied, Duplicate, Failed, Gap, HeldBack, Parked};

#[tokio::test]
async fn a_poison_event_on_a_standard_queue_costs_only_itself_and_leaves_no_effect() {
    let read_model = ReadModel::start().await;
    for (n, kind) in ["retry", "broken", "swallow"].into_iter().enumerate() {
        let mut consumer = read_model.consumer(Mode::Versioned);
        let (a, b, c) = (format!("a{n}"), format!("b{n}"), format!("c{n}"));
        let batch = [sent(&a, 1), sent(&b, 1).kind(kind), sent(&c, 1), sent(&a, 2)];
        assert_eq!(
            deliver(&mut consumer, &batch).await,
            [Applied, Failed, Applied, Applied],
            "{kind}"
        );
        assert!(!read_model.effects().await.contains_key(&b), "{kind}");
        // Mended, it applies.
        assert_eq!(deliver(&mut consumer, &[sent(&b, 1)]).await, [Applied], "{kind}");
    }
}

#[tokio::test]
async fn a_poison_event_on_a_fifo_queue_stops_its_group() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch = [
        sent("a", 1).fifo(),
        sent("b", 1).fifo().kind("retry"),
        sent("a", 2).fifo(),
        sent("b", 2).fifo(),
        sent("b", 3).fifo().kind("reject"),
    ];
    let outcomes = deliver(&mut consumer, &batch).await;
    assert_eq!(outcomes, [Applied, Failed, Applied, HeldBack, HeldBack]);
    assert!(!read_model.effects().await.contains_key("b"));
    assert_eq!(read_model.count("relay.parked").await, 0);
}

#[tokio::test]
async fn a_rejected_event_is_parked_whole_without_effect_and_the_rest_goes_on() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let rejected = sent("a", 2).kind("reject");
    let batch = [sent("a", 1), rejected.clone(), sent("a", 3), sent("b", 1)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied, Parked, Applied, Applied]);
    assert_eq!(deliver(&mut consumer, &batch).await, [Duplicate; 4]);
    assert_eq!(read_model.effects().await["a"], [1, 3]);
    let sql = "select projection, event_id::text, reason, body from relay.parked";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "recorder");
    assert_eq!(row.get::<_, String>(1), rejected.event_id);
    assert_eq!(row.get::<_, String>(2), "never");
    assert_eq!(row.get::<_, String>(3), rejected.body());
}

#[tokio::test]
async fn data_of_another_shape_is_parked() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Once);
    let mut odd = sent("a", 1).kind("typed");
    odd.data = r#""\u0000""#.to_owned();
    assert_eq!(deliver(&mut consumer, &[odd, sent("b", 1).kind("typed")]).await, [Parked, Applied]);
}

#[tokio::test]
async fn a_swallowed_database_error_does_not_lose_the_event() {
    let read_model = ReadModel::start().await;
    // Without versions nothing is written after the handler, so nothing but the commit would fail.
    let mut consumer = read_model.consumer(Mode::Once);
    let batch = [sent("a", 1), sent("b", 1).kind("swallow")];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied, Failed]);
    assert_eq!(read_model.count("relay.inbox").await, 1);
}

#[tokio::test]
async fn an_event_that_fails_too_often_is_parked_where_it_is_so_set() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned).park_after(3);
    for kind in ["retry", "broken", "swallow"] {
        let poison = |received| sent(kind, 1).fifo().kind(kind).received(received);
        assert_eq!(
            deliver(&mut consumer, &[poison(2), sent(kind, 2).fifo()]).await,
            [Failed, HeldBack]
        );
        let batch = [poison(3), sent(kind, 2).fifo().received(3)];
        assert_eq!(deliver(&mut consumer, &batch).await, [Parked, Applied], "{kind}");
        assert_eq!(read_model.effects().await[kind], [2]);
    }
    let sql = "select reason from relay.parked where aggregate_id = 'retry'";
    let reason: String = read_model.client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(reason, "failed in 3 deliveries, the last time: not now");
}

#[tokio::test]
async fn an_event_whose_earlier_versions_never_come_is_parked_where_it_is_so_set() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned).park_after(3);
    assert_eq!(deliver(&mut consumer, &[sent("a", 2).received(2)]).await, [Gap]);
    assert_eq!(deliver(&mut consumer, &[sent("a", 2).received(3)]).await, [Parked]);
    let sql = "select reason from relay.parked";
    let reason: String = read_model.client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(reason.starts_with("expected version 1 of the aggregate before it"), "{reason}");
}

#[tokio::test]
async fn what_the_outbox_takes_is_kept_and_what_no_index_holds_is_parked() {
    let read_model = ReadModel::start().await;
    for mode in [Mode::Once, Mode::Versioned, Mode::Latest] {
        let mut consumer = read_model.consumer(mode);
        // Nothing that compresses: an index holds 2,704 bytes of it.
        let mut random = fastrand::Rng::with_seed(7);
        let long = |length| -> String { (0..length).map(|_| random.alphanumeric()).collect() };
        let [whole, over] = [1024, 1025].map(long);
        let chinese = "\u{4e2d}".repeat(1024);
        let batch = [sent(&whole, 1), sent(&over, 1), sent(&chinese, 1), sent("b", 1)];
        let batch = batch.map(super::support::Sent::fifo);
        let fresh = [Applied, Parked, Parked, Applied];
        let outcomes = deliver(&mut consumer, &batch).await;
        // The modes share the projection's inbox.
        let again = [Duplicate, Parked, Parked, Duplicate];
        assert_eq!(outcomes, if mode == Mode::Once { fresh } else { again }, "{mode:?}");
    }
    assert_eq!(
        read_model
            .count("relay.parked where reason like 'expected aggregate_id of at most%'")
            .await,
        2
    );
}

#[tokio::test]
async fn a_projection_whose_name_is_too_long_is_told_at_the_start() {
    struct Long(String);
    impl consumer::Handler for Long {
        fn name(&self) -> &str {
            &self.0
        }
        async fn handle(
            &self,
            _: &consumer::Event,
            _: &mut consumer::Tx<'_>,
        ) -> Result<(), consumer::HandlerError> {
            Ok(())
        }
    }
    let nowhere = "postgres://localhost:1/none".parse().unwrap();
    let mut consumer = consumer::Consumer::new(Long("n".repeat(129)), &nowhere);
    let error = consumer.connect().await.unwrap_err().to_string();
    assert!(error.contains("at most 128 bytes, found 129"), "{error}");
}

#[tokio::test]
async fn what_the_read_models_encoding_does_not_know_is_parked_in_escapes() {
    let mut read_model = ReadModel::start().await;
    let create = "create database latin encoding 'LATIN1' locale 'C' template template0";
    read_model.client.batch_execute(create).await.unwrap();
    let client = read_model.postgres.connect("latin").await.unwrap();
    local::migrations::apply(&client, "sql/read_model").await.unwrap();
    let own = "create table effects (place bigint generated always as identity,
        aggregate_id text, event_id uuid, version bigint, data text)";
    client.batch_execute(own).await.unwrap();
    (read_model.database, read_model.client) = ("latin".to_owned(), client);
    let mut consumer = read_model.consumer(Mode::Versioned);
    let odd = sent("\u{4e2d}", 1);
    let mut data = sent("a", 1);
    data.data = "\"\u{20ac}\"".to_owned();
    let batch = [odd, data, sent("b", 1)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Parked, Parked, Applied]);
    let sql = "select string_agg(body, ' ' order by id) from relay.parked";
    let bodies: String = read_model.client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(bodies.contains("\\u4e2d") && bodies.contains("\\u20ac"), "{bodies}");
}

#[tokio::test]
async fn an_event_that_is_wanted_later_is_kept_back_for_so_long() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch = [sent("a", 1), sent("b", 1).kind("retry_later")];
    let report = consumer.deliver(batch.iter().map(crate::support::Sent::record).collect()).await;
    let report = report.unwrap();
    assert_eq!(report.outcomes[1].1, Failed);
    assert_eq!(report.delays, [(1, std::time::Duration::from_secs(90))].into());
}

#[tokio::test]
async fn the_same_id_with_another_content_is_refused_and_reported() {
    for mode in [Mode::Once, Mode::Versioned, Mode::Latest] {
        let read_model = ReadModel::start().await;
        let mut consumer = read_model.consumer(mode);
        let honest = sent("a", 1);
        let mut forged = honest.clone();
        forged.data = "2".to_owned();
        // In one delivery, where the first is new, and in a later one.
        assert_eq!(deliver(&mut consumer, [&honest, &forged]).await, [Applied, Parked], "{mode:?}");
        assert_eq!(
            deliver(&mut consumer, [&honest, &forged]).await,
            [Duplicate, Parked],
            "{mode:?}"
        );
        assert_eq!(read_model.effects().await["a"], [1]);
        let sql = "select reason from relay.parked";
        let reason: String = read_model.client.query_one(sql, &[]).await.unwrap().get(0);
        assert!(reason.contains("found another content"), "{reason}");
    }
}

#[tokio::test]
async fn the_next_version_under_the_id_of_another_event_is_parked() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let first = sent("a", 1);
    assert_eq!(deliver(&mut consumer, [&first]).await, [Applied]);
    let mut second = sent("a", 2);
    second.event_id.clone_from(&first.event_id);
    assert_eq!(deliver(&mut consumer, [&second, &sent("b", 1)]).await, [Parked, Applied]);
    assert_eq!(read_model.effects().await["a"], [1]);
}
