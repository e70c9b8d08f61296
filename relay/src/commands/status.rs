//! `relay status`: whether events flow, and if not, why and what to do.

use super::source;
use anyhow::Context;
use bytesize::ByteSize;
use relay::config::Config;
use tokio_postgres::{Client, Row};

/// More log than this behind the slot is worth a word.
const MUCH: u64 = 1 << 30;

pub(crate) async fn run(config: &Config) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let (client, _driver) = dsn.connect("relay status").await?;
    let name = &config.postgres.slot;
    println!("database      {dsn}");
    println!("slot          {name}");
    let Some(slot) = slot(&client, name).await? else {
        println!(
            "\nNothing flows: there is no slot {name}. Run `relay init`, or set RELAY_SLOT to the slot that is there."
        );
        return Ok(false);
    };
    let dead_letters = dead_letters(&client).await?;
    println!("reader        {}", slot.reader.as_deref().unwrap_or("none"));
    println!("confirmed     {} ({} behind)", slot.confirmed, ByteSize::b(slot.behind));
    println!(
        "retained      {} of write-ahead log ({})",
        ByteSize::b(slot.retained),
        slot.wal_status
    );
    println!("dead letters  {dead_letters}");
    let (well, sentence) = verdict(&slot, name, dead_letters);
    println!("\n{sentence}");
    Ok(well)
}

struct Slot {
    /// The reading process, its name and its state.
    reader: Option<String>,
    confirmed: String,
    /// Bytes of log that were not confirmed.
    behind: u64,
    /// Bytes of log that the server keeps for the slot.
    retained: u64,
    wal_status: String,
}

async fn slot(client: &Client, name: &str) -> anyhow::Result<Option<Slot>> {
    const SQL: &str = "select
            case when s.active_pid is not null then
                format('process %s (%s, %s)', s.active_pid, coalesce(a.application_name, '?'), coalesce(r.state, 'connecting'))
            end,
            coalesce(s.confirmed_flush_lsn::text, 'nothing'),
            coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn), 0)::bigint,
            coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint,
            coalesce(s.wal_status, 'lost')
        from pg_replication_slots as s
        left join pg_stat_activity as a on a.pid = s.active_pid
        left join pg_stat_replication as r on r.pid = s.active_pid
        where s.slot_name = $1";
    let row = client
        .query_opt(SQL, &[&name])
        .await
        .context("the server does not tell the state of the slot")?;
    let bytes = |row: &Row, at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
    Ok(row.map(|row| Slot {
        reader: row.get(0),
        confirmed: row.get(1),
        behind: bytes(&row, 2),
        retained: bytes(&row, 3),
        wal_status: row.get(4),
    }))
}

async fn dead_letters(client: &Client) -> anyhow::Result<i64> {
    let row = client.query_one("select count(*) from relay.dead_letter", &[]).await;
    Ok(row
        .context("relay.dead_letter cannot be read; run `relay init`, or grant SELECT on it")?
        .get(0))
}

/// Whether all is well, and what to say.
fn verdict(slot: &Slot, name: &str, dead_letters: i64) -> (bool, String) {
    if slot.wal_status == "lost" {
        return (
            false,
            format!(
                "Nothing flows: the slot {name} is lost, the server removed log that was not read. Run SELECT pg_drop_replication_slot('{name}') and `relay init`; rows that were not published still stand in relay.outbox. Raise max_slot_wal_keep_size."
            ),
        );
    }
    if slot.reader.is_none() {
        return (
            false,
            format!(
                "Nothing flows: no relay reads from the slot {name}. Start `relay run`; if it runs, its log says why it has no session."
            ),
        );
    }
    if slot.behind > MUCH {
        return (
            false,
            format!(
                "Events flow slowly or not at all: {} of log wait. The relay's log says whether a destination refuses them; `relay check` tries each.",
                ByteSize::b(slot.behind)
            ),
        );
    }
    if dead_letters > 0 {
        return (
            true,
            format!(
                "Events flow. {dead_letters} were set aside: SELECT event_type, key, reason FROM relay.dead_letter."
            ),
        );
    }
    (true, "Events flow.".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot {
            reader: Some("process 7".to_owned()),
            confirmed: "0/1".to_owned(),
            behind: 0,
            retained: 0,
            wal_status: "reserved".to_owned(),
        }
    }

    #[test]
    fn each_state_has_its_sentence() {
        assert_eq!(verdict(&slot(), "relay", 0), (true, "Events flow.".to_owned()));
        assert!(verdict(&slot(), "relay", 3).1.contains("3 were set aside"));
        let lost = Slot { wal_status: "lost".to_owned(), ..slot() };
        assert!(!verdict(&lost, "relay", 0).0);
        let alone = Slot { reader: None, ..slot() };
        assert!(verdict(&alone, "relay", 0).1.contains("Start `relay run`"));
        let behind = Slot { behind: MUCH + 1, ..slot() };
        assert!(verdict(&behind, "relay", 0).1.contains("relay check"));
    }
}
