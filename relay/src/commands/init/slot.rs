//! The slot: made last, adopted where it is there, tried at the end.

use super::waiting::Waiting;
use crate::out::out;
use anyhow::bail;
use dsn::Dsn;
use relay::slot::{Preconditions, Problem, SlotState, readable};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How often a slot that another session makes is looked at.
const EVERY: Duration = Duration::from_millis(250);

/// Prints the statement that makes it, where it is not there.
pub(super) async fn plan(client: &Client, name: &str, failover: bool) -> anyhow::Result<()> {
    match SlotState::read(client, name).await? {
        Some(state) => out!("-- ok    {}", state.judge(name)?),
        None => out!("{};", creation(failover).replace("$1", &format!("'{name}'"))),
    }
    Ok(())
}

fn creation(failover: bool) -> &'static str {
    // Not temporary, without two-phase commits.
    if failover {
        "select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)"
    } else {
        "select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')"
    }
}

pub(super) async fn make(
    dsn: &Dsn,
    client: &Client,
    wanted: &Preconditions<'_>,
    failover: bool,
) -> anyhow::Result<()> {
    let name = wanted.slot;
    let waiting = Waiting::new(dsn, "the slot");
    let mut made_anew = false;
    let state = loop {
        match SlotState::read(client, name).await? {
            Some(state) if state.in_the_making(name).is_some() && state.active_pid.is_some() => {
                // Another `relay init`, or one that was killed while it waited.
                wait_for_maker(client, &waiting, name, &state).await?;
            }
            Some(state) => {
                out!("ok    {}", state.judge(name)?);
                relay::history::epoch(client, name, made_anew).await?;
                break state;
            }
            None => {
                create(client, &waiting, name, failover).await?;
                made_anew = true;
            }
        }
    };
    if failover {
        out!("ok    {}", wanted.failover(true).await?);
    }
    out!("ok    {}", readable(dsn, &state, name, wanted.publication).await?);
    Ok(())
}

async fn wait_for_maker(
    client: &Client,
    waiting: &Waiting,
    name: &str,
    state: &SlotState,
) -> anyhow::Result<()> {
    let maker = state.reader.as_deref().unwrap_or("another session");
    out!("wait  the slot {name} is being made by {maker}");
    let done = async {
        loop {
            tokio::time::sleep(EVERY).await;
            let now = SlotState::read(client, name).await?;
            if now.is_none_or(|now| now.in_the_making(name).is_none() || now.active_pid.is_none()) {
                return Ok(());
            }
        }
    };
    tokio::select! {
        done = done => done,
        () = waiting.tell(state.active_pid.unwrap_or_default()) => Ok(()),
    }
}

async fn create(
    client: &Client,
    waiting: &Waiting,
    name: &str,
    failover: bool,
) -> anyhow::Result<()> {
    let about = "select pg_backend_pid(), current_setting('server_version_num')::int >= 170000";
    let about = client.query_one(about, &[]).await?;
    let (process, knows_failover): (i32, bool) = (about.get(0), about.get(1));
    if failover && !knows_failover {
        bail!(
            "expected PostgreSQL 17 or later for postgres.failover, found an earlier one; leave RELAY_FAILOVER out"
        );
    }
    // A server that runs on Linux notices that this process was killed, and gives the slot up.
    let notice = "select set_config('client_connection_check_interval', '1000', false) where version() ~ 'linux'";
    client.batch_execute(notice).await?;
    let create = async { client.query_one(creation(failover), &[&name]).await };
    let made = tokio::select! {
        made = create => made,
        () = waiting.tell(process) => return Ok(()),
    };
    match made {
        Ok(row) => {
            out!("made  slot {name} at {}", row.get::<_, String>(0));
            Ok(())
        }
        // Another `relay init` was first: its slot is looked at.
        Err(error) if error.code() == Some(&SqlState::DUPLICATE_OBJECT) => Ok(()),
        Err(error) => {
            let doing = match waiting.seen().await {
                Some(for_whom) => {
                    format!("the slot {name} cannot be made (it waited for {for_whom})")
                }
                None => format!("the slot {name} cannot be made"),
            };
            let privilege = "run ALTER ROLE … REPLICATION for the role in DATABASE_URL; on RDS and Aurora GRANT rds_replication TO it";
            bail!(Problem::refused_or(&doing, &error, privilege))
        }
    }
}
