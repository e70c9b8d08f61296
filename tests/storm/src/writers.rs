//! The load: concurrent small transactions with rollbacks and savepoints.

use crate::source::{HOT, KEYS, KINDS};
use anyhow::Result;
use std::time::Duration;
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

const HAPPEN: &str = "select happen($1, $2, $3, $4, $5)";

/// What the writers are to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    Write,
    /// Hold no connection.
    Pause,
    Stop,
}

/// Writes until it is told to stop, through every loss of the server.
pub(crate) async fn write(url: String, seed: u64, mut order: watch::Receiver<Order>) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(seed);
    loop {
        let now = *order.wait_for(|order| *order != Order::Pause).await?;
        if now == Order::Stop {
            return Ok(());
        }
        let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let connection = tokio::spawn(connection);
        let written = write_on(&client, &mut rng, &mut order).await;
        drop(client);
        drop(connection.await);
        written?;
    }
}

/// What became of a transaction.
enum End {
    Done,
    /// The connection is gone, or to be given up.
    Gone,
}

async fn write_on(
    client: &Client,
    rng: &mut fastrand::Rng,
    order: &mut watch::Receiver<Order>,
) -> Result<()> {
    while *order.borrow() == Order::Write {
        match transaction(client, rng).await {
            Ok(End::Done) => {}
            Ok(End::Gone) => return Ok(()),
            Err(error) => match error.code() {
                Some(&SqlState::T_R_DEADLOCK_DETECTED) => {
                    if client.batch_execute("rollback").await.is_err() {
                        return Ok(());
                    }
                }
                // Class 57: the server is stopping, starting, or ends this session.
                Some(code) if !code.code().starts_with("57") => return Err(error.into()),
                _ => return Ok(()),
            },
        }
        let pause = Duration::from_millis(rng.u64(0..20));
        let _ = tokio::time::timeout(pause, order.wait_for(|order| *order != Order::Write)).await;
    }
    Ok(())
}

async fn transaction(
    client: &Client,
    rng: &mut fastrand::Rng,
) -> Result<End, tokio_postgres::Error> {
    client.batch_execute("begin").await?;
    if rng.u8(0..5) == 0 {
        client.batch_execute("set local synchronous_commit = off").await?;
    }
    for _ in 0..rng.u8(1..7) {
        // Of six events one is taken back alone.
        let taken_back = rng.u8(0..6) == 0;
        if taken_back || rng.u8(0..6) == 0 {
            client.batch_execute("savepoint s").await?;
            event(client, rng).await?;
            let end = if taken_back { "rollback to savepoint s" } else { "release savepoint s" };
            client.batch_execute(end).await?;
        } else {
            event(client, rng).await?;
        }
    }
    match rng.u8(0..100) {
        // The client is gone in the middle of it.
        0..2 => return Ok(End::Gone),
        2..17 => client.batch_execute("rollback").await?,
        _ => client.batch_execute("commit").await?,
    }
    Ok(End::Done)
}

async fn event(client: &Client, rng: &mut fastrand::Rng) -> Result<(), tokio_postgres::Error> {
    let kind = KINDS[rng.usize(..KINDS.len())];
    let number = if rng.u8(0..10) < 4 { rng.u64(..HOT) } else { rng.u64(HOT..KEYS) };
    let bytes: i32 = match rng.u16(0..1000) {
        // Over the destinations' limit: a dead letter.
        0..3 => 20_000,
        3..30 => rng.i32(4000..9000),
        _ => rng.i32(0..600),
    };
    let id = uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid();
    let key = format!("k{number}");
    client.execute(HAPPEN, &[&kind, &key, &id, &rng.bool(), &bytes]).await?;
    Ok(())
}

/// So many events in one transaction, over all keys of both kinds in turns; nothing when the
/// server is gone before the commit.
pub(crate) async fn large_transaction(client: &Client, events: u32, rng: &mut fastrand::Rng) {
    // In the order of the keys, which the counters' locks are taken in.
    let happen = "select count(happen(kind, key, gen_random_uuid(), turn % 2 = 0, $2)) from (
        select kind, key, turn from counter, generate_series(1, $1::int) as turn
        order by kind, key, turn
    ) as event";
    let keys = 2 * KEYS;
    let of_each = i32::try_from(u64::from(events) / keys).unwrap_or(1).max(1);
    // With all rows in one lock, taken while it holds none: it waits for no one in a circle.
    if client.batch_execute("begin; lock table counter in exclusive mode").await.is_err() {
        return;
    }
    if client.query_one(happen, &[&of_each, &rng.i32(0..1500)]).await.is_ok() {
        drop(client.batch_execute("commit").await);
    }
}

/// A seed for each writer of a run.
pub(crate) fn seed_of(run: u64, writer: u64) -> u64 {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &[run.to_be_bytes(), writer.to_be_bytes()].concat())
        .as_u64_pair()
        .0
}
