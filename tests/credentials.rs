//! Credentials come from a role, end during a run or are refused, and nothing is lost.

use crate::harness::{INSERT, LIMIT, World, member};
use anyhow::Result;
use local::process::Process;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::broker::{Broker, State};

const ROLE: &str = "arn:aws:iam::000000000000:role/relay-publisher";
const BUCKET: &str = "events";

/// A relay that publishes with a role.
fn with_role(world: &World, to: &str) -> Command {
    let mut command = world.relay(to);
    command.arg("run").env("RELAY_ROLE_ARN", ROLE).env("RELAY_ROLE_EXTERNAL_ID", "shop");
    command.env("RELAY_CLAIM_CHECK_BUCKET", BUCKET);
    command
}

async fn insert(client: &tokio_postgres::Client, version: i64, bytes: usize) -> Result<()> {
    let data = format!("{{\"x\":\"{}\"}}", "x".repeat(bytes));
    client.execute(INSERT, &[&"o", &version, &"order.created", &data]).await?;
    Ok(())
}

/// The access keys of the requests that were let in, but for those that took on the role.
fn keys(state: &State) -> Vec<&str> {
    let own = |key: &&str| key.starts_with("ASIA");
    state.access_keys.iter().map(String::as_str).filter(own).collect()
}

async fn ends_well(relay: &mut Process) -> Result<()> {
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn the_sessions_of_a_role_are_renewed_before_they_end() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    // The SDK renews them five to ten seconds before.
    world.broker.state().session = Some(Duration::from_secs(11));
    let mut relay = world.start(with_role(&world, &topic))?;
    let client = world.client().await?;
    let deadline = Instant::now() + LIMIT;
    let mut version = 0;
    while world.broker.state().sessions.len() < 4 {
        assert!(Instant::now() < deadline, "expected a fourth session");
        version += 1;
        insert(&client, version, 10).await?;
        let count = usize::try_from(version)?;
        world.broker.wait("the event", LIMIT, |s| s.accepted.len() == count).await;
    }
    {
        let state = world.broker.state();
        assert_eq!(state.refused_as_expired, 0, "no request was signed with what had ended");
        assert!(keys(&state).len() >= 3, "{:?}", state.access_keys);
        for session in &state.sessions {
            assert_eq!(
                (session.role.as_str(), session.external_id.as_deref()),
                (ROLE, Some("shop"))
            );
            assert_eq!(session.name, relay::publish::PRODUCT);
            assert_eq!(session.by, "local", "the chain's own credentials take it on");
        }
        let versions: Vec<_> =
            state.accepted.iter().map(|a| member(a, "aggregate_version")).collect();
        assert_eq!(versions, (1..=version).collect::<Vec<_>>());
    }
    ends_well(&mut relay).await
}

#[tokio::test]
async fn credentials_that_are_refused_are_asked_for_anew_and_nothing_is_lost() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    world.broker.bucket(BUCKET);
    let mut relay = world.start(with_role(&world, &topic))?;
    let client = world.client().await?;
    // A small one, a large one and a small one with each session, which is then revoked.
    for round in 0..3_i64 {
        for (version, bytes) in (round * 3 + 1..).zip([10, 400_000, 10]) {
            insert(&client, version, bytes).await?;
        }
        let count = usize::try_from(round * 3 + 3)?;
        world.broker.wait("the events", LIMIT, |s| s.accepted.len() == count).await;
        let mut state = world.broker.state();
        let known: Vec<String> = state.sessions.iter().map(|s| s.access_key.clone()).collect();
        state.expired_keys.extend(known);
    }
    {
        let state = world.broker.state();
        assert!(state.refused_as_expired >= 2, "the broker refused what was revoked");
        assert!(keys(&state).len() >= 3, "{:?}", state.access_keys);
        assert_eq!(state.buckets[BUCKET].len(), 3);
        assert_eq!(state.violations, Vec::<String>::new());
        for accepted in &state.accepted {
            assert!(accepted.delivered, "nothing was accepted twice");
        }
    }
    world.until(&client, "select count(*) = 0 from relay.dead_letter").await?;
    ends_well(&mut relay).await
}

#[tokio::test]
async fn each_service_has_the_endpoint_that_is_set_for_it_and_is_told_the_product() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let [sqs, s3, sts] = [(); 3].map(|()| Broker::start());
    drop(sqs.queue("customers.fifo"));
    s3.bucket(BUCKET);
    let queue = "arn:aws:sqs:us-east-1:000000000000:customers.fifo";
    let mut command = with_role(&world, &topic);
    command.env("RELAY_ROUTES", format!("customer={queue}"));
    // No one answers there.
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    for (service, broker) in [("SNS", &world.broker), ("SQS", &sqs), ("S3", &s3), ("STS", &sts)] {
        command.env(format!("AWS_ENDPOINT_URL_{service}"), broker.endpoint());
    }
    let mut relay = world.start(command)?;
    let client = world.client().await?;
    insert(&client, 1, 400_000).await?;
    client
        .execute(
            "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
             values ('customer', 'c', 'customer.made', '{}')",
            &[],
        )
        .await?;
    world.broker.wait("the order", LIMIT, |s| s.accepted.len() == 1).await;
    sqs.wait("the customer", LIMIT, |s| s.accepted.len() == 1).await;
    assert_eq!((s3.state().puts, sts.state().sessions.is_empty()), (1, false));
    for (broker, service) in
        [(&world.broker, "api/sns/"), (&sqs, "api/sqs/"), (&s3, "app/"), (&sts, "api/sts/")]
    {
        let agents = broker.state().user_agents.clone();
        let product = format!("app/{}", relay::publish::PRODUCT);
        assert!(!agents.is_empty());
        for agent in agents {
            assert!(agent.contains(&product) && agent.contains(service), "{agent}");
        }
    }
    ends_well(&mut relay).await
}
