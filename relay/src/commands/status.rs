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
    let standing = Standing::read(&client, name).await?;
    for destination in &standing {
        println!("destination   {destination}");
    }
    let (well, sentence) = verdict(&slot, name, dead_letters, &standing);
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

/// A destination that does not take events now.
struct Standing {
    destination: String,
    state: String,
    since: String,
    error: String,
    holds_all_back: bool,
}

impl Standing {
    async fn read(client: &Client, slot: &str) -> anyhow::Result<Vec<Self>> {
        const SQL: &str = "
            select destination, state, to_char(since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS\"Z\"'),
              concat_ws(': ', error_code, nullif(error, '')), holds_all_back
            from relay.destination where slot = $1 order by destination";
        let rows = client.query(SQL, &[&slot]).await;
        let rows = rows
            .context("relay.destination cannot be read; run `relay init`, or grant SELECT on it")?;
        let read = rows.iter().map(|row| Self {
            destination: row.get(0),
            state: row.get(1),
            since: row.get(2),
            error: row.get(3),
            holds_all_back: row.get(4),
        });
        Ok(read.collect())
    }

    fn cure(&self) -> &'static str {
        match self.state.as_str() {
            "wrong" => "check that it exists and that the relay may publish to it (`relay check`)",
            "bucket" => {
                "check that the bucket exists and that the relay may put objects into it (`relay check`)"
            }
            "halted" => "mend the cause and restart the relay, or set on_poison to dead-letter",
            _ => "the relay tries it again by itself",
        }
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { destination, state, since, error, .. } = self;
        write!(f, "{destination} {state} since {since} ({error})")
    }
}

/// Whether all is well, and what to say.
fn verdict(
    slot: &SlotState,
    name: &str,
    dead_letters: i64,
    standing: &[Standing],
) -> (bool, String) {
    let trouble = slot.trouble();
    match &trouble {
        Some(lost @ Trouble::Lost { .. }) => {
            return (false, format!("Nothing flows: {}.", slot.describe(lost, name)));
        }
        _ if slot.reader.is_none() => {
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
    if let Some(holder) = standing.iter().find(|destination| destination.holds_all_back) {
        let (destination, cure) = (&holder.destination, holder.cure());
        return (
            false,
            format!(
                "Nothing flows: {destination} does not take events, and those that wait for it fill publish.bytes_in_flight, so that none is read for others: {cure}."
            ),
        );
    }
    if let Some(first) = standing.first() {
        let (destination, cure) = (&first.destination, first.cure());
        return (
            false,
            match first.state.as_str() {
                "bucket" => format!(
                    "Events to {destination} that are too large for a message do not flow, nor those of the same key behind them; all others do: {cure}."
                ),
                _ => format!("Events to {destination} do not flow, those to others do: {cure}."),
            },
        );
    }
    if dead_letters > 0 {
        return (
            true,
            format!(
                "Events flow. {dead_letters} were set aside: `relay dead-letters list` says why."
            ),
        );
    }
    (true, "Events flow.".to_owned())
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
        let mut down = Standing {
            destination: "arn".to_owned(),
            state: "wrong".to_owned(),
            since: String::new(),
            error: String::new(),
            holds_all_back: false,
        };
        let (well, said) = verdict(&slot(), "relay", 0, std::slice::from_ref(&down));
        assert!(!well && said.contains("to arn do not flow") && said.contains("relay check"));
        down.holds_all_back = true;
        assert!(verdict(&slot(), "relay", 0, &[down]).1.starts_with("Nothing flows: arn"));
        let bucket = Standing {
            destination: "arn".to_owned(),
            state: "bucket".to_owned(),
            since: String::new(),
            error: String::new(),
            holds_all_back: false,
        };
        let said = verdict(&slot(), "relay", 0, &[bucket]).1;
        assert!(said.contains("too large") && said.contains("the bucket exists"), "{said}");
        let behind = SlotState { behind: Some(relay::slot::MUCH + 1), ..slot() };
        assert!(verdict(&behind, "relay", 0, &[]).1.contains("relay check"));
    }
}
