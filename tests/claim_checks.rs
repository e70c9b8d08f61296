//! What is too large for a message arrives all the same, through S3, in order and without loss.

use crate::harness::{INSERT, LIMIT, World, member, text};
use crate::memory::{peak, resident};
use anyhow::Result;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use consumer::s3::{Place, Store, claim_checks};
use consumer::{ClaimChecks, Consumer, Event, Handler, HandlerError, Mode, Tx};
use local::process::Process;
use serde_json::Value;
use tests::broker::{Accepted, Fault};

const BUCKET: &str = "events";

/// A relay with a bucket for what is too large.
fn start(world: &World, to: &str, settings: &[(&str, &str)]) -> Result<Process> {
    let mut command = world.relay(to);
    command.arg("run").env("RELAY_CLAIM_CHECK_BUCKET", BUCKET);
    command.envs(settings.iter().copied());
    world.start(command)
}

/// JSON of so many bytes.
fn data(bytes: usize) -> String {
    format!("{{\"x\":\"{}\"}}", "x".repeat(bytes - 8))
}

async fn insert(client: &tokio_postgres::Client, version: i64, bytes: usize) -> Result<()> {
    client.execute(INSERT, &[&"o", &version, &"order.created", &data(bytes)]).await?;
    Ok(())
}

fn object(world: &World, key: &str) -> String {
    String::from_utf8(world.broker.state().buckets[BUCKET][key].clone()).unwrap()
}

fn attribute<'a>(accepted: &'a Accepted, name: &str) -> Option<&'a str> {
    accepted.entry.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// Notes each event with the size of its data.
#[derive(Clone)]
struct Sizes;

impl Handler for Sizes {
    fn name(&self) -> &str {
        "sizes"
    }

    fn mode(&self) -> Mode {
        Mode::Versioned
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let size = i64::try_from(event.data.get().len()).unwrap_or_default();
        tx.execute("insert into sizes (size) values ($1)", &[&size]).await?;
        Ok(())
    }
}

fn redeemer(world: &World, bucket: &str) -> ClaimChecks {
    let credentials = Credentials::new("test", "test", None, None, "test");
    let place = Place::new("us-east-1").at(Some(world.broker.endpoint().to_owned()));
    let store =
        Store::new(place, SharedCredentialsProvider::new(credentials), consumer::s3::PRODUCT);
    claim_checks(store, bucket, 16 << 20)
}

#[tokio::test]
async fn a_large_event_goes_through_s3_to_the_handler_in_the_order_of_its_key() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let queue = world.broker.queue("sizes.fifo");
    world.broker.subscribe(&topic, "sizes.fifo");
    world.broker.bucket(BUCKET);
    let mut relay = start(&world, &topic, &[("RELAY_CLAIM_CHECK_PREFIX", "large/")])?;
    let client = world.client().await?;
    let sizes = [100, 700_000, 200, 2_000_000, 300];
    for (version, bytes) in (1..).zip(sizes) {
        insert(&client, version, bytes).await?;
    }
    world.broker.wait("five events", LIMIT, |s| s.accepted.len() == 5).await;
    {
        let accepted = world.broker.state().accepted.clone();
        let large = &accepted[1];
        let id = attribute(large, "event_id").unwrap();
        let key = format!("large/{id}");
        let body: Value = serde_json::from_str(&large.entry.body)?;
        let class = "software.amazon.payloadoffloading.PayloadS3Pointer";
        let place = serde_json::json!({ "s3BucketName": BUCKET, "s3Key": key });
        assert_eq!(body, serde_json::json!([class, place]));
        let event = object(&world, &key);
        let size = event.len().to_string();
        assert_eq!(attribute(large, "ExtendedPayloadSize"), Some(size.as_str()));
        assert_eq!(large.entry.numbers, ["ExtendedPayloadSize"]);
        assert_eq!(Event::from_json(&event)?.data.get(), data(sizes[1]));
        assert_eq!(large.entry.deduplication.as_deref(), Some(id));
        let versions = [&accepted[0], &accepted[2], &accepted[4]];
        assert_eq!(versions.map(|a| member(a, "aggregate_version")), [1, 3, 5]);
        assert_eq!(world.broker.state().violations, Vec::<String>::new());
    }
    assert!(relay.terminate(LIMIT).await?.success());

    let database = world.postgres.create_database().await?;
    let url = world.postgres.url(&database);
    let init =
        world.relay("").args(["init", "--read-model"]).env("READ_MODEL_URL", &url).output()?;
    assert!(init.status.success(), "{}", text(&init));
    let read_model = world.postgres.connect(&database).await?;
    read_model
        .batch_execute("create table sizes (place int generated always as identity, size bigint)")
        .await?;
    let dsn: dsn::Dsn = url.parse()?;
    let consumer = || Consumer::new(Sizes, &dsn).with_claim_checks(redeemer(&world, BUCKET));
    let sqs = crate::crash::sqs(world.broker.endpoint());
    let all = world.until(&read_model, "select count(*) = 5 from sizes");
    consumer::host::poll::serve(consumer, &sqs, &queue, 1, async { all.await.unwrap() }).await;
    let rows = read_model.query("select size from sizes order by place", &[]).await?;
    let found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(found, sizes.map(|bytes| i64::try_from(bytes).unwrap()));
    Ok(())
}

#[tokio::test]
async fn a_consumer_redeems_no_check_of_another_bucket_and_none_without_a_way_to() -> Result<()> {
    let world = World::bare(&[]).await?;
    let url = world.postgres.url(&world.database);
    let init =
        world.relay("").args(["init", "--read-model"]).env("READ_MODEL_URL", &url).output()?;
    assert!(init.status.success(), "{}", text(&init));
    world.broker.bucket(BUCKET);
    let body = include_str!("../relay/envelope/golden/claim_check_1.json");
    let record = || consumer::Record::new(Some("m".into()), Some(body.into()), false, |_| None);
    let dsn: dsn::Dsn = url.parse()?;
    for claim_checks in [None, Some(redeemer(&world, "other")), Some(redeemer(&world, BUCKET))] {
        let mut consumer = Consumer::new(Sizes, &dsn);
        if let Some(claim_checks) = claim_checks {
            consumer = consumer.with_claim_checks(claim_checks);
        }
        let report = consumer.deliver(vec![record()]).await?;
        assert_eq!(report.failed_ids(), Some(vec!["m"]));
    }
    // Only the last one asked S3, which has no such object.
    assert_eq!(world.broker.state().access_keys.len(), 1);
    Ok(())
}

#[tokio::test]
async fn while_s3_fails_the_event_waits_with_its_key_and_others_go_on() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    world.broker.state().object_faults.extend([
        (503, "SlowDown"),
        (500, "InternalError"),
        (403, "AccessDenied"),
        (400, "RequestTimeout"),
    ]);
    let mut relay = start(&world, &topic, &[])?;
    let client = world.client().await?;
    insert(&client, 1, 400_000).await?;
    insert(&client, 2, 100).await?;
    client.execute(INSERT, &[&"another", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the other key", LIMIT, |s| s.accepted.len() == 1).await;
    assert_eq!(member(&world.broker.state().accepted[0], "aggregate_id"), "another");
    // The bucket is not there yet: the destination is wrong, and no event's fault.
    world.broker.wait("a sixth try", LIMIT, |s| s.puts >= 6).await;
    assert_eq!(world.broker.state().accepted.len(), 1);
    let said = "select exists (select from relay.condition where found like '%too large%')";
    world.until(&client, said).await?;
    let status = world.relay("").arg("status").output()?;
    assert!(!status.status.success());
    assert!(text(&status).contains("that the bucket exists"), "{}", text(&status));
    assert!(text(&status).contains("S3.NoSuchBucket"), "{}", text(&status));
    world.broker.bucket(BUCKET);
    world.broker.wait("all", LIMIT, |s| s.accepted.len() == 3).await;
    assert_eq!(member(&world.broker.state().accepted[2], "aggregate_version"), 2);
    world.until(&client, "select count(*) = 0 from relay.dead_letter").await?;
    world.until(&client, "select count(*) = 0 from relay.condition").await?;
    let status = world.relay("").arg("status").output()?;
    assert!(text(&status).contains("\nEvents flow."), "{}", text(&status));
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_relay_that_dies_between_the_object_and_the_message_sends_the_same_object_again()
-> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    world.broker.bucket(BUCKET);
    world.broker.script([Fault::Hang(LIMIT)]);
    let mut relay = start(&world, &topic, &[])?;
    let client = world.client().await?;
    insert(&client, 1, 400_000).await?;
    world.broker.wait("the request", LIMIT, |s| s.requests == 1 && s.puts == 1).await;
    relay.kill();
    let mut relay = start(&world, &topic, &[])?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    {
        let state = world.broker.state();
        assert_eq!((state.puts, state.buckets[BUCKET].len()), (2, 1));
        let id = attribute(&state.accepted[0], "event_id").unwrap();
        assert!(state.buckets[BUCKET].contains_key(id));
    }
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_cloudevent_names_its_data_and_a_payload_is_an_object() -> Result<()> {
    let world = World::new().await?;
    world.broker.bucket(BUCKET);
    let client = world.client().await?;
    for (at, format) in (1_i64..).zip(["cloudevents", "payload"]) {
        let topic = world.broker.topic(&format!("{format}.fifo"));
        let settings = [("RELAY_FORMAT", format), ("RELAY_CLAIM_CHECK_ABOVE", "2000B")];
        let mut relay = start(&world, &topic, &settings)?;
        insert(&client, at * 2 - 1, 1000).await?;
        insert(&client, at * 2, 3000).await?;
        let of = |accepted: &&Accepted| accepted.target == topic;
        world.broker.wait("both", LIMIT, |s| s.accepted.iter().filter(of).count() == 2).await;
        let accepted = world.broker.state().accepted.clone();
        let found: Vec<_> = accepted.iter().filter(of).collect();
        assert!(found[0].entry.body.contains(&data(1000)), "below the threshold it is a message");
        let id = attribute(found[1], "event_id").unwrap();
        assert_eq!(object(&world, id), data(3000));
        if format == "cloudevents" {
            let event: Value = serde_json::from_str(&found[1].entry.body)?;
            assert_eq!(event["dataref"], format!("s3://{BUCKET}/{id}"));
            assert_eq!((&event["id"], event.get("data")), (&Value::from(id), None));
            assert_eq!(attribute(found[1], "ExtendedPayloadSize"), None);
        } else {
            assert_eq!(attribute(found[1], "ExtendedPayloadSize"), Some("3000"));
            assert!(found[1].entry.body.starts_with("[\"software.amazon"));
        }
        assert!(relay.terminate(LIMIT).await?.success());
    }
    Ok(())
}

#[tokio::test]
async fn what_may_not_go_to_s3_is_a_dead_letter_and_check_says_what_is_wrong() -> Result<()> {
    let world = World::new().await?;
    let (topic, plain) = (world.broker.topic("orders.fifo"), world.broker.topic("plain.fifo"));
    let config = format!(
        "[publish]\nto = '{topic}'\n[claim_check]\nbucket = '{BUCKET}'\nlargest = '1MiB'\n
         [[route]]\naggregate_type = 'plain'\nto = '{plain}'\n
         [[destination]]\nto = '{plain}'\nclaim_check = false\n"
    );
    std::fs::write(world.folder().join("relay.toml"), config)?;
    let command = |verb: &str| {
        let mut command = world.relay("");
        command.args(["--config", "relay.toml", verb]);
        command
    };
    let check = command("check").output()?;
    assert!(!check.status.success());
    assert!(text(&check).contains("make the bucket"), "{}", text(&check));
    world.broker.bucket(BUCKET);
    let check = command("check").output()?;
    assert!(check.status.success(), "{}", text(&check));
    assert!(text(&check).contains("events/relay.check was put"), "{}", text(&check));

    let mut relay = world.start(command("run"))?;
    let client = world.client().await?;
    insert(&client, 1, 2_000_000).await?;
    let large = "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
        values ('plain', 'p', 'plain.made', $1::text::json)";
    client.execute(large, &[&data(400_000)]).await?;
    world.until(&client, "select count(*) = 2 from relay.dead_letter").await?;
    let rows = client
        .query("select key, reason, length(body) from relay.dead_letter order by position", &[])
        .await?;
    let told: Vec<(String, String, i32)> =
        rows.iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect();
    assert_eq!((told[0].0.as_str(), told[0].2), ("/order/o", 0));
    assert!(told[0].1.contains("at most 1048576 bytes"), "{}", told[0].1);
    assert!(told[1].0 == "/plain/p" && told[1].2 > 400_000, "{told:?}");
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_that_was_too_large_is_redriven_once_there_is_a_bucket() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    world.broker.bucket(BUCKET);
    let client = world.client().await?;
    insert(&client, 1, 400_000).await?;
    insert(&client, 2, 2_000_000).await?;
    insert(&client, 3, 100).await?;
    let mut relay = world.run(&topic).await?;
    world.broker.wait("the one behind them", LIMIT, |s| s.accepted.len() == 1).await;
    world.until(&client, "select count(*) = 2 from relay.dead_letter").await?;
    assert!(relay.terminate(LIMIT).await?.success());

    let mut relay = start(&world, &topic, &[])?;
    let redrive = world.relay("").args(["dead-letters", "redrive", "--all"]).output()?;
    // Of the larger one only the row is left: it is not kept a second time.
    assert!(text(&redrive).contains("redrove 1 dead letter"), "{}", text(&redrive));
    world.broker.wait("the redriven one", LIMIT, |s| s.accepted.len() == 2).await;
    let row = "select event_id::text from relay.outbox where aggregate_version = ";
    let id: String = client.query_one(&format!("{row} 1"), &[]).await?.get(0);
    {
        let state = world.broker.state();
        assert_eq!(attribute(&state.accepted[1], "event_id"), Some(id.as_str()));
        assert_eq!(
            state.accepted[1].entry.attributes.len(),
            1 + state.accepted[0].entry.attributes.len()
        );
    }
    assert_eq!(Event::from_json(&object(&world, &id))?.data.get(), data(400_000));

    // The row is sent as the page on large events says.
    let [again] = sql_of_the_page()[..] else { panic!("expected one statement in the page") };
    let id: String = client.query_one(&format!("{row} 2"), &[]).await?.get(0);
    let sql = again.replace("0193b6a1-7c3e-7f00-8000-000000000001", &id);
    client.batch_execute(&sql).await?;
    world.broker.wait("the larger one", LIMIT, |s| s.accepted.len() == 3).await;
    assert_eq!(Event::from_json(&object(&world, &id))?.data.get(), data(2_000_000));
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

/// The statements that the page on large events shows.
fn sql_of_the_page() -> Vec<&'static str> {
    let page = include_str!("../relay/docs/large-events.md");
    page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn the_largest_events_are_held_a_few_times_and_not_all_at_once() -> Result<()> {
    const BYTES: usize = 15_000_000;
    const MIB: u64 = (BYTES >> 20) as u64 + 1;
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    world.broker.bucket(BUCKET);
    let mut relay = start(&world, &topic, &[("RELAY_BYTES_IN_FLIGHT", "4MiB")])?;
    relay.said("streaming", LIMIT).await?;
    let before = resident(relay.id())?;
    let client = world.client().await?;
    let sql = format!(
        "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
         select 'order', 'k' || n, 'order.created', to_json(repeat('x', {BYTES})) from generate_series(1, 5) n"
    );
    client.batch_execute(&sql).await?;
    world.broker.wait("all five", LIMIT, |s| s.accepted.len() == 5).await;
    assert_eq!(world.broker.state().buckets[BUCKET].len(), 5);
    let peak = peak(relay.id())?;
    println!("before {before} MiB, peak {peak} MiB");
    // The frame, the body, the copy that is put, and what the allocator rounds up.
    let most = before + 4 + 4 * MIB + 16;
    assert!(peak < most, "expected less than {most} MiB, found {peak}");
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
