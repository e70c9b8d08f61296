//! Debezium's embedded engine with the Outbox Event Router, as a client beside the others.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `tests/bench/publish --debezium` has put it.
#[derive(Clone, Debug)]
pub(crate) struct Debezium {
    /// The folder with Debezium's jars.
    pub(crate) jars: PathBuf,
    /// The folder with the compiled `debezium/Count.java`.
    pub(crate) classes: PathBuf,
}

impl Debezium {
    /// The engine, which ends after so many events; with `seen` it writes there when each came.
    pub(crate) fn command(
        &self,
        url: &str,
        slot: &str,
        events: u32,
        seen: Option<&Path>,
    ) -> Result<Command> {
        let dsn: dsn::Dsn = url.parse()?;
        let port = dsn.config().get_ports().first().copied().unwrap_or(5432);
        let password = dsn.config().get_password().map(String::from_utf8_lossy).unwrap_or_default();
        let classes = self.classes.to_str().context("a folder whose name is no text")?;
        let mut command = Command::new("java");
        // Less than a heap without a limit would take: in its favour.
        command.args(["-Xmx512m", "-cp", &format!("{classes}:{}/*", self.jars.display()), "Count"]);
        command.arg(events.to_string());
        command.arg(seen.unwrap_or(Path::new("-")));
        command.args(ENGINE);
        command.args([
            format!("slot.name={slot}"),
            format!("publication.name={}", crate::load::PUBLICATION),
            format!("database.port={port}"),
            format!("database.user={}", dsn.user()),
            format!("database.password={password}"),
            format!("database.dbname={}", dsn.database()),
        ]);
        Ok(command)
    }
}

/// The properties that are always the same (documentation of Debezium's PostgreSQL connector
/// and of its Outbox Event Router). The batches and queues have the sizes of its defaults.
const ENGINE: [&str; 18] = [
    "name=bench",
    "topic.prefix=bench",
    "connector.class=io.debezium.connector.postgresql.PostgresConnector",
    "offset.storage=org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
    "offset.flush.interval.ms=1000",
    "database.hostname=127.0.0.1",
    "plugin.name=pgoutput",
    "publication.autocreate.mode=disabled",
    "snapshot.mode=no_data",
    "slot.drop.on.stop=false",
    "table.include.list=relay.outbox",
    "transforms=outbox",
    "transforms.outbox.type=io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.table.field.event.id=event_id",
    "transforms.outbox.table.field.event.key=aggregate_id",
    "transforms.outbox.table.field.event.payload=data",
    "transforms.outbox.route.by.field=aggregate_type",
    "transforms.outbox.table.fields.additional.placement=event_type:header:event_type,correlation_id:header:correlation_id",
];
