//! A read model from before its tables had tenants: after the migration nothing is applied twice, and
//! nothing waits for versions that came long ago.

use crate::support::{ReadModel, Sent, deliver, sent};
use consumer::Mode;
use consumer::Outcome::{self, Applied, Duplicate};
use std::path::Path;

/// Takes the tables back to migration 5, and writes what a consumer of then had written.
async fn earlier() -> ReadModel {
    let read_model = ReadModel::start().await;
    let back = "drop schema relay cascade";
    read_model.client.batch_execute(back).await.unwrap();
    migrate(&read_model, 1, 5).await;
    // Versions 1 to 5 of each; the inbox has forgotten all but the last.
    let written = format!(
        "insert into relay.progress (projection, aggregate_type, aggregate_id, version, moved_from, position)
          select 'recorder', 'thing', id, 5, 4, '00000000016b3748-00000001' from unnest(array['a', 'b', 'c']) as id;
        insert into relay.inbox (projection, event_id, day, aggregate_type, aggregate_id, aggregate_version, content)
          select 'recorder', id::uuid, '2026-01-15', 'thing', 'a', 5, gen_random_uuid()
          from unnest(array['{}', '{}']) as id;
        insert into relay.effect (projection, event_id, event_type, aggregate_type, aggregate_id, request, body)
          values ('recorder', gen_random_uuid(), 'e', 'thing', 'a', '1', $${{\"metadata\": {{\"tenant_id\": \"acme\"}}}}$$);
        insert into relay.parked (projection, event_id, event_type, aggregate_type, aggregate_id, reason, body)
          values ('recorder', gen_random_uuid(), 'e', 'thing', 'a', 'r', $${{\"metadata\": {{\"tenant_id\": \"acme\"}}}}$$),
            ('recorder', gen_random_uuid(), 'e', 'thing', 'a', 'r', 'no JSON')",
        acme("a", 5).event_id,
        sent("b", 5).event_id,
    );
    read_model.client.batch_execute(&written).await.unwrap();
    migrate(&read_model, 6, i64::MAX).await;
    read_model
}

async fn migrate(read_model: &ReadModel, from: i64, to: i64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sql/read_model");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap()).collect();
    let number = |file: &std::fs::DirEntry| -> i64 {
        let name = file.file_name().into_string().unwrap();
        name.strip_prefix('V').unwrap().split_once('_').unwrap().0.parse().unwrap()
    };
    files.sort_by_key(number);
    for file in files.iter().filter(|file| (from..=to).contains(&number(file))) {
        let sql = std::fs::read_to_string(file.path()).unwrap();
        read_model.client.batch_execute(&sql).await.unwrap();
    }
}

fn acme(aggregate: &str, version: i64) -> Sent {
    let sent = sent(aggregate, version);
    Sent { event_id: sent.event_id.replacen("-0000-", "-acee-", 1), tenant: "acme", ..sent }
}

async fn delivered(read_model: &ReadModel, mode: Mode, sent: &[Sent]) -> Vec<Outcome> {
    deliver(&mut read_model.consumer(mode), sent).await
}

#[tokio::test]
async fn versions_go_on_where_they_stood_for_the_tenant_and_for_those_without_one() {
    let read_model = earlier().await;
    let reached = "select relay.version_reached('recorder', 'acme', 'thing', 'a', 5),
        relay.version_reached('recorder', 'acme', 'thing', 'a', 6),
        relay.version_reached('recorder', 'thing', 'b', 5)";
    let row = read_model.client.query_one(reached, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (true, false, true));
    // A repeat that the inbox has forgotten is the first to come.
    assert_eq!(delivered(&read_model, Mode::Versioned, &[acme("a", 1)]).await, [Duplicate]);
    let batch = [acme("a", 5), acme("a", 6), acme("c", 6), sent("b", 5), sent("b", 6)];
    let outcomes = delivered(&read_model, Mode::Versioned, &batch).await;
    assert_eq!(outcomes[1..], [Applied, Applied, outcomes[3], Applied]);
    assert_eq!(read_model.effects().await["a"], [6]);
    assert_eq!(read_model.effects().await["b"], [6]);
    // Another tenant's aggregate of the same id is its own, and so is one without a tenant.
    let other = sent("a", 1).of_tenant("other");
    let plain = Sent { event_id: sent("x", 1).event_id, ..sent("a", 1) };
    assert_eq!(delivered(&read_model, Mode::Versioned, &[other, plain]).await, [Applied; 2]);
    let sql = "select string_agg(aggregate_id || tenant_id || version, ' ' order by 1)
        from (select aggregate_id, ':' || tenant_id || ':' as tenant_id, version from relay.progress) as p";
    let sql = sql.replace("order by 1", "order by aggregate_id, tenant_id");
    let found: String = read_model.client.query_one(&sql, &[]).await.unwrap().get(0);
    assert_eq!(found, "a::1 a:acme:6 a:other:1 b::6 c:acme:6");
    assert_eq!(read_model.count("relay.progress where moved_from < 0").await, 0);
}

#[tokio::test]
async fn the_last_write_stays_the_last() {
    let read_model = earlier().await;
    let older = acme("a", 4);
    let outcomes = delivered(&read_model, Mode::Latest, &[older, acme("a", 6).at(9)]).await;
    assert_eq!(outcomes, [Outcome::Stale, Applied]);
}

#[tokio::test]
async fn messages_that_were_kept_whole_say_whose_they_are() {
    let read_model = earlier().await;
    let sql = "select (select string_agg(tenant_id, ',' order by id) from relay.parked),
        (select string_agg(tenant_id, ',') from relay.effect)";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("acme,", "acme"));
}
