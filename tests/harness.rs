//! A database, a broker and the relay's binary for one test.

use anyhow::{Result, bail, ensure};
use local::postgres::Postgres;
use local::process::Process;
use local::stack::{binary, relay_command};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::broker::{Accepted, Broker};
use tokio_postgres::Client;

/// Long enough for a slow machine; a test that passes does not wait for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    pub(crate) broker: Broker,
    relay: PathBuf,
    folder: TempDir,
    runs: std::cell::Cell<u32>,
}

impl World {
    /// A server of its own, a fresh database with the relay's tables, slot and publication.
    pub(crate) async fn new() -> Result<Self> {
        let world = Self::bare(&[]).await?;
        let output = world.relay("").arg("init").output()?;
        ensure!(output.status.success(), "relay init failed: {}", text(&output));
        Ok(world)
    }

    /// The same without `relay init`, with settings of the server.
    pub(crate) async fn bare(settings: &[(&str, &str)]) -> Result<Self> {
        let postgres = Postgres::start(settings).await?;
        let database = postgres.create_database().await?;
        Ok(Self {
            postgres,
            database,
            broker: Broker::start(),
            relay: binary("relay")?,
            folder: TempDir::new()?,
            runs: std::cell::Cell::new(0),
        })
    }

    /// Where the relay's commands run.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        self.postgres.connect(&self.database).await
    }

    /// A command of the relay that publishes to this address.
    pub(crate) fn relay(&self, to: &str) -> Command {
        let url = self.postgres.url(&self.database);
        let mut command = relay_command(&self.relay, &url, to, self.broker.endpoint());
        command.env("RUST_BACKTRACE", "0").current_dir(self.folder.path());
        if to.is_empty() {
            command.env_remove("RELAY_TOPIC_ARN");
        }
        command
    }

    /// Starts any command of the relay, its log in a file of its own.
    pub(crate) fn start(&self, command: Command) -> Result<Process> {
        self.runs.set(self.runs.get() + 1);
        Process::start(
            "relay",
            command,
            &self.folder.path().join(format!("relay-{}.log", self.runs.get())),
        )
    }

    /// Starts `relay run` and waits until it streams.
    pub(crate) async fn run(&self, to: &str) -> Result<Process> {
        let mut command = self.relay(to);
        command.arg("run");
        let mut process = self.start(command)?;
        process.said("streaming", LIMIT).await?;
        Ok(process)
    }

    /// Waits until a query's only value is true.
    pub(crate) async fn until(&self, client: &Client, sql: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !client.query_one(sql, &[]).await?.get::<_, bool>(0) {
            if Instant::now() > deadline {
                bail!("expected this to come true within {LIMIT:?}: {sql}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// What a command printed, on both channels.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Inserts an event of an order.
pub(crate) const INSERT: &str = "insert into relay.outbox
    (aggregate_type, aggregate_id, aggregate_version, event_type, data)
    values ('order', $1, $2, $3, $4::text::json)";

/// A member of an accepted body.
pub(crate) fn member(accepted: &Accepted, name: &str) -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(&accepted.entry.body).unwrap_or_default()[name]
        .clone()
}
