//! A sign of life in the log, for a database that seldom writes what is published.

use dsn::{Dsn, Error};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// The prefix of the heartbeat's messages; no one reads them.
pub const PREFIX: &str = "relay.heartbeat";

/// Why a beat was missed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// There is no connection.
    #[error("no connection to write the heartbeat with")]
    Connect(#[from] Error),
    /// The message was not written.
    #[error("the heartbeat's message was not written")]
    Write(#[from] tokio_postgres::Error),
}

/// Writes a message into the log every so often, for as long as it is polled.
///
/// A failure is logged; the next beat tries again, on a new connection.
pub async fn run(dsn: Dsn, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut client = None;
    let mut opened_at = Instant::now();
    loop {
        ticks.tick().await;
        if client.is_none() {
            opened_at = Instant::now();
        }
        if let Err(error) = beat(&dsn, &mut client).await {
            tracing::warn!(
                error = dsn::causes(&error),
                "the heartbeat failed; the next one tries again"
            );
        }
        // A server that stops (`smart`) waits for whoever is connected.
        if every >= SELDOM || opened_at.elapsed() >= SELDOM {
            client = None;
        }
    }
}

/// From this interval on each beat has a connection of its own; below it one is kept for so long.
const SELDOM: Duration = Duration::from_secs(5);

/// A server may end an idle connection (`idle_session_timeout`): then the beat has a new one.
async fn beat(dsn: &Dsn, client: &mut Option<Client>) -> Result<(), HeartbeatError> {
    // Not of a transaction: it is decoded at once, and needs no commit.
    const SQL: &str = "select pg_catalog.pg_logical_emit_message(false, $1, '')";
    if let Some(open) = client.take_if(|open| !open.is_closed())
        && open.execute(SQL, &[&PREFIX]).await.is_ok()
    {
        *client = Some(open);
        return Ok(());
    }
    let open = dsn.connect("relay heartbeat").await?.0;
    open.execute(SQL, &[&PREFIX]).await?;
    *client = Some(open);
    Ok(())
}
