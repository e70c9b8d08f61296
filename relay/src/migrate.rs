//! The SQL of the `sql` folder, applied in order and once.
//!
//! All that is missing is applied in one transaction, which takes the lock that two at once wait
//! for. So nothing is half made when it is killed, and it works behind a pooler in transaction mode:
//! nothing of it outlives the transaction, and no statement is prepared under a name.

use refinery::Migration;
use std::future::Future;
use tokio_postgres::{Client, SimpleQueryMessage};

mod source {
    refinery::embed_migrations!("../sql/source");
}

mod read_model {
    refinery::embed_migrations!("../sql/read_model");
}

/// Which side of the system a database is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Events are written here.
    Source,
    /// Events are applied here.
    ReadModel,
}

impl Side {
    fn migrations(self) -> Vec<Migration> {
        let runner = match self {
            Self::Source => source::migrations::runner(),
            Self::ReadModel => read_model::migrations::runner(),
        };
        let mut migrations = runner.get_migrations().clone();
        migrations.sort();
        migrations
    }

    /// The table that says what was applied.
    fn history(self) -> &'static str {
        match self {
            Self::Source => "relay.migration_source",
            Self::ReadModel => "relay.migration_read_model",
        }
    }
}

/// Why the SQL could not be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The transaction, its lock, or the table of what was applied.
    #[error("the schema relay cannot be prepared")]
    Prepare(#[from] tokio_postgres::Error),
    /// A migration.
    #[error("{name} cannot be applied; nothing was changed")]
    Apply {
        /// The migration.
        name: String,
        /// The server's reason.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The database has a migration that this relay does not know.
    #[error(
        "expected a schema of this version or an older one, found {name}, which a newer relay applied; run `relay init` of that version or a newer one"
    )]
    Newer {
        /// The migration.
        name: String,
    },
    /// A migration was changed after it was applied, or is missing between others.
    #[error(
        "expected {expected}, found {found}: the schema relay was made by another build of these files; take the relay that made it, or one that is newer"
    )]
    Divergent {
        /// The migration as this relay has it.
        expected: String,
        /// What the database has.
        found: String,
    },
}

impl MigrateError {
    /// What the server said, where it is the server that refused.
    #[must_use]
    pub fn refused(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Prepare(source) | Self::Apply { source, .. } => Some(source),
            Self::Newer { .. } | Self::Divergent { .. } => None,
        }
    }
}

/// One migration of the history.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Applied {
    version: i64,
    name: String,
    checksum: String,
}

fn label(version: i64, name: &str) -> String {
    format!("V{version}__{name}")
}

fn name(migration: &Migration) -> String {
    label(migration.version().into(), migration.name())
}

/// Which migrations are to be applied.
fn missing(known: Vec<Migration>, applied: &[Applied]) -> Result<Vec<Migration>, MigrateError> {
    let newest = applied.iter().map(|a| a.version).max();
    for there in applied {
        let label = label(there.version, &there.name);
        let Some(ours) = known.iter().find(|m| i64::from(m.version()) == there.version) else {
            return Err(MigrateError::Newer { name: label });
        };
        if ours.name() != there.name || ours.checksum().to_string() != there.checksum {
            return Err(MigrateError::Divergent {
                expected: name(ours),
                found: format!("{label} with other contents"),
            });
        }
    }
    let is_applied = |m: &Migration| applied.iter().any(|a| a.version == i64::from(m.version()));
    let missing: Vec<_> = known.into_iter().filter(|m| !is_applied(m)).collect();
    match missing.iter().find(|m| newest.is_some_and(|newest| i64::from(m.version()) < newest)) {
        Some(skipped) => Err(MigrateError::Divergent {
            expected: name(skipped),
            found: format!("V{} without it", newest.unwrap_or_default()),
        }),
        None => Ok(missing),
    }
}

/// Begins. No migration finds a function or an operator that someone planted, not those from before
/// there was a search_path in each. NOTICEs of what is there already are silent, and the server notices within a second
/// that this process was killed, even while it waits for a lock (servers on Linux).
const BEGIN: &str = "begin; set local search_path = pg_catalog, pg_temp; set local client_min_messages = warning; select pg_catalog.set_config('client_connection_check_interval'::text, '1000'::text, true) where pg_catalog.version() operator(pg_catalog.~) 'linux'";
/// One lock for both sides: one database may be both.
const LOCK: &str = "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('relay.migrate'::text, 0::bigint))";
const SCHEMA: &str = "create schema if not exists relay";

fn history(side: Side) -> String {
    format!(
        "create table if not exists {} (version int4 primary key, name varchar(255), applied_on varchar(255), checksum varchar(255))",
        side.history()
    )
}

fn record(side: Side, migration: &Migration) -> String {
    format!(
        "insert into {} (version, name, applied_on, checksum) values ({}, '{}', pg_catalog.to_char(pg_catalog.now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), '{}')",
        side.history(),
        migration.version(),
        migration.name().replace('\'', "''"),
        migration.checksum()
    )
}

/// Applies what is missing, in one transaction; returns the names of what was applied.
///
/// Two at once wait for each other: `waiting` is given the process id of this session while it
/// waits for the lock, and may say so. A migration that was changed after it was applied is refused.
///
/// # Errors
/// When the role may not create the objects, or a migration fails; then nothing was changed.
pub async fn migrate_and_tell<F: Future<Output = ()>>(
    client: &Client,
    side: Side,
    waiting: impl FnOnce(i32) -> F,
) -> Result<Vec<String>, MigrateError> {
    let applied = apply(client, side, waiting).await;
    // Behind a pooler the connection is given back only by the end of the transaction.
    let end = if applied.is_ok() { "commit" } else { "rollback" };
    let ended = client.batch_execute(end).await;
    let applied = applied?;
    ended?;
    Ok(applied)
}

/// The same, waiting without a word.
///
/// # Errors
/// As [`migrate_and_tell`].
pub async fn migrate(client: &Client, side: Side) -> Result<Vec<String>, MigrateError> {
    migrate_and_tell(client, side, |_| std::future::pending()).await
}

async fn apply<F: Future<Output = ()>>(
    client: &Client,
    side: Side,
    waiting: impl FnOnce(i32) -> F,
) -> Result<Vec<String>, MigrateError> {
    client.batch_execute(BEGIN).await?;
    let process = values(client, "select pg_catalog.pg_backend_pid()").await?;
    let process = process.first().and_then(|row| row.first()?.parse().ok()).unwrap_or_default();
    let work = async {
        client.batch_execute(LOCK).await?;
        client.batch_execute(&format!("{SCHEMA}; {}", history(side))).await?;
        let missing = missing(side.migrations(), &applied(client, side).await?)?;
        for migration in &missing {
            let sql = migration.sql().unwrap_or_default();
            let failed = |source| MigrateError::Apply { name: name(migration), source };
            client.batch_execute(sql).await.map_err(failed)?;
            client.batch_execute(&record(side, migration)).await.map_err(failed)?;
        }
        Ok(missing.iter().map(name).collect())
    };
    tokio::select! {
        done = work => done,
        () = async { waiting(process).await; std::future::pending().await } => Ok(Vec::new()),
    }
}

/// What [`migrate`] would run, as SQL that a person can read and apply; nothing is changed.
///
/// # Errors
/// When the history cannot be read, or does not fit.
pub async fn plan(client: &Client, side: Side) -> Result<Vec<String>, MigrateError> {
    let there = format!("select pg_catalog.to_regclass('{}')", side.history());
    let there = values(client, &there).await?;
    let made = there.first().is_some_and(|row| row.first().is_some_and(|name| !name.is_empty()));
    let applied = if made { applied(client, side).await? } else { Vec::new() };
    let missing = missing(side.migrations(), &applied)?;
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let mut statements = vec![BEGIN.to_owned(), LOCK.to_owned(), SCHEMA.to_owned(), history(side)];
    for migration in &missing {
        let sql = migration.sql().unwrap_or_default().trim_end().trim_end_matches(';');
        // It may end with a comment.
        statements.push(format!("-- {}\n{sql}\n", name(migration)));
        statements.push(record(side, migration));
    }
    statements.push("commit".to_owned());
    Ok(statements)
}

async fn applied(client: &Client, side: Side) -> Result<Vec<Applied>, MigrateError> {
    let sql = format!("select version, name, checksum from {} order by version", side.history());
    let rows = values(client, &sql).await?;
    let read = |row: Vec<String>| {
        let [version, name, checksum] = <[String; 3]>::try_from(row).ok()?;
        Some(Applied { version: version.parse().ok()?, name, checksum })
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// The rows of a question as texts, without a prepared statement: a pooler would leave it behind.
async fn values(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let value = |at| row.get(at).unwrap_or_default().to_owned();
            Some((0..row.len()).map(value).collect())
        }
        _ => None,
    };
    Ok(client.simple_query(sql).await?.iter().filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied_of(migrations: &[Migration]) -> Vec<Applied> {
        let applied = |m: &Migration| Applied {
            version: m.version().into(),
            name: m.name().to_owned(),
            checksum: m.checksum().to_string(),
        };
        migrations.iter().map(applied).collect()
    }

    #[test]
    fn what_was_applied_is_not_applied_again_and_what_does_not_fit_is_refused() {
        let known = Side::Source.migrations();
        assert_eq!(missing(known.clone(), &[]).unwrap().len(), known.len());
        let mut all = applied_of(&known);
        assert!(missing(known.clone(), &all).unwrap().is_empty());
        let rest = missing(known.clone(), &all[..2]).unwrap();
        assert_eq!(rest.len(), known.len() - 2);
        let skipped = missing(known.clone(), &all[1..]).unwrap_err();
        assert!(matches!(skipped, MigrateError::Divergent { .. }), "{skipped}");
        all[0].checksum = "0".to_owned();
        let changed = missing(known.clone(), &all).unwrap_err().to_string();
        assert!(changed.contains("with other contents"), "{changed}");
        let newer = Applied { version: 10_000, name: "next".to_owned(), checksum: String::new() };
        let newer = missing(known, &[newer]).unwrap_err().to_string();
        assert!(newer.contains("a newer relay applied"), "{newer}");
    }
}
