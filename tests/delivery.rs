//! What is committed arrives, as it was written, wherever it is sent.

use crate::harness::{INSERT, LIMIT, World, member, text};
use anyhow::Result;
use envelope::Event;

#[tokio::test]
async fn committed_events_arrive_and_rolled_back_ones_do_not() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    let mut client = world.client().await?;
    for n in 0..20_i64 {
        let transaction = client.transaction().await?;
        transaction
            .execute(
                INSERT,
                &[
                    &format!("ord_{}", n % 3),
                    &(n / 3 + 1),
                    &"order.created",
                    &format!("{{\"n\": {n}}}"),
                ],
            )
            .await?;
        if n % 5 == 4 {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
        }
    }
    world.broker.wait("16 events", LIMIT, |s| s.accepted.len() == 16).await;
    {
        let state = world.broker.state();
        let first = &state.accepted[0].entry;
        assert_eq!(first.group.as_deref(), Some("/order/ord_0"));
        let event = Event::from_json(&first.body)?;
        assert_eq!(first.deduplication.as_deref(), Some(event.event_id.to_string().as_str()));
        assert_eq!(event.source, world.database);
        let names: Vec<&str> = first.attributes.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.contains(&"event_type") && names.contains(&"aggregate_type"));
        let mut found: Vec<i64> =
            state.accepted.iter().filter_map(|a| member(a, "data")["n"].as_i64()).collect();
        found.sort_unstable();
        assert_eq!(found, (0..20).filter(|n| n % 5 != 4).collect::<Vec<_>>());
        assert_eq!(state.violations, Vec::<String>::new());
    }
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn every_kind_of_destination_takes_events() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders");
    let queue = world.broker.queue("customers");
    let fifo = world.broker.queue("parcels.fifo");
    let mut command = world.relay(&topic);
    let arn = "arn:aws:sqs:us-east-1:000000000000:parcels.fifo";
    assert!(fifo.ends_with("parcels.fifo"));
    command.arg("run").env("RELAY_ROUTES", format!("customer={queue},parcel={arn}"));
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data) values
             ('order', 'o', 'order.created', '{}'), ('customer', 'c', 'customer.joined', '{}'), ('parcel', 'p', 'parcel.sent', '{}');
             select relay.emit('order', 'e', 'order.emitted', '{\"x\": 1.10}', tenant_id => 'acme');",
        )
        .await?;
    world.broker.wait("four events", LIMIT, |s| s.accepted.len() == 4).await;
    let state = world.broker.state();
    let of = |key: &str| state.accepted.iter().find(|a| member(a, "aggregate_id") == key).unwrap();
    assert_eq!(of("o").target, topic);
    assert_eq!(of("o").entry.group, None);
    assert_eq!(of("c").target, "customers");
    assert_eq!(
        (of("p").target.as_str(), of("p").entry.group.as_deref()),
        ("parcels.fifo", Some("/parcel/p"))
    );
    let emitted = Event::from_json(&of("e").entry.body)?;
    assert_eq!((emitted.data.get(), emitted.tenant_id.as_deref()), ("{\"x\": 1.10}", Some("acme")));
    Ok(())
}

#[tokio::test]
async fn a_payload_arrives_byte_for_byte() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    let client = world.client().await?;
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let payloads = [
        r#"{"a" : 1, "a": 2,	"e":[ ] }"#,
        r#"{"big": 1e999, "precise": 0.1000000000000000000000000001, "minus": -0.0}"#,
        r#""lone \ud800 and nul \u0000 and \/ slash""#,
        "\"emoji 👩‍👩‍👧 rtl \u{202e} bom \u{feff} sep \u{2028} del \u{7f} é e\u{301}\"",
        "{\"line\":\n\r\n\"break\"}",
        "null",
        "\"<xml>&amp;]]></xml> %00 + &Action=Publish\"",
        &deep,
    ];
    for (n, payload) in payloads.iter().enumerate() {
        client.execute(INSERT, &[&format!("key {n} ü"), &1_i64, &"order.created", payload]).await?;
        client
            .execute(
                "select relay.emit('order', $1, 'order.created', $2::text::json)",
                &[&format!("emitted {n}"), payload],
            )
            .await?;
    }
    // What XML 1.0 does not know is escaped: another text, the same JSON.
    client.execute(INSERT, &[&"ffff", &1_i64, &"order.created", &"\"\u{fffe}\u{ffff}\""]).await?;
    world.broker.wait("all payloads", LIMIT, |s| s.accepted.len() == 2 * payloads.len() + 1).await;
    let state = world.broker.state();
    for (n, payload) in payloads.iter().enumerate() {
        for key in [format!("key {n} ü"), format!("emitted {n}")] {
            let events = state.accepted.iter().map(|a| Event::from_json(&a.entry.body).unwrap());
            let event = events.into_iter().find(|e| e.aggregate_id == key).unwrap();
            assert_eq!(event.data.get(), *payload);
        }
    }
    let escaped = state
        .accepted
        .iter()
        .map(|a| Event::from_json(&a.entry.body).unwrap())
        .find(|e| e.aggregate_id == "ffff")
        .unwrap();
    assert_eq!(escaped.data::<String>()?, "\u{fffe}\u{ffff}");
    Ok(())
}

#[tokio::test]
async fn init_is_safe_to_repeat_and_check_and_status_agree() -> Result<()> {
    let world = World::new().await?;
    let again = world.relay("").arg("init").output()?;
    assert!(again.status.success() && !text(&again).contains("made"), "{}", text(&again));
    let topic = world.broker.topic("orders.fifo");
    let check = world.relay(&topic).arg("check").output()?;
    assert!(check.status.success() && text(&check).contains("all is well"), "{}", text(&check));
    // Nothing is published unasked: in the format payload a probe looks like any event.
    assert!(world.broker.state().accepted.is_empty() && text(&check).contains("--probe"));
    let command =
        world.relay(&topic).args(["check", "--probe"]).env("RELAY_FORMAT", "payload").output();
    assert!(command?.status.success());
    {
        let probe = &world.broker.state().accepted[0].entry;
        let marked = ("event_type".to_owned(), "relay.check".to_owned());
        assert!(
            probe.attributes.contains(&marked) && probe.body.contains("relay.check"),
            "{probe:?}"
        );
    }
    let check = world
        .relay("")
        .arg("check")
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x")
        .output()?;
    assert!(text(&check).contains("RELAY_TOPIC_ARN"), "the configuration first: {}", text(&check));
    let status = world.relay(&topic).arg("status").output()?;
    assert_eq!(status.status.code(), Some(1));
    assert!(text(&status).contains("no relay reads from the slot"), "{}", text(&status));
    let _relay = world.run(&topic).await?;
    let status = world.relay(&topic).arg("status").output()?;
    assert!(status.status.success() && text(&status).contains("Events flow."), "{}", text(&status));
    Ok(())
}
