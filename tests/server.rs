//! A server that changes, refuses or stops under a running relay.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::{Context as _, Result, ensure};
use local::postgres::Postgres;
use local::process::{Process, send};
use std::time::{Duration, Instant};
use tests::broker::{Fault, State};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Waits until `relay status` says this; returns its exit code.
async fn status_says(world: &World, wanted: &str) -> Result<Option<i32>> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = world.relay("").arg("status").output()?;
        if text(&status).contains(wanted) {
            return Ok(status.status.code());
        }
        ensure!(Instant::now() < deadline, "expected {wanted:?}, found:\n{}", text(&status));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn run_with_tables(world: &World, topic: &str) -> Result<Process> {
    let mut command = world.relay(topic);
    command.arg("run").env("RELAY_TABLES", "public.customers");
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    Ok(relay)
}

#[tokio::test]
async fn what_a_running_relay_reads_is_watched() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute("create table customers (id int primary key)").await?;
    let init = world.relay("").arg("init").env("RELAY_TABLES", "public.customers").output()?;
    ensure!(init.status.success(), "{}", text(&init));
    let topic = world.broker.topic("orders.fifo");
    let mut relay = run_with_tables(&world, &topic).await?;

    // A renamed table goes on to be captured, before and after its first change, and it is said.
    client
        .batch_execute("alter table customers rename to clients; insert into clients values (1)")
        .await?;
    world.broker.wait("the change", LIMIT, |s| s.accepted.len() == 1).await;
    ensure!(world.broker.state().accepted[0].entry.body.contains("customers.created"));
    assert_eq!(status_says(&world, "renamed to public.clients").await?, Some(1));
    client
        .batch_execute("alter table clients rename to customers; insert into customers values (2)")
        .await?;
    world.broker.wait("the next change", LIMIT, |s| s.accepted.len() == 2).await;

    // What is no longer published is being lost, and that is said. A name that resembles the
    // outbox's is not the outbox.
    client
        .batch_execute(
            "create table relay.outbox_archive (id int primary key);
             alter publication relay add table relay.outbox_archive;
             alter publication relay drop table relay.outbox, customers",
        )
        .await?;
    assert_eq!(status_says(&world, "Changes are being lost: ").await?, Some(1));
    relay.said("ADD TABLE relay.outbox", LIMIT).await?;
    relay.said("expected the table public.customers in the publication", LIMIT).await?;
    client.batch_execute("alter publication relay add table relay.outbox, customers").await?;
    assert_eq!(status_says(&world, "\nEvents flow.").await?, Some(0));
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

/// Starts a relay that captures customers and listens; the address is where it does.
async fn run_and_listen(world: &World, topic: &str) -> Result<(Process, String)> {
    let mut command = world.relay(topic);
    command.arg("run").env("RELAY_TABLES", "public.customers").env("RELAY_LISTEN", "127.0.0.1:0");
    let mut relay = world.start(command)?;
    relay.said("/metrics", LIMIT).await?;
    let log = relay.log();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    let address = address.context("no address in the log")?.to_owned();
    relay.said("streaming", LIMIT).await?;
    Ok((relay, address))
}

/// Waits until `/ready` answers with this status and these words.
async fn ready_says(address: &str, status: &str, words: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request =
            format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        if answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "expected {status} {words:?}, found {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_filter_or_a_list_put_on_while_it_runs_is_losing_and_a_renamed_outbox_is_at_risk()
-> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client
        .batch_execute("create table customers (id int primary key, name text, note text)")
        .await?;
    let init = world.relay("").arg("init").env("RELAY_TABLES", "public.customers").output()?;
    ensure!(init.status.success(), "{}", text(&init));
    let sql = "select current_setting('server_version_num')::int / 10000";
    let version: i32 = client.query_one(sql, &[]).await?.get(0);
    let topic = world.broker.topic("orders.fifo");
    // What is there from the start is meant.
    let narrow = |lists: &str| {
        format!(
            "alter publication relay drop table customers, relay.outbox; alter publication relay add table {lists}"
        )
    };
    if version >= 15 {
        client.batch_execute(&narrow("customers where (id < 100), relay.outbox")).await?;
    }
    let (mut relay, address) = run_and_listen(&world, &topic).await?;
    ready_says(&address, "200", "").await?;

    // Read by its oid, every event of the renamed outbox comes.
    client
        .batch_execute("alter table relay.outbox rename to letters; insert into relay.letters (aggregate_type, aggregate_id, event_type, data) values ('order', 'o', 'order.created', '{}')")
        .await?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    let renamed = "expected the table relay.outbox, found it renamed to relay.letters";
    ready_says(&address, "503", renamed).await?;
    let at_risk = format!("Events flow until the next session: {renamed}");
    assert_eq!(status_says(&world, &at_risk).await?, Some(1));
    let worst = "select not exists (select from relay.condition where severity <> 'at-risk')";
    ensure!(client.query_one(worst, &[]).await?.get::<_, bool>(0));
    client.batch_execute("alter table relay.letters rename to outbox").await?;
    if version < 15 {
        println!("skipped: filters and lists are of 15 and later");
        ready_says(&address, "200", "").await?;
        assert!(relay.terminate(LIMIT).await?.success());
        return Ok(());
    }
    // Each is told, with its cure.
    let narrowed = "customers (id, name) where (id < 50), relay.outbox where (tenant_id is null)";
    client.batch_execute(&narrow(narrowed)).await?;
    ready_says(&address, "503", "as it did when this relay began").await?;
    let told = "select count(*) = 2 from relay.condition where kind = 'narrowed' and severity = 'losing' and cure like '%DROP TABLE%'
        and (subject = 'public.customers' and found like '%only rows come for which (id < 50), and the columns note are not sent any more'
          or subject = 'relay.outbox' and found like '%only rows come for which (tenant_id IS NULL)')";
    world.until(&client, told).await?;
    assert_eq!(status_says(&world, "Changes are being lost: ").await?, Some(1));
    // No longer published at all.
    client.batch_execute("alter publication relay drop table customers").await?;
    ready_says(&address, "503", "ADD TABLE").await?;
    client.batch_execute("alter publication relay add table customers").await?;
    client.batch_execute(&narrow("customers where (id < 100), relay.outbox")).await?;
    ready_says(&address, "200", "").await?;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_stream_that_the_server_ends_at_once_is_said_with_its_cure_and_does_not_spin()
-> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let sql = "select current_setting('server_version_num')::int / 10000";
    if client.query_one(sql, &[]).await?.get::<_, i32>(0) >= 18 {
        println!("skipped: from 18 on a publication that was not there is passed over");
        return Ok(());
    }
    // A slot that is older than its publication.
    client.batch_execute("drop publication relay").await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    // It makes the publication, and says that the slot cannot be read behind it.
    let init = world.relay("").arg("init").output()?;
    ensure!(!init.status.success() && text(&init).contains("relay drop --yes"), "{}", text(&init));
    let dsn: dsn::Dsn = world.postgres.url(&world.database).parse()?;
    let patience = Duration::from_secs(10);
    let probe = relay::wire::Session::try_out(&dsn, "relay", "relay", patience).await.unwrap_err();
    ensure!(probe.to_string().contains("42704"), "{probe}");
    let topic = world.broker.topic("orders.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_LOG", "relay=debug");
    let mut relay = world.start(command)?;
    relay.said("relay drop --yes", LIMIT).await?;
    assert_eq!(status_says(&world, "Nothing flows: expected events from the slot").await?, Some(1));
    // Each session fails after it was opened, and none begins the waits anew.
    relay.said("failures=6", LIMIT).await?;
    let first = relay.log().lines().filter(|line| line.contains("failures=1 ")).count();
    ensure!(
        first == 1,
        "expected waits that grow, found {first} that begin anew:\n{}",
        relay.log()
    );
    assert!(relay.terminate(LIMIT).await?.success());
    // The cure.
    assert!(world.relay("").args(["drop", "--yes"]).output()?.status.success());
    assert!(world.relay("").arg("init").output()?.status.success());
    let _relay = world.run(&topic).await?;
    client.execute(INSERT, &[&"o", &2_i64, &"order.paid", &"{}"]).await?;
    world.broker.wait("an event", LIMIT, |s| s.accepted.len() == 1).await;
    assert_eq!(status_says(&world, "\nEvents flow.").await?, Some(0));
    Ok(())
}

/// Stops the server in order while an event cannot be sent; says how long it took.
async fn stop(postgres: &mut Postgres) -> Result<Duration> {
    let began = Instant::now();
    tokio::time::timeout(Duration::from_secs(10), postgres.stop()).await??;
    Ok(began.elapsed())
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_the_broker() -> Result<()> {
    let mut world = World::bare(&[]).await?;
    let standby = world.postgres.standby().await?;
    assert!(world.relay("").arg("init").output()?.status.success());
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    world.broker.script((0..200).map(|_| Fault::ServerError));
    let client = world.client().await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("a request", LIMIT, |s| s.requests > 0).await;
    drop(client);
    println!("stopped after {:?}", stop(&mut world.postgres).await?);
    relay.said("its session is given back", LIMIT).await?;
    // The standby has all of it, and becomes the primary.
    let there = standby.connect(&world.database).await?;
    ensure!(there.query_one("select pg_promote()", &[]).await?.get::<_, bool>(0));
    ensure!(there.query_one("select count(*) from relay.outbox", &[]).await?.get::<_, i64>(0) == 1);
    // And the old one, started again, sends the event once the broker takes it.
    world.postgres.restart().await?;
    world.broker.calm();
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_server_that_waits_for_its_clients_is_held_by_no_connection_of_the_relay() -> Result<()> {
    let mut world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_HEARTBEAT", "1s");
    let mut relay = world.start(command)?;
    let client = world.client().await?;
    let large = format!("\"{}\"", "x".repeat(400_000));
    client.execute(INSERT, &[&"large", &1_i64, &"order.created", &large]).await?;
    let kept = "select (select count(*) = 1 from relay.dead_letter)
          and exists (select from pg_stat_activity where application_name = 'relay alive relay')
          and exists (select from pg_stat_activity where application_name = 'relay heartbeat')";
    world.until(&client, kept).await?;
    let before = world.broker.state().requests;
    world.broker.script((0..200).map(|_| Fault::ServerError));
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("a request", LIMIT, |s| s.requests > before).await;
    drop(client);
    world.postgres.stop_smart().await?;
    ensure!(relay.is_running() && relay.log().contains("its session is given back"));
    world.postgres.restart().await?;
    world.broker.calm();
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

/// A process that does not run, until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn new(pid: i32) -> Self {
        send("STOP", &pid.to_string());
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        send("CONT", &self.0.to_string());
    }
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_no_relay_that_is_to_end() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut relay = world.run(&topic).await?;
    let client = world.client().await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    let sender = client.query_one("select pid from pg_stat_replication", &[]).await?.get(0);
    let stopped = Stopped::new(sender);
    let ended = relay.terminate(LIMIT).await?;
    ensure!(ended.success() && relay.log().contains("may be sent again"), "{}", relay.log());
    drop(stopped);
    // The slot is free again, and nothing is lost.
    client.execute(INSERT, &[&"o", &2_i64, &"order.paid", &"{}"]).await?;
    let _relay = world.run(&topic).await?;
    let wait = |s: &State| s.accepted.iter().any(|a| a.entry.body.contains("order.paid"));
    world.broker.wait("the last event", LIMIT, wait).await;
    Ok(())
}

#[tokio::test]
async fn a_heartbeat_whose_idle_connection_is_ended_is_written_without_a_warning() -> Result<()> {
    let world = World::bare(&[("idle_session_timeout", "200ms")]).await?;
    assert!(world.relay("").arg("init").output()?.status.success());
    let topic = world.broker.topic("orders.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_HEARTBEAT", "500ms");
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    let client = world.client().await?;
    let ended =
        "select sessions_fatal >= 8 from pg_stat_database where datname = current_database()";
    world.until(&client, ended).await?;
    ensure!(!relay.log().contains("heartbeat failed"), "{}", relay.log());
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}
