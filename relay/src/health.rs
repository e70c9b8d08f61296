//! Which destinations do not take events now, and the table that says so to `relay status`.
//!
//! The running relay writes a row of `relay.destination` for each of them, and takes it away
//! when events flow again: so that any host can ask.

use dsn::Dsn;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// After a failure to write, the next try waits for so long.
const BETWEEN_TRIES: Duration = Duration::from_secs(5);

/// The state of a destination that gets all but what is too large for it.
const BUCKET: &str = "bucket";

/// Why a destination gets nothing now, or not all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    state: &'static str,
    failures: u32,
    code: Option<String>,
    message: String,
    holds_all_back: bool,
}

impl Trouble {
    /// Its breaker is open; `wrong` says that the destination is missing or closed to us.
    #[must_use]
    pub fn open(wrong: bool, failures: u32, code: &str, message: &str) -> Self {
        Self {
            state: if wrong { "wrong" } else { "down" },
            failures,
            code: Some(code.to_owned()),
            message: message.to_owned(),
            holds_all_back: false,
        }
    }

    /// What is too large for it cannot be put into the bucket; all else it takes.
    #[must_use]
    pub fn bucket(failures: u32, code: &str, message: &str) -> Self {
        let code = Some(code.to_owned());
        Self { state: BUCKET, failures, code, message: message.to_owned(), holds_all_back: false }
    }

    /// It refused an event, and is to get nothing more.
    #[must_use]
    pub fn halted(event: Uuid, code: Option<String>, reason: &str) -> Self {
        let message = format!("the event {event} cannot be sent: {reason}");
        Self { state: "halted", failures: 1, code, message, holds_all_back: false }
    }
}

/// The destinations' troubles, and whether they are written down.
#[derive(Debug)]
pub struct Health {
    dsn: Dsn,
    slot: String,
    troubles: Vec<Option<Trouble>>,
    /// Whether there is something to write. At first there is: what an earlier relay left.
    changed: bool,
    writing: bool,
    not_before: Option<Instant>,
}

impl Health {
    /// Of so many destinations, all well.
    #[must_use]
    pub fn new(dsn: Dsn, slot: String, destinations: usize) -> Self {
        let troubles = vec![None; destinations];
        Self { dsn, slot, troubles, changed: true, writing: false, not_before: None }
    }

    /// Takes note of a destination's trouble, or that it has none any more.
    pub fn set(&mut self, destination: usize, trouble: Option<Trouble>) {
        let Some(place) = self.troubles.get_mut(destination) else { return };
        let state = |trouble: &Option<Trouble>| trouble.as_ref().map(|t| (t.state, t.code.clone()));
        // The number of failures alone is not worth a write.
        self.changed |= state(place) != state(&trouble);
        let held = place.as_ref().is_some_and(|trouble| trouble.holds_all_back);
        *place = trouble.map(|trouble| Trouble { holds_all_back: held, ..trouble });
    }

    /// Takes note that what is too large for a destination cannot be put into its bucket, where
    /// nothing worse is known of it.
    pub fn bucket_fails(&mut self, destination: usize, trouble: Trouble) {
        let known = self.troubles.get(destination).is_none_or(Option::is_some);
        if !known || self.bucket_is_broken(destination) {
            self.set(destination, Some(trouble));
        }
    }

    /// Whether what is too large for a destination cannot be put into its bucket.
    #[must_use]
    pub fn bucket_is_broken(&self, destination: usize) -> bool {
        let trouble = self.troubles.get(destination).and_then(Option::as_ref);
        trouble.is_some_and(|trouble| trouble.state == BUCKET)
    }

    /// Takes note whether a destination's events fill the budget.
    pub fn holds_all_back(&mut self, destination: usize, holds: bool) {
        if let Some(Some(trouble)) = self.troubles.get_mut(destination)
            && trouble.holds_all_back != holds
        {
            trouble.holds_all_back = holds;
            self.changed = true;
        }
    }

    /// What to write now, if anything; its result is for [`Health::noted`].
    pub fn note(&mut self, names: &[&str], now: Instant) -> Option<Note> {
        if !self.changed || self.writing || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        self.changed = false;
        self.writing = true;
        let troubles = names.iter().zip(&self.troubles);
        let rows = troubles.filter_map(|(name, t)| Some(((*name).to_owned(), t.clone()?)));
        Some(Note { dsn: self.dsn.clone(), slot: self.slot.clone(), rows: rows.collect() })
    }

    /// Takes note whether it could be written.
    pub fn noted(&mut self, well: bool, now: Instant) {
        self.writing = false;
        self.changed |= !well;
        self.not_before = (!well).then_some(now + BETWEEN_TRIES);
    }
}

/// Rows for `relay.destination`.
#[derive(Debug)]
pub struct Note {
    dsn: Dsn,
    slot: String,
    rows: Vec<(String, Trouble)>,
}

impl Note {
    /// Writes them in place of those that are there; false when that failed.
    pub async fn write(self) -> bool {
        match self.try_write().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the state of the destinations cannot be written; `relay status` does not know it (is `relay init` of this version done?)");
                false
            }
        }
    }

    async fn try_write(&self) -> Result<(), anyhow::Error> {
        const SQL: &str = "
            with said as (
              select * from unnest($2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::bool[])
                as said (destination, state, failures, error_code, error, holds_all_back)
            ), gone as (
              delete from relay.destination d
              where slot = $1 and not exists (select from said s where s.destination = d.destination)
            )
            insert into relay.destination as d
              (slot, destination, state, failures, error_code, error, holds_all_back)
            select $1, destination, state, failures, error_code, error, holds_all_back from said
            on conflict (slot, destination) do update set
              since = case when d.state = excluded.state then d.since else now() end,
              state = excluded.state, failures = excluded.failures,
              error_code = excluded.error_code, error = excluded.error,
              holds_all_back = excluded.holds_all_back";
        let (client, driver) = self.dsn.connect("relay destinations").await?;
        let of = |text: fn(&Trouble) -> Option<&str>| -> Vec<Option<&str>> {
            self.rows.iter().map(|(_, trouble)| text(trouble)).collect()
        };
        let names: Vec<&str> = self.rows.iter().map(|(name, _)| name.as_str()).collect();
        let failures: Vec<i32> =
            self.rows.iter().map(|(_, t)| i32::try_from(t.failures).unwrap_or(i32::MAX)).collect();
        let holds: Vec<bool> = self.rows.iter().map(|(_, t)| t.holds_all_back).collect();
        let (states, codes) = (of(|t| Some(t.state)), of(|t| t.code.as_deref()));
        let messages = of(|t| Some(&t.message));
        let written = client
            .execute(SQL, &[&self.slot, &names, &states, &failures, &codes, &messages, &holds])
            .await;
        drop(client);
        driver.abort();
        written?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_written_once_and_again_after_a_failure() {
        let now = Instant::now();
        let dsn = "postgres://u@localhost/d".parse().unwrap();
        let mut health = Health::new(dsn, "relay".to_owned(), 2);
        let rows = |health: &mut Health, now| health.note(&["a", "b"], now).map(|n| n.rows.len());
        assert_eq!(rows(&mut health, now), Some(0), "what an earlier relay left");
        health.noted(true, now);
        assert_eq!(rows(&mut health, now), None);
        health.set(1, Some(Trouble::open(false, 5, "500", "")));
        assert_eq!(rows(&mut health, now), Some(1));
        health.set(1, None);
        assert_eq!(rows(&mut health, now), None, "one write at a time");
        health.noted(false, now);
        assert_eq!(rows(&mut health, now), None, "not at once after a failure");
        assert_eq!(rows(&mut health, now + BETWEEN_TRIES), Some(0));
        health.noted(true, now);
        health.set(0, Some(Trouble::open(false, 5, "500", "")));
        health.holds_all_back(0, true);
        assert_eq!(rows(&mut health, now), Some(1));
        health.noted(true, now);
        health.set(0, Some(Trouble::open(false, 6, "500", "")));
        assert_eq!(rows(&mut health, now), None, "the same trouble still");
    }

    #[test]
    fn a_broken_bucket_is_said_unless_the_destination_itself_is_in_trouble() {
        let dsn = "postgres://u@localhost/d".parse().unwrap();
        let mut health = Health::new(dsn, "relay".to_owned(), 1);
        health.set(0, Some(Trouble::open(true, 1, "NotFound", "")));
        health.bucket_fails(0, Trouble::bucket(1, "S3.NoSuchBucket", ""));
        assert!(!health.bucket_is_broken(0));
        health.set(0, None);
        health.bucket_fails(0, Trouble::bucket(1, "S3.NoSuchBucket", ""));
        assert!(health.bucket_is_broken(0));
        health.bucket_fails(0, Trouble::bucket(2, "S3.AccessDenied", ""));
        let note = health.note(&["a"], Instant::now()).unwrap();
        assert_eq!(note.rows[0].1.code.as_deref(), Some("S3.AccessDenied"));
    }
}
