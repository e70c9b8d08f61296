//! A replication session, tried: what `relay check` and `relay init` know only by having one.

use super::{Finding, Problem, SlotState};
use crate::wire::{Session, WireError};
use dsn::Dsn;
use std::time::Duration;

/// So long the log behind the slot is read to see whether it can be.
const PATIENCE: Duration = Duration::from_secs(3);

/// The server opens a replication session for this role: there is no pooler between, the role may
/// replicate, and a wal sender is free.
///
/// # Errors
/// When it does not.
pub async fn session(dsn: &Dsn) -> Finding {
    match Session::identify_server(dsn).await {
        Ok(identity) => Ok(format!(
            "a replication session was opened (system {}, timeline {})",
            identity.system_id, identity.timeline
        )),
        Err(error) => {
            Err(Problem::of_session("expected a replication session, found none", &error))
        }
    }
}

/// The log behind the slot can be read: it is read for a moment, and nothing is confirmed. A slot
/// that is in use is not touched.
///
/// # Errors
/// When it cannot.
pub async fn readable(dsn: &Dsn, state: &SlotState, slot: &str, publication: &str) -> Finding {
    if state.active_pid.is_some() {
        return Ok("not tried, because the slot is in use".to_owned());
    }
    match Session::try_out(dsn, slot, publication, PATIENCE).await {
        Ok(true) => Ok(format!("the log behind the slot {slot} was read to its end")),
        Ok(false) => Ok(format!(
            "the log behind the slot {slot} was read for {} s, not to its end",
            PATIENCE.as_secs()
        )),
        // A relay that starts meanwhile.
        Err(WireError::SlotInUse { .. }) => Ok("not tried, because the slot is in use".to_owned()),
        Err(WireError::Server(said)) if said.code == "42704" => Err(Problem::new(
            format!(
                "expected log behind the slot {slot} that can be read with the publication {publication}, found: {said}: changes were written while that publication was not there, and this server cannot read past them"
            ),
            "run `relay drop --yes` and `relay init`, which makes the slot after its publication; rows that were not published still stand in relay.outbox, but what relay.emit and captured tables wrote since the confirmed position is not sent",
        )),
        Err(error) => Err(Problem::of_session(
            &format!("expected log behind the slot {slot} that can be read, found that it cannot"),
            &error,
        )),
    }
}
