//! `relay status`: whether events flow, and if not, why and what to do.

use super::source;
use anyhow::Context;
use bytesize::ByteSize;
use relay::config::Config;
use relay::slot::{SlotState, Trouble};
use tokio_postgres::Client;

pub(crate) async fn run(config: &Config) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let (client, _driver) = dsn.connect("relay status").await?;
    let name = &config.postgres.slot;
    println!("database      {dsn}");
    println!("slot          {name}");
    let slot = SlotState::read(&client, name).await;
    let Some(slot) = slot.context("the server does not tell the state of the slot")? else {
        println!(
            "\nNothing flows: there is no slot {name}. Run `relay init`, or set RELAY_SLOT to the slot that is there."
        );
        return Ok(false);
    };
    let dead_letters = dead_letters(&client).await?;
    print(&slot);
    println!("dead letters  {dead_letters}");
    let conditions = Written::read(&client, name).await?;
    for condition in &conditions {
        println!("condition     {condition}");
    }
    let (well, sentence) = verdict(&slot, name, dead_letters, &conditions);
    println!("\n{sentence}");
    Ok(well)
}

fn print(slot: &SlotState) {
    let bytes = |bytes: Option<u64>| ByteSize::b(bytes.unwrap_or(0));
    let yes = |flag: Option<bool>| flag.map(|flag| if flag { "yes" } else { "no" });
    println!("reader        {}", slot.reader.as_deref().unwrap_or("none"));
    if let (None, Some(since)) = (&slot.reader, &slot.inactive_since) {
        println!("inactive      since {since}");
    }
    let confirmed = slot.confirmed_flush_lsn.as_deref().unwrap_or("nothing");
    println!("confirmed     {confirmed} ({} behind)", bytes(slot.behind));
    let status = slot.wal_status.as_deref().unwrap_or("lost");
    println!("retained      {} of write-ahead log ({status})", bytes(slot.retained));
    if let Some(safe) = slot.safe_wal_size {
        println!("safe for      {} more (max_slot_wal_keep_size)", bytes(u64::try_from(safe).ok()));
    }
    if let Some(reason) = &slot.invalidation_reason {
        println!("invalidated   {reason}");
    }
    if let Some(kept) = yes(slot.failover) {
        println!("failover      {kept}");
    }
}

async fn dead_letters(client: &Client) -> anyhow::Result<i64> {
    let row = client.query_one("select count(*) from relay.dead_letter", &[]).await;
    Ok(row
        .context("relay.dead_letter cannot be read; run `relay init`, or grant SELECT on it")?
        .get(0))
}

/// A row of `relay.condition`, which the running relay wrote.
struct Written {
    kind: String,
    subject: String,
    severity: String,
    since: String,
    found: String,
    cure: String,
}

impl Written {
    /// The worst first.
    async fn read(client: &Client, slot: &str) -> anyhow::Result<Vec<Self>> {
        const SQL: &str = "
            select kind, subject, severity, to_char(since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS\"Z\"'),
              found, cure
            from relay.condition where slot = $1
            order by array_position(array['losing', 'blocked', 'at-risk', 'partial', 'notice'], severity), since, kind, subject";
        let rows = client.query(SQL, &[&slot]).await;
        let rows = rows
            .context("relay.condition cannot be read; run `relay init`, or grant SELECT on it")?;
        let read = rows.iter().map(|row| Self {
            kind: row.get(0),
            subject: row.get(1),
            severity: row.get(2),
            since: row.get(3),
            found: row.get(4),
            cure: row.get(5),
        });
        Ok(read.collect())
    }

    fn said(&self) -> String {
        format!("{}: {}", self.found, self.cure)
    }
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, subject, severity, since, found, .. } = self;
        let subject = if subject.is_empty() { String::new() } else { format!(" {subject}") };
        write!(f, "{severity} since {since}: {kind}{subject}: {found}")
    }
}

/// Whether all is well, and what to say.
fn verdict(
    slot: &SlotState,
    name: &str,
    dead_letters: i64,
    conditions: &[Written],
) -> (bool, String) {
    let trouble = slot.trouble();
    match &trouble {
        Some(lost @ Trouble::Lost { .. }) => {
            return (false, format!("Nothing flows: {}.", slot.describe(lost, name)));
        }
        _ if slot.reader.is_none() => {
            // Written by the relay that reads from the slot when it can.
            let worst = conditions.first();
            if let Some(said) = worst.filter(|c| matches!(&*c.severity, "losing" | "blocked")) {
                return (false, format!("Nothing flows: {}.", said.said()));
            }
            return (
                false,
                format!(
                    "Nothing flows: no relay reads from the slot {name}. Start `relay run`; if it runs, its log says why it has no session."
                ),
            );
        }
        Some(trouble @ (Trouble::Unreserved | Trouble::Behind)) => {
            return (
                false,
                format!("Events flow slowly or not at all: {}.", slot.describe(trouble, name)),
            );
        }
        None => {}
    }
    let worst = conditions.first();
    match worst.map(|condition| condition.severity.as_str()) {
        Some("losing") => {
            return (false, format!("Changes are being lost: {}.", conditions[0].said()));
        }
        Some("at-risk") => {
            return (
                false,
                format!("Events flow until the next session: {}.", conditions[0].said()),
            );
        }
        Some("blocked") => {
            return (false, format!("Nothing flows: {}.", conditions[0].said()));
        }
        Some("partial") => {
            return (false, format!("Some events do not flow: {}.", conditions[0].said()));
        }
        _ => {}
    }
    if dead_letters > 0 {
        return (
            true,
            format!(
                "Events flow. {dead_letters} were set aside: `relay dead-letters list` says why."
            ),
        );
    }
    match worst {
        Some(notice) => (true, format!("Events flow. To know: {}.", notice.said())),
        None => (true, "Events flow.".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotState {
        SlotState {
            reader: Some("process 7".to_owned()),
            wal_status: Some("reserved".to_owned()),
            ..SlotState::default()
        }
    }

    #[test]
    fn each_state_has_its_sentence() {
        assert_eq!(verdict(&slot(), "relay", 0, &[]), (true, "Events flow.".to_owned()));
        assert!(verdict(&slot(), "relay", 3, &[]).1.contains("3 were set aside"));
        let lost = SlotState { wal_status: Some("lost".to_owned()), ..slot() };
        assert!(!verdict(&lost, "relay", 0, &[]).0);
        let alone = SlotState { reader: None, ..slot() };
        assert!(verdict(&alone, "relay", 0, &[]).1.contains("Start `relay run`"));
        let condition = |severity: &str| Written {
            kind: "destination".to_owned(),
            subject: "arn".to_owned(),
            severity: severity.to_owned(),
            since: String::new(),
            found: "events to arn do not flow".to_owned(),
            cure: "run `relay check`".to_owned(),
        };
        let (well, said) = verdict(&slot(), "relay", 0, &[condition("partial")]);
        assert!(!well && said.contains("to arn do not flow: run `relay check`"), "{said}");
        assert!(
            verdict(&slot(), "relay", 0, &[condition("blocked")]).1.starts_with("Nothing flows: ")
        );
        assert!(verdict(&slot(), "relay", 0, &[condition("notice")]).0);
        let behind = SlotState { behind: Some(relay::slot::MUCH + 1), ..slot() };
        assert!(verdict(&behind, "relay", 0, &[]).1.contains("relay check"));
    }
}
