//! A sign of life of the relay that reads from a slot, where `relay status` sees it from any host.
//!
//! A statement every few seconds, of a session that is named after the slot: the server notes by
//! its own clock when the last one ended, and shows it to the same role. Nothing is written.

use crate::observe::Pulse;
use dsn::Dsn;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

/// How often there is one.
const EVERY: Duration = Duration::from_secs(5);
/// So long without one means that the relay stands still: told within 30 s.
const STILL: f64 = 20.0;

/// The session's name; the server cuts it as it cuts this.
fn name(slot: &str) -> String {
    format!("relay alive {slot}")
}

/// Gives the signs while the pipeline streams and goes round, for as long as it is polled.
pub async fn run(dsn: Dsn, slot: String, pulse: Arc<Pulse>) {
    let name = name(&slot);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client: Option<Client> = None;
    loop {
        ticks.tick().await;
        if pulse.hangs().is_some() {
            continue;
        }
        if pulse.waits().is_some() {
            // Without a session there is nothing to show, and a server that stops (`smart`) waits
            // for whoever is connected.
            client = None;
            continue;
        }
        let open = match client.take() {
            Some(open) => Ok(open),
            None => dsn.connect(&name).await.map(|(open, _)| open),
        };
        // That Postgres cannot be reached is said by the stream itself.
        if let Ok(open) = open
            && open.batch_execute("select").await.is_ok()
        {
            client = Some(open);
        }
    }
}

/// What to say when the relay that reads from the slot stands still; `None` while it gives signs
/// of life, or where the server shows none of them to this role.
///
/// # Errors
/// When the server does not answer.
pub async fn stands_still(
    client: &Client,
    slot: &str,
) -> Result<Option<String>, tokio_postgres::Error> {
    const SQL: &str = "select extract(epoch from pg_catalog.now() - pg_catalog.max(state_change))::float8
        from pg_catalog.pg_stat_activity
        where application_name = ($1::text)::name::text and datname = pg_catalog.current_database()";
    let age: Option<f64> = client.query_one(SQL, &[&name(slot)]).await?.get(0);
    Ok(age.filter(|age| *age > STILL).map(|age| {
        format!(
            "the relay that reads from the slot {slot} has given no sign of life for {age:.0} s: it is stopped, starved of processor time, or hangs. Look at its process, and restart it"
        )
    }))
}
