//! The SQL of the `sql` folder, applied in order and once.

use tokio_postgres::Client;

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

/// Why the SQL could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The schema or the lock that guards the migrations.
    #[error("cannot prepare the schema relay; the role needs CREATE on the database")]
    Prepare(#[from] tokio_postgres::Error),
    /// A migration.
    #[error("a migration could not be applied")]
    Apply(#[from] refinery::Error),
}

/// Applies what is missing; returns the names of what was applied.
///
/// Two at once wait for each other. A migration that was changed after it was
/// applied is refused.
///
/// # Errors
/// When the role may not create the objects, or a migration fails; then it is rolled back.
pub async fn migrate(client: &mut Client, side: Side) -> Result<Vec<String>, MigrateError> {
    // One lock for both sides: one database may be both.
    client.batch_execute("select pg_advisory_lock(hashtextextended('relay.migrate', 0))").await?;
    client.batch_execute("create schema if not exists relay").await?;
    let (mut runner, history) = match side {
        Side::Source => (source::migrations::runner(), "relay.migration_source"),
        Side::ReadModel => (read_model::migrations::runner(), "relay.migration_read_model"),
    };
    let applied = runner.set_migration_table_name(history).run_async(client).await;
    client.batch_execute("select pg_advisory_unlock(hashtextextended('relay.migrate', 0))").await?;
    let name = |m: &refinery::Migration| format!("V{}__{}", m.version(), m.name());
    Ok(applied?.applied_migrations().iter().map(name).collect())
}
