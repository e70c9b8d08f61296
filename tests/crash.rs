//! Killed, stopped, cut off: nothing is lost, and the read model is exact.

use crate::harness::{INSERT, LIMIT, World, member};
use crate::ordering::out_of_order;
use anyhow::Result;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use consumer::host::poll;
use local::orders::{SHOP, Workload, Written, write};
use local::stack::ORDER_SUMMARY;
use local::verdict::judge;
use order_summary::OrderSummary;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tests::broker::Fault;
use tokio::io::AsyncReadExt as _;

pub(crate) fn sqs(endpoint: &str) -> aws_sdk_sqs::Client {
    let tls = aws_smithy_http_client::tls::Provider::Rustls(
        aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
    );
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().tls_provider(tls).build_https())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("local", "local", None, None, "test"))
        .build();
    aws_sdk_sqs::Client::from_conf(config)
}

/// Ten kills at random moments of the load. `RELAY_KILL_SEED` replays a run.
#[tokio::test]
async fn ten_kills_in_the_middle_of_the_load_lose_nothing_and_leave_the_read_model_exact()
-> Result<()> {
    let seed = std::env::var("RELAY_KILL_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("RELAY_KILL_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    // The position is reported every 50 ms, so that a wrong one would do its harm.
    let world = World::bare(&[("wal_sender_timeout", "200ms")]).await?;
    assert!(world.relay("").arg("init").output()?.status.success());
    let shop = world.client().await?;
    shop.batch_execute(SHOP).await?;
    let read_model_database = world.postgres.create_database().await?;
    let read_model_url = world.postgres.url(&read_model_database);
    assert!(
        world
            .relay("")
            .args(["init", "--read-model"])
            .env("READ_MODEL_URL", &read_model_url)
            .output()?
            .status
            .success()
    );
    let read_model = world.postgres.connect(&read_model_database).await?;
    read_model.batch_execute(ORDER_SUMMARY).await?;
    let topic = world.broker.topic("orders.fifo");
    let queue = world.broker.queue("summary.fifo");
    world.broker.subscribe(&topic, "summary.fifo");
    // The broker lets repeats through: the inbox alone must tell them.
    world.broker.change(&topic, |t| t.deduplicates = false);

    // Some requests are slow, refused or cut, so that there is always something in flight.
    world.broker.misbehave(seed, 20);

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let consuming = tokio::spawn({
        let (client, dsn) = (sqs(world.broker.endpoint()), read_model_url.parse::<dsn::Dsn>()?);
        async move {
            poll::run(OrderSummary, &dsn, &client, &queue, 3, async {
                drop(stopped.await);
            })
            .await;
        }
    });
    let written = Arc::new(Written::default());
    let workload = Workload {
        url: world.postgres.url(&world.database),
        connections: 8,
        orders: 1_000_000,
        customers: 0,
        time: None,
        seed,
        pause: Duration::from_millis(8),
        most_behind: u64::MAX,
    };
    let writing = tokio::spawn({
        let written = Arc::clone(&written);
        async move { write(&workload, written).await }
    });
    for _ in 0..10 {
        let before = world.broker.state().accepted.len();
        let mut relay = world.run(&topic).await?;
        // A random moment, told by what has happened and not by a clock.
        let more = rng.usize(1..200);
        world.broker.wait("more events", LIMIT, |s| s.accepted.len() >= before + more).await;
        relay.kill();
    }
    // No new orders: those that were begun come to their end.
    written.orders.store(2_000_000, Ordering::Relaxed);
    writing.await??;
    let mut relay = world.run(&topic).await?;
    let committed = usize::try_from(written.committed.load(Ordering::Relaxed))?;
    world
        .broker
        .wait("every event", LIMIT, |s| {
            s.accepted.iter().map(|a| &a.entry.deduplication).collect::<HashSet<_>>().len()
                == committed
        })
        .await;
    world.broker.wait("an empty queue", LIMIT, |s| s.is_drained("summary.fifo")).await;
    assert!(relay.terminate(LIMIT).await?.success());
    let _ = stop.send(());
    consuming.await?;

    let verdict = judge(&shop, &read_model).await?;
    assert!(verdict.is_yes(), "{verdict}");
    let state = world.broker.state();
    println!("{committed} events, {} accepted", state.accepted.len());
    // Two entries of a key may be in flight here: one of them is a dead process's.
    assert_eq!(out_of_order(&state), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_confirms_it() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    world.broker.script([Fault::Slow(Duration::from_millis(1500))]);
    let client = world.client().await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the request", LIMIT, |s| s.requests == 1).await;
    assert!(relay.terminate(LIMIT).await?.success(), "{}", relay.log());
    assert_eq!(world.broker.state().accepted.len(), 1);
    // Confirmed: the next relay has nothing to send again.
    client.execute(INSERT, &[&"p", &1_i64, &"order.created", &"{}"]).await?;
    let _relay = world.run(&topic).await?;
    world.broker.wait("the next event", LIMIT, |s| s.accepted.len() >= 2).await;
    let state = world.broker.state();
    let keys: Vec<_> = state.accepted.iter().map(|a| member(a, "aggregate_id")).collect();
    assert_eq!(keys, ["o", "p"]);
    Ok(())
}

#[tokio::test]
async fn an_event_is_confirmed_only_once_the_broker_has_it() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    let client = world.client().await?;
    // The first event hangs while later ones of other keys are accepted.
    world.broker.script([Fault::Hang(Duration::from_secs(60))]);
    client.execute(INSERT, &[&"first", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the request that hangs", LIMIT, |s| s.requests == 1).await;
    for n in 0..20_i64 {
        client.execute(INSERT, &[&format!("later{n}"), &1_i64, &"order.created", &"{}"]).await?;
    }
    world.broker.wait("the later ones", LIMIT, |s| s.accepted.len() == 20).await;
    // A report of the position that was sent after all that, then the crash.
    let now: String = client.query_one("select clock_timestamp()::text", &[]).await?.get(0);
    let reported =
        format!("select coalesce(max(reply_time) > '{now}', false) from pg_stat_replication");
    world.until(&client, &reported).await?;
    relay.kill();
    let _relay = world.run(&topic).await?;
    world
        .broker
        .wait("the first event", LIMIT, |s| {
            s.accepted.iter().any(|a| a.entry.group.as_deref() == Some("/order/first"))
        })
        .await;
    Ok(())
}

#[tokio::test]
async fn a_postgres_that_crashes_and_comes_back_is_read_on() -> Result<()> {
    let mut world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    for round in 1..=3_i64 {
        let client = world.client().await?;
        client.execute(INSERT, &[&"o", &round, &"order.created", &"{}"]).await?;
        world
            .broker
            .wait("the event", LIMIT, |s| {
                s.accepted.iter().any(|a| member(a, "aggregate_version") == round)
            })
            .await;
        drop(client);
        world.postgres.crash().await?;
        relay.said("the connection to Postgres is lost", LIMIT).await?;
        world.postgres.restart().await?;
    }
    let client = world.client().await?;
    client.execute(INSERT, &[&"o", &4_i64, &"order.created", &"{}"]).await?;
    world
        .broker
        .wait("the last event", LIMIT, |s| {
            s.accepted.iter().any(|a| member(a, "aggregate_version") == 4)
        })
        .await;
    // This process knows what it had accepted, and sends none of it again.
    assert_eq!(world.broker.state().accepted.len(), 4);
    Ok(())
}

/// A way to the server whose connections are cut after so many bytes of answers, one after the
/// other; those that come later hold.
async fn cut_after(server: u16, cuts: Vec<u64>) -> Result<u16> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        let mut cuts = cuts.into_iter();
        while let Ok((client, _)) = listener.accept().await {
            let most = cuts.next().unwrap_or(u64::MAX);
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", server)).await?;
                let (mut questions, mut to_client) = client.into_split();
                let (answers, mut to_server) = server.into_split();
                let mut answers = answers.take(most);
                // Whichever ends first ends both.
                tokio::select! {
                    copied = tokio::io::copy(&mut questions, &mut to_server) => copied,
                    copied = tokio::io::copy(&mut answers, &mut to_client) => copied,
                }
            });
        }
    });
    Ok(port)
}

#[tokio::test]
async fn a_connection_that_is_lost_at_any_point_of_the_start_is_made_again() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    world.client().await?.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    let cuts = (1..=8).map(|n| n * 330).collect();
    let way = cut_after(world.postgres.port(), cuts).await?;
    let url = world.postgres.url(&world.database);
    let url = url.replace(&format!(":{}/", world.postgres.port()), &format!(":{way}/"));
    let mut command = world.relay(&topic);
    command.arg("run").env("DATABASE_URL", url);
    let mut relay = world.start(command)?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    assert!(relay.is_running(), "{}", relay.log());
    assert!(relay.log().contains("trying again"), "{}", relay.log());
    Ok(())
}
