//! A real Postgres server in a folder of its own, gone when it is dropped.

mod programs;
mod standby;

use crate::process::{Process, User, free_port, server_user};
use anyhow::{Context, Result, bail};
use programs::program;
pub use programs::programs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// The superuser's password, on loopback only.
const PASSWORD: &str = "postgres";

/// What every server has unless a setting says otherwise: logical replication,
/// and no fsync, because its data does not outlive it.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_connections", "200"),
    ("listen_addresses", "127.0.0.1"),
    ("password_encryption", "scram-sha-256"),
    ("track_commit_timestamp", "on"),
    ("fsync", "off"),
    ("shared_buffers", "64MB"),
];

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    folder: TempDir,
    programs: PathBuf,
    user: Option<User>,
    port: u16,
    settings: Vec<(String, String)>,
}

impl Postgres {
    /// Starts a server with these settings beside the usual ones.
    ///
    /// # Errors
    /// When there is no Postgres, or it does not start.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let programs = programs()?;
        let user = server_user()?;
        let template = template(&programs, user)?;
        let folder =
            tempfile::Builder::new().prefix("relay-pg-").tempdir().context("make a folder")?;
        copy_to(&template, folder.path(), user)?;
        let mut server = Self {
            process: None,
            folder,
            programs,
            user,
            port: 0,
            settings: settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        };
        server.launch_on_a_free_port().await?;
        Ok(server)
    }

    async fn launch_on_a_free_port(&mut self) -> Result<()> {
        // Another process can take the port between its choice and the start.
        for attempt in 0..5 {
            self.port = free_port()?;
            match self.launch().await {
                Ok(()) => break,
                Err(error) if attempt == 4 => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn launch(&mut self) -> Result<()> {
        let mut server = program(&self.programs, "postgres", "QUIT", self.user);
        server.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        server.arg("-k").arg(self.folder.path());
        for (name, value) in SETTINGS {
            server.arg("-c").arg(format!("{name}={value}"));
        }
        for (name, value) in &self.settings {
            server.arg("-c").arg(format!("{name}={value}"));
        }
        server.current_dir(self.folder.path());
        let log = self.folder.path().join("server.log");
        let mut process = Process::start("Postgres", server, &log)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.connect("postgres").await.is_err() {
            if !process.is_running() || Instant::now() > deadline {
                bail!("Postgres does not start; its log:\n{}", process.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The connection string of one of its databases, for the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Connects to one of its databases as the superuser.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Makes a fresh database and returns its name.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn create_database(&self) -> Result<String> {
        let name = format!("d{}", Uuid::new_v4().simple());
        self.connect("postgres").await?.batch_execute(&format!("create database {name}")).await?;
        Ok(name)
    }

    /// Stops it in order: clients are disconnected, data is written.
    ///
    /// A server waits for its walsenders, and they until their readers have confirmed all of
    /// the log; one that takes too long can still be crashed.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.end("INT").await
    }

    /// Stops it in order once no client is connected; it takes no new ones.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_smart(&mut self) -> Result<()> {
        self.end("TERM").await
    }

    /// Stops it at once, as a crash would: it recovers at the next start.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn crash(&mut self) -> Result<()> {
        self.end("QUIT").await
    }

    async fn end(&mut self, signal: &str) -> Result<()> {
        if let Some(process) = &mut self.process {
            process.signal(signal);
            process.ended(Duration::from_secs(30)).await?;
            self.process = None;
        }
        Ok(())
    }

    /// Starts it again, on the same port with the same data.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.end("INT").await?;
        self.launch().await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // QUIT lets the server end its own children; killed outright it could not.
            process.signal("QUIT");
            let deadline = Instant::now() + Duration::from_secs(5);
            while process.is_running() && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    }
}

/// An empty cluster, made once for each version and copied for each server.
fn template(programs: &Path, user: Option<User>) -> Result<PathBuf> {
    let version = programs::version(programs)?;
    let uid = user.map_or_else(|| "own".to_owned(), |user| user.uid.to_string());
    let target = std::env::temp_dir().join(format!("relay-postgres-template-{version}-{uid}"));
    if target.join("data/PG_VERSION").exists() {
        return Ok(target);
    }
    // Beside its final place, so that the rename is one step however many start at once.
    let making =
        tempfile::Builder::new().prefix("relay-pg-template-").tempdir().context("make a folder")?;
    give_to(making.path(), user)?;
    let password = making.path().join("password");
    std::fs::write(&password, PASSWORD).context("write the password file")?;
    give_to(&password, user)?;
    let output = program(programs, "initdb", "KILL", user)
        .arg("-D")
        .arg(making.path().join("data"))
        .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--auth=scram-sha-256", "--no-sync"])
        .arg("--pwfile")
        .arg(&password)
        .current_dir(making.path())
        .output()
        .context("run initdb")?;
    if !output.status.success() {
        bail!("initdb failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    // pg_hba's scram lines of the template hold for replication connections too.
    match std::fs::rename(making.path(), &target) {
        Ok(()) => {}
        Err(_) if target.join("data/PG_VERSION").exists() => {}
        Err(error) => return Err(error).context("keep the empty cluster"),
    }
    Ok(target)
}

fn copy_to(template: &Path, folder: &Path, user: Option<User>) -> Result<()> {
    give_to(folder, user)?;
    let status = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(template.join("data"))
        .arg(folder)
        .stderr(Stdio::null())
        .status()
        .context("copy the empty cluster")?;
    if !status.success() {
        bail!("the empty cluster {} cannot be copied", template.display());
    }
    Ok(())
}

fn give_to(path: &Path, user: Option<User>) -> Result<()> {
    let Some(User { uid, gid }) = user else {
        return Ok(());
    };
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
        .with_context(|| format!("give {} to the server's user", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_server_is_of_the_version_that_was_asked_for() {
        let asked = std::env::var_os("RELAY_TEST_POSTGRES").and_then(|v| v.into_string().ok());
        let asked = asked.filter(|text| text.parse::<u32>().is_ok());
        let wanted = asked.unwrap_or_else(|| programs::version(&programs().unwrap()).unwrap());
        let server = Postgres::start(&[]).await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        let row = client.query_one("show server_version", &[]).await.unwrap();
        let major = |text: &str| text.split('.').next().unwrap().to_owned();
        assert_eq!(major(row.get(0)), major(&wanted));
    }

    #[tokio::test]
    async fn a_server_starts_crashes_recovers_and_is_gone_when_dropped() {
        let mut server = Postgres::start(&[("fsync", "on")]).await.unwrap();
        let database = server.create_database().await.unwrap();
        let client = server.connect(&database).await.unwrap();
        client.batch_execute("create table t (n int); insert into t values (1)").await.unwrap();
        server.crash().await.unwrap();
        server.restart().await.unwrap();
        let client = server.connect(&database).await.unwrap();
        assert_eq!(client.query_one("select n from t", &[]).await.unwrap().get::<_, i32>(0), 1);
        let folder = server.socket_dir().to_owned();
        drop(server);
        assert!(!folder.exists());
    }
}
