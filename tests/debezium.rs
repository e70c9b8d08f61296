//! The page on Debezium's outbox: its trigger publishes each row once, under its own id.

use crate::harness::{LIMIT, World, member};
use anyhow::Result;
use serde_json::{Value, json};

const PAGE: &str = include_str!("../relay/docs/debezium.md");

fn sql(name: &str) -> &'static str {
    let blocks = crate::readme::blocks_of(PAGE, &format!("sql debezium {name}"));
    assert_eq!(blocks.len(), 1, "{name}");
    blocks[0]
}

#[tokio::test]
async fn the_trigger_of_the_page_makes_one_event_of_an_insert_and_its_delete() -> Result<()> {
    let world = World::new().await?;
    let owner = world.client().await?;
    owner.batch_execute(sql("trigger")).await?;
    // The application's role has its own table and nothing of the relay's schema.
    owner
        .batch_execute(
            "create role app login password 'app'; create schema app authorization app;
             grant usage on schema relay to app; grant execute on function relay.emit_outboxevent() to app",
        )
        .await?;
    let url = world.postgres.url(&world.database).replace("postgres:postgres@", "app:app@");
    let (app, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    app.batch_execute(&format!("set search_path = app; {} {}", sql("table"), sql("attach")))
        .await?;
    owner
        .batch_execute(
            "revoke execute on function relay.emit_outboxevent() from app; revoke usage on schema relay from app",
        )
        .await?;
    let _relay = world.run(&world.broker.topic("orders.fifo")).await?;
    let id = |n: u32| format!("01930000-0000-7000-8000-00000000000{n}");
    let row = |n: u32, kind: &str, payload: &str| {
        format!(
            "insert into outboxevent (id, aggregatetype, aggregateid, type, payload)
             values ('{}', 'order', 'o1', '{kind}', {payload});",
            id(n)
        )
    };
    app.batch_execute(&format!(
        "begin; {} delete from outboxevent; commit",
        row(1, "OrderCreated", "'{\"n\": 1}'")
    ))
    .await?;
    app.batch_execute(&format!("begin; {} rollback", row(2, "OrderLost", "'{}'"))).await?;
    app.batch_execute(&row(3, "OrderEmpty", "null")).await?;
    app.batch_execute("update outboxevent set payload = '{}'").await?;
    let refused = app.batch_execute(&row(4, "no name", "'{}'")).await.unwrap_err();
    assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::CHECK_VIOLATION));

    owner.batch_execute(&format!("set search_path = app; {}", sql("columns"))).await?;
    app.batch_execute(&format!(
        "insert into outboxevent (id, aggregatetype, aggregateid, type, payload, tenant, version, tracingspancontext)
         values ('{}', 'order', 'o1', 'OrderPaid', '{{}}', 'acme', 2,
           E'#Sat\\ntraceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\\n')",
        id(5)
    ))
    .await?;
    world.broker.wait("three events", LIMIT, |s| s.accepted.len() == 3).await;
    // An update that sent the row again would be a second content under its id.
    let letters = "select count(*) from relay.dead_letter";
    assert_eq!(owner.query_one(letters, &[]).await?.get::<_, i64>(0), 0);
    let state = world.broker.state();
    let mut events: Vec<_> = state.accepted.iter().collect();
    events.sort_by_key(|a| member(a, "position").to_string());
    let told: Vec<_> = events
        .iter()
        .map(|a| (member(a, "event_id"), member(a, "event_type"), member(a, "data")))
        .collect();
    assert_eq!(
        told,
        [
            (json!(id(1)), json!("OrderCreated"), json!({"n": 1})),
            (json!(id(3)), json!("OrderEmpty"), Value::Null),
            (json!(id(5)), json!("OrderPaid"), json!({})),
        ]
    );
    assert_eq!(events[0].entry.group.as_deref(), Some("/order/o1"));
    assert_eq!(events[2].entry.group.as_deref(), Some("acme/order/o1"));
    assert_eq!(member(events[2], "aggregate_version"), 2);
    assert_eq!(
        member(events[2], "metadata"),
        json!({"tenant_id": "acme", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
    );
    for (name, value) in [("event_id", id(1)), ("event_type", "OrderCreated".to_owned())] {
        assert!(events[0].entry.attributes.contains(&(name.to_owned(), value)), "{name}");
    }
    Ok(())
}
