//! The preconditions of a replication session, each with the cure for what fails.
//!
//! `relay check` tries them all, `relay run` the ones it cannot do without, so
//! both say the same.

use crate::outbox::COLUMNS;
use crate::table::TableRule;
use tokio_postgres::Client;

pub mod advice;
pub mod alive;
mod attached;
mod cure;
mod identity;
mod probe;
mod state;
mod stream;
mod tables;
pub mod watch;
mod writes;

pub use probe::{readable, session};
pub use state::{MUCH, SlotState, Trouble};

/// A precondition that does not hold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{found}\n  cure: {cure}")]
pub struct Problem {
    /// What was expected and what was found.
    pub found: String,
    /// What to do.
    pub cure: String,
    /// Whether it is worth waiting for its end.
    pub passing: Passing,
}

/// Whether a problem has an end that is worth waiting for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passing {
    /// No: with a slot that is gone or another, waiting would lose events.
    Never,
    /// Once it is mended: a relay that has streamed already waits, and nothing is lost by it.
    Mended,
    /// Without anyone's doing: the connection was lost, or the server is stopping.
    ByItself,
}

impl Problem {
    /// A problem with its cure.
    pub fn new(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { found: found.into(), cure: cure.into(), passing: Passing::Never }
    }

    /// The same, for what can be mended while a relay waits.
    #[must_use]
    pub(crate) fn may_pass(self) -> Self {
        Self { passing: Passing::Mended, ..self }
    }

    /// The same, for what a relay waits for from its start.
    #[must_use]
    pub(crate) fn by_itself(self) -> Self {
        Self { passing: Passing::ByItself, ..self }
    }

    pub(crate) fn query(error: &tokio_postgres::Error) -> Self {
        Self::refused("the server did not answer a question", error)
    }
}

/// What holds, in a few words; or what does not.
pub type Finding = Result<String, Problem>;

/// The preconditions on the side of Postgres, in the order they are tried.
#[derive(Clone, Copy, Debug)]
pub struct Preconditions<'a> {
    /// A connection to the source database.
    pub client: &'a Client,
    /// The slot.
    pub slot: &'a str,
    /// The publication.
    pub publication: &'a str,
}

impl Preconditions<'_> {
    async fn text(&self, sql: &str, name: &str) -> Result<Option<String>, Problem> {
        let rows = self.client.query(sql, &[&name]).await.map_err(|e| Problem::query(&e))?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// Postgres 14 or later: earlier ones have no messages in pgoutput.
    ///
    /// # Errors
    /// When it is older.
    pub async fn version(&self) -> Finding {
        let found = self
            .text("select current_setting($1)", "server_version_num")
            .await?
            .unwrap_or_default();
        let major = found.parse::<u32>().unwrap_or(0) / 10_000;
        if major >= 14 {
            return Ok(format!("PostgreSQL {major}"));
        }
        Err(Problem::new(
            format!("expected PostgreSQL 14 or later, found {major}"),
            "upgrade the server",
        ))
    }

    /// `wal_level = logical`.
    ///
    /// # Errors
    /// When it is another.
    pub async fn wal_level(&self) -> Finding {
        let found = self.text("select current_setting($1)", "wal_level").await?.unwrap_or_default();
        if found == "logical" {
            return Ok("wal_level = logical".to_owned());
        }
        Err(Problem::new(
            format!("expected wal_level = logical, found {found}"),
            "run ALTER SYSTEM SET wal_level = 'logical' and restart the server; on RDS and Aurora set rds.logical_replication = 1 in the parameter group and reboot",
        ))
    }

    /// The role may replicate.
    ///
    /// # Errors
    /// When it may not.
    pub async fn role(&self) -> Finding {
        const SQL: &str = "select case when r.rolsuper or r.rolreplication
                or exists (select from pg_roles as g where g.rolname = $1 and pg_has_role(r.oid, g.oid, 'member'))
            then 'yes:' else 'no:' end || r.rolname
            from pg_roles as r where r.rolname = current_user";
        let found = self.text(SQL, "rds_replication").await?.unwrap_or_default();
        match found.split_once(':') {
            Some(("yes", role)) => Ok(format!("{role} may replicate")),
            Some((_, role)) => Err(Problem::new(
                format!("expected a role that may replicate, found {role} without REPLICATION"),
                format!(
                    "run ALTER ROLE \"{role}\" REPLICATION; on RDS and Aurora GRANT rds_replication TO \"{role}\""
                ),
            ).may_pass()),
            None => Err(Problem::new(
                "expected the role in pg_roles, found none",
                "check the user in DATABASE_URL",
            ).may_pass()),
        }
    }

    /// The server and the role take writes: a standby does not, nor does a role with
    /// `default_transaction_read_only`.
    ///
    /// # Errors
    /// When they do not.
    pub async fn writable(&self) -> Finding {
        const SQL: &str = "select case when pg_is_in_recovery() then 'standby'
            else current_setting($1) end";
        match self.text(SQL, "transaction_read_only").await?.as_deref() {
            Some("standby") => Err(Problem::new(
                "expected a server that takes writes, found a standby",
                "point DATABASE_URL to the primary, or name all hosts with target_session_attrs=read-write",
            )
            .may_pass()),
            Some("on") => Err(Problem::new(
                "expected a session that takes writes, found default_transaction_read_only = on",
                "run ALTER ROLE … RESET default_transaction_read_only for the relay's role, and ALTER DATABASE … RESET where it is set there",
            )
            .may_pass()),
            _ => Ok("the server takes writes".to_owned()),
        }
    }

    /// The outbox is there.
    ///
    /// # Errors
    /// When it is not.
    pub async fn outbox(&self) -> Finding {
        if self.text("select to_regclass($1)::text", "relay.outbox").await?.is_some() {
            return Ok("relay.outbox is there".to_owned());
        }
        Err(Problem::new(
            "expected the table relay.outbox, found none",
            "run `relay init` with a role that may create it",
        )
        .may_pass())
    }

    /// The publication is there.
    ///
    /// # Errors
    /// When it is not.
    pub async fn publication(&self) -> Finding {
        let name = self.publication;
        if self
            .text("select pubname::text from pg_publication where pubname = $1", name)
            .await?
            .is_some()
        {
            return Ok(format!("publication {name} is there"));
        }
        Err(Problem::new(
            format!("expected the publication {name}, found none"),
            "run `relay init`, or set RELAY_PUBLICATION to the publication that is there",
        )
        .may_pass())
    }

    /// The publication publishes the outbox, under its own name, with its inserts.
    ///
    /// # Errors
    /// When it does not: its events would never come.
    pub async fn published(&self) -> Finding {
        let name = self.publication;
        const SQL: &str = "select case
                when not p.pubinsert then 'insert'
                when not exists (select from pg_publication_tables as t
                    join pg_namespace as n on n.nspname = t.schemaname
                    join pg_class as c on c.relnamespace = n.oid and c.relname = t.tablename
                    where t.pubname = p.pubname and (n.nspname = 'relay' and c.relname = 'outbox'
                        or not p.pubviaroot and c.oid in (select relid from pg_partition_tree(to_regclass('relay.outbox'))))) then 'table'
                when not p.pubviaroot then 'root'
                else 'ok' end
            from pg_publication as p where p.pubname = $1";
        let cure = match self.text(SQL, name).await?.as_deref() {
            Some("ok") => return Ok(format!("publication {name} publishes relay.outbox")),
            Some("insert") => format!("run ALTER PUBLICATION \"{name}\" SET (publish = 'insert')"),
            Some("root") => {
                format!("run ALTER PUBLICATION \"{name}\" SET (publish_via_partition_root = true)")
            }
            _ => format!("run ALTER PUBLICATION \"{name}\" ADD TABLE relay.outbox"),
        };
        Err(Problem::new(
            format!(
                "expected the publication {name} to publish the inserts of relay.outbox under its own name, found that it does not: no event would come"
            ),
            cure,
        ).may_pass())
    }

    /// The publication sends the columns that an event is made of: from version 15 on a
    /// column list can leave some out. A column that the table itself has not reads as null.
    ///
    /// # Errors
    /// When one is missing.
    pub async fn columns(&self) -> Finding {
        // By way of JSON, because version 14 has no such column.
        const SQL: &str = "select wanted from pg_publication_tables as t,
                unnest(string_to_array($2, ' ')) with ordinality as w (wanted, place)
            where t.pubname = $1 and t.schemaname = 'relay' and t.tablename = 'outbox'
                and not to_jsonb(t) -> 'attnames' ? wanted
                and exists (select from pg_attribute as a
                    where a.attrelid = to_regclass('relay.outbox') and a.attname = wanted and not a.attisdropped)
            order by place limit 1";
        let name = self.publication;
        let wanted = COLUMNS.join(" ");
        let missing = self.client.query_opt(SQL, &[&name, &wanted]).await;
        match missing.map_err(|e| Problem::query(&e))? {
            None => Ok(format!("publication {name} sends whole rows")),
            Some(row) => Err(Problem::new(
                format!(
                    "expected the publication {name} to send every column of relay.outbox, found a column list without {}",
                    row.get::<_, &str>(0)
                ),
                format!(
                    "run BEGIN; ALTER PUBLICATION \"{name}\" DROP TABLE relay.outbox; ALTER PUBLICATION \"{name}\" ADD TABLE relay.outbox; COMMIT; events that were written under the list cannot be read from a slot, their rows stand in relay.outbox"
                ),
            ).may_pass()),
        }
    }

    /// The slot is there, for this database and plugin, of a kind that can be read from, and not
    /// lost.
    ///
    /// # Errors
    /// When it is not.
    pub async fn slot(&self) -> Finding {
        let name = self.slot;
        let state = SlotState::read(self.client, name).await.map_err(|e| Problem::query(&e))?;
        let Some(state) = state else {
            return Err(Problem::new(
                format!("expected a replication slot {name}, found none"),
                "run `relay init`, or set RELAY_SLOT to the slot that is there",
            ));
        };
        state.judge(name)
    }

    /// The slot is kept for a failover, where that is wanted.
    ///
    /// # Errors
    /// When it is wanted and the slot is not.
    pub async fn failover(&self, wanted: bool) -> Finding {
        let name = self.slot;
        let state = SlotState::read(self.client, name).await.map_err(|e| Problem::query(&e))?;
        match (wanted, state.and_then(|state| state.failover)) {
            (true, Some(false)) => Err(Problem::new(
                format!("expected the slot {name} to be kept for a failover, found that it is not"),
                format!(
                    "stop the relay, then run psql 'replication=database …' -c 'ALTER_REPLICATION_SLOT {name} (FAILOVER)'"
                ),
            )),
            (true, None) => Err(Problem::new(
                "expected PostgreSQL 17 or later for postgres.failover, found an earlier one",
                "leave RELAY_FAILOVER out",
            )),
            (true, Some(true)) => Ok(format!("standbys keep the slot {name}")),
            (false, Some(true)) => Ok(format!(
                "standbys keep the slot {name}, which postgres.failover does not ask for"
            )),
            (false, _) => Ok("not asked for".to_owned()),
        }
    }

    /// All that can cease to hold while a session stands, each by the kind and subject of its
    /// condition.
    pub(crate) async fn each(&self, tables: &[TableRule]) -> Vec<(&'static str, String, Finding)> {
        let none = String::new;
        let mut found = vec![("role", none(), self.role().await)];
        let outbox = self.outbox().await;
        let publication = self.publication().await;
        let there = publication.is_ok();
        found.push(("outbox", none(), outbox));
        found.push(("secret", none(), self.secret().await));
        found.push(("publication", none(), publication));
        if there {
            found.push(("published", none(), self.published().await));
            found.push(("columns", none(), self.columns().await));
            for rule in tables {
                let name = format!("{}.{}", rule.schema, rule.name);
                found.push((watch::TABLE, name, self.table(rule).await));
            }
        }
        found.push(("slot", none(), self.slot().await));
        found
    }

    /// All that a session cannot do without, up to the first that fails.
    ///
    /// # Errors
    /// The first problem.
    pub async fn all(&self, tables: &[TableRule]) -> Result<(), Problem> {
        self.version().await?;
        self.wal_level().await?;
        self.encoding().await?;
        self.role().await?;
        self.writable().await?;
        self.outbox().await?;
        self.secret().await?;
        self.publication().await?;
        self.published().await?;
        self.columns().await?;
        for rule in tables {
            self.table(rule).await?;
        }
        self.slot().await?;
        Ok(())
    }
}
