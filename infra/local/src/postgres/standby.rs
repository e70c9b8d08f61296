//! A standby of a server, for tests of a failover.

use super::{PASSWORD, Postgres, copy_to};
use anyhow::{Context, Result};

/// What the standby calls itself, and its slot on the primary.
const NAME: &str = "standby";

impl Postgres {
    /// A physical standby of this server, which is stopped for a moment to be copied.
    ///
    /// It takes over failover slots (from 17 on) when it is asked to, with
    /// `pg_sync_replication_slots()`: the worker that does so by itself may wait 30 seconds.
    ///
    /// # Errors
    /// When either of the two does not start.
    pub async fn standby(&mut self) -> Result<Self> {
        let client = self.connect("postgres").await?;
        client
            .execute("select pg_create_physical_replication_slot($1::text::name, true)", &[&NAME])
            .await
            .context("make the standby's slot")?;
        drop(client);
        self.stop().await?;
        let folder =
            tempfile::Builder::new().prefix("relay-pg-").tempdir().context("make a folder")?;
        copy_to(self.folder.path(), folder.path(), self.user)?;
        self.launch().await?;
        let mut settings = self.settings.clone();
        let primary = format!(
            "host=127.0.0.1 port={} user=postgres password={PASSWORD} dbname=postgres application_name={NAME}",
            self.port
        );
        let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
        set("primary_conninfo", &primary);
        set("primary_slot_name", NAME);
        set("hot_standby_feedback", "on");
        let mut standby = Self {
            process: None,
            folder,
            programs: self.programs.clone(),
            user: self.user,
            port: 0,
            settings,
        };
        std::fs::write(standby.data().join("standby.signal"), "").context("make it a standby")?;
        // The primary's slots came with the copy; its own would keep its log for ever.
        let slots = standby.data().join("pg_replslot");
        for entry in std::fs::read_dir(&slots).context("read the slots")?.flatten() {
            std::fs::remove_dir_all(entry.path()).context("forget a slot")?;
        }
        standby.launch_on_a_free_port().await?;
        Ok(standby)
    }
}
