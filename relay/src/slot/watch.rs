//! A look at the slot and at all that a session needs every so often, and a word when it is worse.

use super::attached::Attached;
use super::state::{MUCH, SlotState, Trouble};
use super::tables::Narrowed;
use super::{Passing, Preconditions, Problem};
use crate::catalog;
use crate::condition::{Condition, Conditions};
use crate::outbox::{SCHEMA, TABLE as OUTBOX};
use crate::source::Slot;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How often the slot and what a session needs are looked at.
pub const EVERY: Duration = Duration::from_secs(10);

/// What was said last, so that the same is not said again.
#[derive(Debug, Default)]
pub(crate) struct Said {
    trouble: Option<Trouble>,
    /// Bytes of retained log that were mentioned.
    retained: u64,
}

impl Said {
    /// What is worth a line of the log now, if anything.
    pub(crate) fn worth_saying(&mut self, state: &SlotState, name: &str) -> Option<String> {
        let trouble = state.trouble();
        let retained = state.retained.unwrap_or(0);
        let worse = match (&trouble, &self.trouble) {
            (Some(now), Some(before)) => now < before,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let doubled = retained > MUCH && retained >= self.retained.saturating_mul(2);
        if retained <= MUCH {
            self.retained = 0;
        }
        self.trouble.clone_from(&trouble);
        if !worse && !doubled {
            return None;
        }
        if doubled {
            self.retained = retained;
        }
        Some(match trouble {
            Some(trouble) => state.describe(&trouble, name),
            None => format!(
                "{} of log are kept for the slot {name}; a long transaction holds them if nothing waits",
                bytesize::ByteSize::b(retained)
            ),
        })
    }
}

/// The words between the pipeline and the watch.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// To the watch: the server asks for an answer while events are unconfirmed.
    pub(crate) look: Notify,
    /// To the pipeline: the server is shutting down.
    pub(crate) stops: Notify,
}

/// The kind of the conditions that are about a captured table, or the outbox under another name.
pub(crate) const TABLE: &str = "table";

/// The kind of the conditions that a publication keeps rows or columns back which it sent before.
const NARROWED: &str = "narrowed";

/// The kinds of the findings about the outbox that look for it by its name.
const OF_OUTBOX: [&str; 3] = ["outbox", "published", "columns"];

/// That a table is still read, though it has another name.
pub(crate) fn renamed(expected: &str, found: &str) -> Condition {
    let cure = if expected == format!("{SCHEMA}.{OUTBOX}") {
        "rename it back"
    } else {
        "rename it back, or name the new name in [[table]] and restart the relay"
    };
    Condition::at_risk(
        format!(
            "expected the table {expected}, found it renamed to {found}; this session goes on to send its changes under the old name, the next one would be refused"
        ),
        cure,
    )
}

/// Looks at the slot and at all that a session needs.
#[derive(Debug)]
pub(crate) struct Watch {
    slot: Slot,
    conditions: Conditions,
    signals: Arc<Signals>,
    said: Said,
    /// The oid of each expected table, from when it was last found under its name.
    oids: HashMap<(String, String), u32>,
    /// What was kept back of each table when it was first looked at, by schema and name: that is
    /// what is meant.
    narrowed: HashMap<(String, String), Narrowed>,
    attached: Attached,
}

impl Watch {
    /// `oids` are those that the session found at its start: a table that is renamed before the
    /// first look is known too.
    pub(crate) fn new(
        slot: Slot,
        conditions: Conditions,
        signals: &Arc<Signals>,
        oids: HashMap<(String, String), u32>,
    ) -> Self {
        let (signals, narrowed) = (Arc::clone(signals), HashMap::new());
        let (said, attached) = (Said::default(), Attached::default());
        Self { slot, conditions, signals, said, oids, narrowed, attached }
    }

    /// Looks for as long as it is polled.
    ///
    /// Each look has a connection of its own, so that a server that stops (`smart`: it waits for
    /// whoever is connected) refuses it. Between two looks the connection is kept: its end is the
    /// first sign of a server that stops (`fast`).
    pub(crate) async fn run(mut self) {
        const SHORT: Duration = Duration::from_secs(1);
        let mut next = Instant::now();
        loop {
            let began = Instant::now();
            match self.slot.dsn.connect("relay watch").await {
                Ok((client, mut driver)) => {
                    if next <= began {
                        next = began + EVERY;
                        self.look(&client).await;
                    }
                    tokio::select! {
                        _ = &mut driver => {}
                        () = self.signals.look.notified() => {}
                        () = tokio::time::sleep_until(next.into()) => {}
                    }
                    drop(client);
                    driver.abort();
                }
                Err(error) => {
                    if is_shutting_down(&error) {
                        self.signals.stops.notify_one();
                    }
                    // That Postgres cannot be reached is said by the stream itself.
                    tracing::debug!(error = dsn::causes(&error), "the watch has no connection");
                    tokio::time::sleep(SHORT).await;
                }
            }
            // Something between may end each connection at once.
            tokio::time::sleep_until((began + SHORT / 4).into()).await;
        }
    }

    async fn look(&mut self, client: &Client) {
        let name = &self.slot.name;
        if let Ok(Some(state)) = SlotState::read(client, name).await {
            if let Some(line) = self.said.worth_saying(&state, name) {
                tracing::warn!("{line}");
            }
            tracing::debug!(
                retained = state.retained,
                behind = state.behind,
                wal_status = state.wal_status,
                safe_wal_size = state.safe_wal_size,
                "slot"
            );
        }
        if let Ok(oids) = catalog::oids(client, &self.slot.tables).await {
            self.oids.extend(oids);
        }
        let wanted =
            Preconditions { client, slot: &self.slot.name, publication: &self.slot.publication };
        // Known by its oid, the outbox is read on under another name.
        let outbox = format!("{SCHEMA}.{OUTBOX}");
        let other_outbox = self.new_name(client, TABLE, &outbox).await;
        match &other_outbox {
            Some(found) => self.conditions.set(TABLE, &outbox, renamed(&outbox, found)),
            None => self.conditions.clear(TABLE, &outbox),
        }
        for (kind, subject, finding) in wanted.each(&self.slot.tables).await {
            match finding {
                Ok(_) => self.conditions.clear(kind, &subject),
                Err(_) if other_outbox.is_some() && OF_OUTBOX.contains(&kind) => {
                    self.conditions.clear(kind, &subject);
                }
                // The connection was lost: nothing is known of it.
                Err(problem) if problem.passing == Passing::ByItself => {}
                Err(problem) => {
                    let condition = match self.new_name(client, kind, &subject).await {
                        Some(found) => renamed(&subject, &found),
                        None => condition(kind, problem),
                    };
                    self.conditions.set(kind, &subject, condition);
                }
            }
        }
        self.watch_narrowing(client).await;
        self.attached.look(client, &self.slot.tables, &self.conditions).await;
    }

    /// Says what is kept back of a table since a change of the publication. A filter or a list that
    /// was there before is what is meant, and a restart takes a new one for meant too.
    async fn watch_narrowing(&mut self, client: &Client) {
        let Slot { name: slot, publication, tables, .. } = &self.slot;
        let wanted = Preconditions { client, slot, publication };
        let expected = tables.iter().map(|rule| (rule.schema.as_str(), rule.name.as_str()));
        for (schema, table) in expected.chain([(SCHEMA, OUTBOX)]) {
            let Ok(now) = wanted.narrowed(schema, table).await else { return };
            let key = (schema.to_owned(), table.to_owned());
            let meant = self.narrowed.entry(key).or_insert_with(|| now.clone());
            let subject = format!("{schema}.{table}");
            let Some(what) = now.since(meant) else {
                self.conditions.clear(NARROWED, &subject);
                continue;
            };
            let (table, publication) = (quoted(schema, table), quoted_name(publication));
            self.conditions.set(
                NARROWED,
                &subject,
                Condition::losing(
                    format!("expected the publication to send {subject} as it did when this relay began, found that {what}"),
                    format!("run BEGIN; ALTER PUBLICATION {publication} DROP TABLE {table}; ALTER PUBLICATION {publication} ADD TABLE {table}; COMMIT; or restart the relay where this is meant"),
                ),
            );
        }
    }

    /// The other name under which an expected table is published.
    async fn new_name(&self, client: &Client, kind: &str, subject: &str) -> Option<String> {
        const SQL: &str = "select format('%s.%s', n.nspname, c.relname)
            from pg_catalog.pg_class as c
            join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
            join pg_catalog.pg_publication_tables as t
              on t.schemaname = n.nspname and t.tablename = c.relname
            where c.oid = $1 and t.pubname = $2 and format('%s.%s', n.nspname, c.relname) <> $3";
        if kind != TABLE {
            return None;
        }
        let (_, oid) = self.oids.iter().find(|((s, n), _)| format!("{s}.{n}") == subject)?;
        let row = client.query_opt(SQL, &[oid, &self.slot.publication, &subject]).await.ok()??;
        row.get(0)
    }
}

fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted_name(schema), quoted_name(name))
}

fn condition(kind: &str, problem: Problem) -> Condition {
    match kind {
        "role" | "secret" => Condition::at_risk(problem.found, problem.cure),
        "slot" => Condition::blocked(problem.found, problem.cure),
        _ => Condition::losing(problem.found, problem.cure),
    }
}

/// Whether the server refuses connections because it stops, or no longer is one that is meant.
fn is_shutting_down(error: &dsn::Error) -> bool {
    match error {
        dsn::Error::Servers { errors } => errors.iter().any(is_shutting_down),
        dsn::Error::Connect { source, .. } => source.code() == Some(&SqlState::CANNOT_CONNECT_NOW),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worse_is_said_once() {
        let state = |status: &str, retained: u64| SlotState {
            wal_status: Some(status.to_owned()),
            retained: Some(retained),
            ..SlotState::default()
        };
        let mut said = Said::default();
        assert_eq!(said.worth_saying(&state("reserved", 5), "relay"), None);
        assert!(said.worth_saying(&state("extended", MUCH + 1), "relay").is_some());
        assert_eq!(said.worth_saying(&state("extended", MUCH + 2), "relay"), None);
        assert!(said.worth_saying(&state("extended", MUCH * 2 + 2), "relay").is_some());
        let unreserved = said.worth_saying(&state("unreserved", MUCH * 2 + 3), "relay").unwrap();
        assert!(unreserved.contains("next checkpoint"), "{unreserved}");
        assert_eq!(said.worth_saying(&state("unreserved", MUCH * 2 + 3), "relay"), None);
        assert!(said.worth_saying(&state("lost", 0), "relay").unwrap().contains("is lost"));
        // Well again, and worse again: said again.
        assert_eq!(said.worth_saying(&state("reserved", 0), "relay"), None);
        assert!(said.worth_saying(&state("unreserved", 0), "relay").is_some());
    }
}
