//! The upkeep of the outbox: its partitions made ahead, emptied and dropped behind.
//!
//! Knows: `relay.maintain_outbox`, one step a call. Must not know: what a step does.

use dsn::Dsn;
use relay::condition::{Condition, Conditions};
use relay::config::Outbox;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

/// Between two looks. A drop is tried once at each: an insert may wait for it.
const EVERY: Duration = Duration::from_secs(60);

/// So many steps at one look: a default partition of a million rows is deleted in a few of them.
const STEPS: u32 = 200;

/// How long a look may take, so that a server that swallows packets does not end the upkeep.
const LIMIT: Duration = Duration::from_secs(300);

/// Rows of today in the default partition: by its key, whose first column is the time.
const TODAY_IN_DEFAULT: &str = "select exists (
    select from relay.outbox_default as d
    where d.recorded_at >= pg_catalog.date_trunc('day', pg_catalog.now(), 'UTC'))";

/// Looks after the outbox until it is aborted.
pub(crate) async fn run(
    dsn: Dsn,
    outbox: Outbox,
    confirmed: Arc<AtomicI64>,
    conditions: Conditions,
) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut left = BTreeSet::new();
    loop {
        every.tick().await;
        let look = look(&dsn, &outbox, confirmed.load(Ordering::Relaxed), &mut left);
        let failed = match tokio::time::timeout(LIMIT, look).await {
            Ok(Ok(true)) => {
                conditions.set(
                    "default-partition",
                    "relay.outbox_default",
                    Condition::notice(
                        "expected a partition of relay.outbox for today, found none: its rows are in relay.outbox_default, where deleting them costs more than dropping a partition",
                        "look in the log for what the upkeep left undone; a day without rows there gets its partition by itself",
                    ),
                );
                None
            }
            Ok(Ok(false)) => {
                conditions.clear("default-partition", "relay.outbox_default");
                None
            }
            Ok(Err(error)) => Some(dsn::causes(error.as_ref())),
            Err(_) => Some(format!("no answer within {} s", LIMIT.as_secs())),
        };
        match failed {
            None => conditions.clear("upkeep", "relay.outbox"),
            Some(error) => conditions.set(
                "upkeep",
                "relay.outbox",
                Condition::notice(
                    format!("the partitions of relay.outbox cannot be looked after: {error}"),
                    "let the relay's role own relay.outbox, or let its owner run `select * from relay.maintain_outbox()` every minute; until then the default partition takes the rows",
                ),
            ),
        }
    }
}

/// Does what there is to do, and says whether rows of today are in the default partition.
async fn look(
    dsn: &Dsn,
    outbox: &Outbox,
    confirmed: i64,
    left: &mut BTreeSet<String>,
) -> anyhow::Result<bool> {
    let (client, driver) = dsn.connect("relay maintenance").await?;
    let mut left_now = BTreeSet::new();
    let mut steps = 0;
    while steps < STEPS && step(&client, outbox, confirmed, &mut left_now).await? {
        steps += 1;
    }
    // Once, not every minute.
    for what in left_now.difference(left) {
        tracing::warn!("outbox: {what}");
    }
    *left = left_now;
    let row = client.query_one(TODAY_IN_DEFAULT, &[]).await?;
    drop(client);
    driver.abort();
    Ok(row.get(0))
}

/// Does one step, in a transaction of its own; says whether there may be another.
async fn step(
    client: &Client,
    outbox: &Outbox,
    confirmed: i64,
    left: &mut BTreeSet<String>,
) -> Result<bool, tokio_postgres::Error> {
    // Nothing confirmed yet by this process: nothing is dropped.
    let confirmed = (confirmed != 0).then_some(confirmed);
    let keep = i64::try_from(outbox.keep.as_secs()).unwrap_or(i64::MAX);
    // What could not be had is asked for once at a look, and not between any two deletes: an insert
    // into the default partition waits for a partition that is attached.
    let ahead = if left.is_empty() { i32::from(outbox.partitions_ahead) } else { -1 };
    let rows = client
        .query(
            "select step, what from relay.maintain_outbox($1, $2::bigint * interval '1 second',
                timestamptz '2000-01-01 00:00:00+00' + $3::bigint * interval '1 microsecond')",
            &[&ahead, &keep, &confirmed],
        )
        .await?;
    let mut more = false;
    for row in &rows {
        let (step, what): (&str, &str) = (row.get(0), row.get(1));
        match step {
            "left" => {
                left.insert(what.to_owned());
            }
            _ => tracing::info!("outbox: {what}"),
        }
        more |= matches!(step, "create" | "empty" | "delete");
    }
    Ok(more)
}
