//! The preconditions of a replication session, each with the cure for what fails.
//!
//! `relay check` tries them all, `relay run` the ones it cannot do without, so
//! both say the same.

use crate::outbox::COLUMNS;
use crate::table::TableRule;
use crate::wire::is_passing;
use bytesize::ByteSize;
use tokio_postgres::Client;

mod state;
mod stream;
mod tables;
pub mod watch;

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

    fn query(error: &tokio_postgres::Error) -> Self {
        let Some(refused) = error.as_db_error() else {
            let found = format!("the server did not answer a question: {error}");
            let problem = Self::new(found, "check the way to the server and its log");
            let cause = std::error::Error::source(error);
            let lost = error.is_closed()
                || cause.is_some_and(|e| e.downcast_ref::<std::io::Error>().is_some());
            return if lost { Self { passing: Passing::ByItself, ..problem } } else { problem };
        };
        let problem = Self::new(
            format!("the server refused a question: {}", refused.message()),
            "check the role's privileges and the server's log",
        );
        let passes = is_passing(refused.code().code());
        if passes { Self { passing: Passing::ByItself, ..problem } } else { problem }
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
                    where t.pubname = p.pubname and t.schemaname = 'relay' and t.tablename like 'outbox%') then 'table'
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
    /// column list can leave some out.
    ///
    /// # Errors
    /// When one is missing.
    pub async fn columns(&self) -> Finding {
        // By way of JSON, because version 14 has no such column.
        const SQL: &str = "select wanted from pg_publication_tables as t,
                unnest(string_to_array($2, ' ')) with ordinality as w (wanted, place)
            where t.pubname = $1 and t.schemaname = 'relay' and t.tablename = 'outbox'
                and not to_jsonb(t) -> 'attnames' ? wanted
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

    /// The slot is there, for this database and plugin, and not lost.
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
        if state.plugin.as_deref() != Some("pgoutput") {
            return Err(Problem::new(
                format!(
                    "expected the slot {name} to use pgoutput, found {}",
                    state.plugin.as_deref().unwrap_or("a physical one")
                ),
                "set RELAY_SLOT to another name, and run `relay init`",
            ));
        }
        let here = self.text("select current_database()::text where $1 = $1", name).await?;
        if state.database != here {
            return Err(Problem::new(
                format!(
                    "expected the slot {name} in this database, found it in {}",
                    state.database.as_deref().unwrap_or("another")
                ),
                "set RELAY_SLOT to a name of its own for each database, and run `relay init`",
            ));
        }
        match state.trouble() {
            Some(trouble @ Trouble::Lost { .. }) => {
                return Err(Problem::new(
                    state.describe(&trouble, name),
                    format!(
                        "run `relay drop --yes` and `relay init` (or SELECT pg_drop_replication_slot('{name}'))"
                    ),
                ));
            }
            Some(Trouble::Unreserved | Trouble::Behind) | None => {}
        }
        let kept = ByteSize::b(state.retained.unwrap_or(0));
        match &state.reader {
            Some(reader) => {
                Ok(format!("slot {name} is there, in use by {reader}, {kept} of log kept"))
            }
            None => Ok(format!("slot {name} is there and free, {kept} of log kept")),
        }
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
