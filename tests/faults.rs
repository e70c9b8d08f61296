//! Bad input and broken destinations: each is named, and nothing is lost.

use crate::harness::{INSERT, LIMIT, World, member};
use anyhow::Result;
use std::time::Duration;
use tests::broker::Fault;

#[tokio::test]
async fn what_is_no_event_is_refused_at_the_insert_with_the_reason() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let long = "k".repeat(1025);
    let cases: [(&str, Option<&str>, &str, &str, &str); 7] = [
        (
            "order",
            None,
            "order.created",
            "{}",
            "aggregate_id must be a key of 1 to 1024 bytes, found null",
        ),
        (
            "order",
            Some(""),
            "order.created",
            "{}",
            "aggregate_id must be a key of 1 to 1024 bytes, found ''",
        ),
        (
            "order",
            Some(&long),
            "order.created",
            "{}",
            "aggregate_id must be a key of 1 to 1024 bytes",
        ),
        (
            "order",
            Some("o"),
            "order created",
            "{}",
            "event_type must be a name of 1 to 255 bytes without spaces, such as order.created, found 'order created'",
        ),
        ("order", Some("o"), "", "{}", "event_type must be a name"),
        ("an order", Some("o"), "order.created", "{}", "aggregate_type must be a name"),
        ("order", Some("o"), "order.created", "{nonsense", "invalid input syntax for type json"),
    ];
    let statements = [
        "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data) values ($1, $2, $3, $4::text::json)",
        "select relay.emit($1, $2, $3, $4::text::json)",
    ];
    for (aggregate_type, aggregate_id, event_type, data, said) in cases {
        for sql in statements {
            let error = client
                .execute(sql, &[&aggregate_type, &aggregate_id, &event_type, &data])
                .await
                .unwrap_err();
            let message = error.as_db_error().unwrap().message().replace("characters", "bytes");
            assert!(message.contains(said), "expected {said}, found {message}");
        }
    }
    let no_data = client.execute("insert into relay.outbox (aggregate_type, aggregate_id, event_type) values ('a', 'b', 'c')", &[]).await;
    assert!(
        no_data.unwrap_err().as_db_error().unwrap().message().contains("data must be a JSON value")
    );
    Ok(())
}

#[tokio::test]
async fn a_row_that_got_around_the_constraints_becomes_a_dead_letter() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client.batch_execute("alter table relay.outbox drop constraint aggregate_id_is_a_key, drop constraint event_type_is_a_name").await?;
    client
        .batch_execute(
            "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data) values
             ('order', null, 'order.created', '{}'), ('order', 'o', 'order created', '{}'), ('order', 'good', 'order.created', '{}');
             select relay.write_message('relay.event', 'nonsense');
             select pg_logical_emit_message(true, 'someone else', 'nonsense');",
        )
        .await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    world.until(&client, "select count(*) = 3 from relay.dead_letter").await?;
    world.broker.wait("the good one", LIMIT, |s| s.accepted.len() == 1).await;
    let rows = client.query("select reason from relay.dead_letter order by position", &[]).await?;
    let reasons: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(reasons[0].contains("expected a value in aggregate_id, found null"), "{reasons:?}");
    assert!(
        reasons[1].contains("event_type to be a name of 1 to 255 bytes without spaces"),
        "{reasons:?}"
    );
    assert!(reasons[2].contains("written by relay.emit"), "{reasons:?}");
    Ok(())
}

#[tokio::test]
async fn a_payload_over_the_limit_becomes_a_dead_letter_and_its_key_goes_on() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    let client = world.client().await?;
    let large = format!("\"{}\"", "x".repeat(300 * 1024));
    client.execute(INSERT, &[&"big", &1_i64, &"order.created", &large]).await?;
    client.execute(INSERT, &[&"big", &2_i64, &"order.paid", &"{}"]).await?;
    world.broker.wait("the event behind it", LIMIT, |s| s.accepted.len() == 1).await;
    assert_eq!(member(&world.broker.state().accepted[0], "event_type"), "order.paid");
    let row = client
        .query_one(
            "select reason, key, event_type, destination, length(body) from relay.dead_letter",
            &[],
        )
        .await?;
    let reason: String = row.get(0);
    assert!(reason.contains("at most 262144 bytes"), "{reason}");
    assert_eq!(
        (row.get::<_, String>(1), row.get::<_, String>(2)),
        ("/order/big".to_owned(), "order.created".to_owned())
    );
    assert_eq!(row.get::<_, String>(3), topic);
    assert!(row.get::<_, i32>(4) > 300 * 1024);
    assert!(relay.terminate(LIMIT).await?.success());
    assert!(!relay.log().contains("xxxx"), "a payload is in the log");
    Ok(())
}

#[tokio::test]
async fn an_entry_that_the_broker_refuses_is_set_aside_and_costs_only_itself() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    // The first goes alone and slowly, so that the others wait together and share a request.
    let slow = Fault::Slow(Duration::from_secs(2));
    // Then a refusal of the whole request that names no entry: each goes alone, and one is at fault.
    let one = Fault::FailEntries { places: vec![0], code: "InvalidParameter", sender_fault: true };
    world.broker.script([slow, Fault::Refuse("InvalidParameter"), one]);
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_REQUESTS_IN_FLIGHT", "1");
    let _relay = world.start(command)?;
    for n in 0..5_i64 {
        let key = format!("k{n}");
        client.execute(INSERT, &[&key, &1_i64, &"order.created", &"{}"]).await?;
        world.broker.wait("the slow request", LIMIT, |s| s.requests == 1).await;
    }
    let refused =
        "select count(*) = 1 from relay.dead_letter where error_code = 'InvalidParameter'";
    world.until(&client, refused).await?;
    world.broker.wait("the others", LIMIT, |s| s.accepted.len() == 4).await;
    Ok(())
}

#[tokio::test]
async fn a_missing_topic_is_named_and_its_events_wait_for_it() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    let arn = "arn:aws:sns:us-east-1:000000000000:late.fifo";
    let mut relay = world.run(arn).await?;
    relay.said("the destination is wrong", LIMIT).await?;
    assert!(relay.log().contains("NotFound") && relay.log().contains(arn));
    let check = world.relay(arn).arg("check").output()?;
    assert_eq!(check.status.code(), Some(1));
    let said = crate::harness::text(&check);
    assert!(said.contains("Topic does not exist") && said.contains("make the topic"), "{said}");
    assert_eq!(world.broker.topic("late.fifo"), arn);
    world.broker.wait("the event that waited", LIMIT, |s| s.accepted.len() == 1).await;
    Ok(())
}

#[tokio::test]
async fn an_aggregate_type_without_a_route_becomes_a_dead_letter() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    client.batch_execute("insert into relay.outbox (aggregate_type, aggregate_id, event_type, data) values ('stranger', 's', 'stranger.came', '{}')").await?;
    let mut command = world.relay("");
    command.arg("run").env("RELAY_ROUTES", format!("order={topic}"));
    let _relay = world.start(command)?;
    world.until(&client, "select count(*) = 1 from relay.dead_letter where reason like '%route for the aggregate type \"stranger\"%'").await
}

#[tokio::test]
async fn a_second_event_under_one_id_is_a_dead_letter_and_a_repeat_of_the_first_is_none()
-> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    let relay = world.run(&topic).await?;
    let insert =
        "insert into relay.outbox (event_id, aggregate_type, aggregate_id, event_type, data)
        values ('0193b6a8-1f5e-7c3a-9d2b-000000000001', 'order', $1, 'order.created', '{}')";
    for key in ["first", "first", "second"] {
        client.execute(insert, &[&key]).await?;
    }
    world.until(&client, "select count(*) = 1 from relay.dead_letter where key like '%second' and reason like '%event_id of its own%' and body like '%second%'").await?;
    world.broker.wait("the first and its repeat", LIMIT, |s| s.accepted.len() == 2).await;
    assert!(!world.broker.state().accepted[1].delivered, "the broker knows the repeat by its id");
    drop(relay);
    Ok(())
}
