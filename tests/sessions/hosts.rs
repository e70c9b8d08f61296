//! Several hosts: each has its turn and its time.

use super::{both_refused, open, refusals};
use crate::harness::{LIMIT, World};
use anyhow::{Result, bail, ensure};
use dsn::Dsn;
use local::postgres::Postgres;
use relay::wire::Session;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// A port where nothing listens.
fn closed_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Sets a server to read only, and waits until its new sessions are.
async fn take_no_writes(server: &Postgres) -> Result<()> {
    let client = server.connect("postgres").await?;
    client.batch_execute("alter system set default_transaction_read_only = on").await?;
    client.batch_execute("select pg_reload_conf()").await?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let client = server.connect("postgres").await?;
        let row = client.query_one("show default_transaction_read_only", &[]).await?;
        if row.get::<_, &str>(0) == "on" {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the server takes writes still");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_found() -> Result<()> {
    let world = World::new().await?;
    let read_only = Postgres::start(&[]).await?;
    let client = read_only.connect("postgres").await?;
    client.batch_execute(&format!("create database {}", world.database)).await?;
    take_no_writes(&read_only).await?;
    // One that refuses, one that accepts and says nothing, one that does not know the
    // password, one that takes no writes; then the one that is meant.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let stranger = Postgres::start(&[]).await?;
    let client = stranger.connect("postgres").await?;
    client.batch_execute("alter role postgres password 'another'").await?;
    let ports = [
        closed_port()?,
        silent.local_addr()?.port(),
        stranger.port(),
        read_only.port(),
        world.postgres.port(),
    ];
    let string = |ports: &[u16]| {
        let hosts = vec!["127.0.0.1"; ports.len()].join(",");
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        format!(
            "host={hosts} port={ports} user=postgres password=postgres dbname={} connect_timeout=1",
            world.database
        )
    };
    let dsn: Dsn = string(&ports).parse()?;
    let began = Instant::now();
    let (client, _driver) = dsn.connect("test").await?;
    let ordinary = began.elapsed();
    let row = client.query_one("select inet_server_port()", &[]).await?;
    assert_eq!(row.get::<_, i32>(0), i32::from(world.postgres.port()));
    let began = Instant::now();
    let (_session, identity) = Session::start(&dsn, "relay", "relay").await?;
    println!("found after {ordinary:?}, {:?}", began.elapsed());
    let row =
        client.query_one("select system_identifier::text from pg_control_system()", &[]).await?;
    assert_eq!(identity.system_id, row.get::<_, String>(0));

    let (without, _) = ports.split_at(4);
    for said in refusals(&string(without)).await? {
        for reason in ["refused", "within 1 s", "password authentication failed", "read-only"] {
            ensure!(said.contains(reason), "expected {reason} in {said}");
        }
        for port in without {
            ensure!(said.contains(&format!("127.0.0.1:{port}")), "expected {port} in {said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_primary_that_takes_no_writes_is_a_primary() -> Result<()> {
    let world = World::new().await?;
    take_no_writes(&world.postgres).await?;
    let string = |wanted: &str| format!("{}?{wanted}", world.postgres.url(&world.database));
    let wanted = string("target_session_attrs=read-write");
    both_refused(&wanted, &["found it read-only"]).await?;
    let error = wanted.parse::<Dsn>()?.connect("test").await.map(drop).unwrap_err();
    assert!(error.is_transient(), "a standby may become the primary: {error}");
    for wanted in ["", "target_session_attrs=any", "target_session_attrs=primary"] {
        open(&string(wanted).parse()?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let port = silent.local_addr()?.port();
    let began = Instant::now();
    let string = format!("postgres://u:secret@127.0.0.1:{port}/d?connect_timeout=1");
    both_refused(&string, &["no answer within 1 s"]).await?;
    let took = began.elapsed();
    assert!((2..5).contains(&took.as_secs()), "expected a second for each, found {took:?}");
    Ok(())
}

#[tokio::test]
async fn an_address_stands_in_for_a_name() -> Result<()> {
    let world = World::new().await?;
    let (port, database) = (world.postgres.port(), &world.database);
    let rest = format!("port={port} user=postgres password=postgres dbname={database}");
    open(&format!("host=localhost hostaddr=127.0.0.1 {rest}").parse()?).await?;
    let unknown = format!("host=no-such-host.invalid {rest}");
    both_refused(&unknown, &["no address for the host"]).await
}
