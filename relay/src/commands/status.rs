//! `relay status`: whether events flow, and if not, why and what to do.

use super::source;
use crate::out::{self, out};
use bytesize::ByteSize;
use relay::admin::status::{Slot, Status, Written};
use relay::config::Config;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
  relay status\n  \
  relay status --json | jq .conditions\n\n\
Exit codes: 0 events flow, 1 they do not, or not all, 2 wrong arguments or configuration.")]
pub(crate) struct Arguments {
    /// As a JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let (client, _driver) = dsn.connect("relay status").await?;
    let status = Status::read(&client, &config.postgres.slot).await?;
    if arguments.json {
        out::json(&status)?;
        return Ok(status.well);
    }
    out!("database      {dsn}");
    out!("slot          {}", config.postgres.slot);
    if let Some(slot) = &status.slot {
        print(slot);
    }
    if let Some(dead_letters) = status.dead_letters {
        out!("dead letters  {dead_letters}");
    }
    for Written { kind, subject, severity, since, found, .. } in &status.conditions {
        let subject = if subject.is_empty() { String::new() } else { format!(" {subject}") };
        out!("condition     {severity} since {since}: {kind}{subject}: {found}");
    }
    out!("");
    out!("{}", status.says);
    Ok(status.well)
}

fn print(slot: &Slot) {
    let bytes = |bytes: Option<u64>| ByteSize::b(bytes.unwrap_or(0));
    match (&slot.reader, &slot.reader_state) {
        (None, _) => out!("reader        none"),
        (Some(reader), Some(state)) => out!("reader        {reader}, {state}"),
        (Some(reader), None) => {
            out!("reader        {reader}");
            out!(
                "              its state is shown to members of pg_read_all_stats alone: grant pg_read_all_stats to this role to see it"
            );
        }
    }
    if let (None, Some(since)) = (&slot.reader, &slot.inactive_since) {
        out!("inactive      since {since}");
    }
    let confirmed = slot.confirmed.as_deref().unwrap_or("nothing");
    out!("confirmed     {confirmed} ({} behind)", bytes(slot.behind_bytes));
    let wal_status = slot.wal_status.as_deref().unwrap_or("lost");
    out!("retained      {} of write-ahead log ({wal_status})", bytes(slot.retained_bytes));
    if let Some(safe) = slot.safe_wal_bytes {
        let safe = bytes(u64::try_from(safe).ok());
        out!("safe for      {safe} more (max_slot_wal_keep_size)");
    }
    if let Some(reason) = &slot.invalidation_reason {
        out!("invalidated   {reason}");
    }
    if let Some(failover) = slot.failover {
        out!("failover      {}", if failover { "yes" } else { "no" });
    }
}
