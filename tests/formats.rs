//! Each destination gets its events in the format that the configuration names for it.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::HashMap;
use tests::broker::Accepted;

/// Three destinations, each with its own format; one event to each.
const EVENTS: &str = r#"
    insert into relay.outbox (aggregate_type, aggregate_id, event_type, event_version, tenant_id, correlation_id, data, metadata) values
    ('order', 'o', 'order.created', '2.1', 'acme', 'c-1', '{"total": 1.50,  "a": 1, "a": 2}', '{"user_id": "u"}'),
    ('customer', 'c', 'customer.joined', '2.1', 'acme', 'c-1', '{"total": 1.50,  "a": 1, "a": 2}',
     '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'),
    ('parcel', 'p', 'parcel.sent', '2.1', 'acme', 'c-1', '{"total": 1.50,  "a": 1, "a": 2}', '{"user_id": "u"}')"#;

const DATA: &str = r#"{"total": 1.50,  "a": 1, "a": 2}"#;

fn attributes(accepted: &Accepted) -> HashMap<&str, &str> {
    accepted.entry.attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
}

/// Holds an event against the official schema.
fn check_cloudevent(body: &str) -> Value {
    let schema =
        serde_json::from_str(include_str!("../relay/envelope/schema/cloudevents.json")).unwrap();
    let schema = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let event: Value = serde_json::from_str(body).unwrap();
    schema.validate(&event).unwrap();
    event
}

#[tokio::test]
async fn each_destination_gets_its_own_format_with_data_untouched() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let events = world.broker.queue("customers.fifo");
    let bare = world.broker.queue("parcels.fifo");
    let config = format!(
        "[publish]\nto = '{topic}'\nsource = 'order service'\n
         [[route]]\naggregate_type = 'customer'\nto = '{events}'\n
         [[route]]\naggregate_type = 'parcel'\nto = '{bare}'\n
         [[destination]]\nto = '{events}'\nformat = 'cloudevents'\n
         [[destination]]\nto = '{bare}'\nformat = 'payload'\n"
    );
    std::fs::write(world.folder().join("relay.toml"), config)?;
    let mut command = world.relay("");
    command.args(["--config", "relay.toml", "run"]);
    let mut relay = world.start(command)?;
    let client = world.client().await?;
    client.batch_execute(EVENTS).await?;
    world.broker.wait("three events", LIMIT, |s| s.accepted.len() == 3).await;
    {
        let state = world.broker.state();
        let at = |target: &str| state.accepted.iter().find(|a| a.target == target).unwrap();

        let plain = envelope::Event::from_json(&at(&topic).entry.body)?;
        assert_eq!(plain.data.get(), DATA);
        assert!(!attributes(at(&topic)).contains_key("aggregate_id"));

        let cloud = at("customers.fifo");
        let event = check_cloudevent(&cloud.entry.body);
        assert!(cloud.entry.body.ends_with(&format!(",\"data\":{DATA}}}")));
        assert_eq!(event["source"], "order%20service");
        assert_eq!(
            (&event["subject"], &event["partitionkey"]),
            (&json!("c"), &json!("acme/customer/c"))
        );
        assert_eq!(
            (&event["type"], &event["tenantid"]),
            (&json!("customer.joined"), &json!("acme"))
        );
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(event["traceparent"], trace);
        let id = cloud.entry.deduplication.as_deref();
        assert_eq!((event["id"].as_str(), attributes(cloud).get("event_id").copied()), (id, id));
        assert_eq!(cloud.entry.group.as_deref(), Some("acme/customer/c"));

        let payload = at("parcels.fifo");
        assert_eq!(payload.entry.body, DATA);
        let found = attributes(payload);
        let event_id = payload.entry.deduplication.as_deref().unwrap();
        let expected = HashMap::from([
            ("event_id", event_id),
            ("event_type", "parcel.sent"),
            ("event_version", "2.1"),
            ("aggregate_type", "parcel"),
            ("aggregate_id", "p"),
            ("source", "order service"),
            ("tenant_id", "acme"),
            ("correlation_id", "c-1"),
        ]);
        assert_eq!(found, expected);
    }
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn changes_of_tables_and_the_probe_are_cloudevents_too() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute("create table item (id int primary key, note text)").await?;
    let topic = world.broker.topic("items.fifo");
    let command = |verb: &str| {
        let mut command = world.relay(&topic);
        command.arg(verb).env("RELAY_TABLES", "item").env("RELAY_FORMAT", "cloudevents");
        command
    };
    let init = command("init").output()?;
    assert!(init.status.success(), "{}", text(&init));
    let check = command("check").arg("--probe").output()?;
    assert!(check.status.success(), "{}", text(&check));
    let mut relay = world.start(command("run"))?;
    client.batch_execute("insert into item values (7, 'x')").await?;
    client.execute(INSERT, &[&"a\u{1}b", &i64::MAX, &"order.created", &"[]"]).await?;
    world.broker.wait("the probe and two events", LIMIT, |s| s.accepted.len() == 3).await;
    {
        let state = world.broker.state();
        let events: Vec<Value> =
            state.accepted.iter().map(|a| check_cloudevent(&a.entry.body)).collect();
        assert_eq!(events[0]["type"], envelope::PROBE_EVENT_TYPE);
        assert_eq!(
            (&events[1]["type"], &events[1]["subject"], &events[1]["partitionkey"]),
            (&json!("item.created"), &json!("7"), &json!("/item/7"))
        );
        let metadata: Value = serde_json::from_str(events[1]["metadata"].as_str().unwrap())?;
        assert_eq!(metadata["table"], "public.item");
        assert_eq!(
            (&events[2]["aggregateversion"], &events[2]["subject"]),
            (&json!(i64::MAX.to_string()), &json!("a\u{fffd}b"))
        );
        let sequences: Vec<_> = events[1..].iter().map(|e| e["sequence"].as_str()).collect();
        assert!(sequences.is_sorted(), "{sequences:?}");
    }
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_key_with_any_character_is_a_cloudevent() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_FORMAT", "cloudevents");
    let mut relay = world.start(command)?;
    let client = world.client().await?;
    for key in ["\u{85}", "\u{ffff}", "\"\\", " ", "é😀"] {
        client.execute(INSERT, &[&key, &1_i64, &"order.created", &"{\"x\":\"\u{fffe}\"}"]).await?;
    }
    world.broker.wait("all", LIMIT, |s| s.accepted.len() == 5).await;
    for accepted in &world.broker.state().accepted {
        check_cloudevent(&accepted.entry.body);
    }
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
