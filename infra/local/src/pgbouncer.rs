//! pgbouncer in transaction mode before a server, as RDS Proxy stands there on AWS.

use crate::postgres::Postgres;
use crate::process::{Process, command, free_port, server_user};
use anyhow::{Context, Result, bail};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How many connections it has to the server.
const SERVER_CONNECTIONS: u32 = 2;

/// A running pgbouncer.
#[derive(Debug)]
pub struct Pgbouncer {
    _process: Process,
    _folder: TempDir,
    port: u16,
}

impl Pgbouncer {
    /// Starts one before a database of this server.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn start(server: &Postgres, database: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("relay-pgbouncer-").tempdir()?;
        let (user, port) = (server_user()?, free_port()?);
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{database} = host=127.0.0.1 port={} user=postgres password=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n\
             max_client_conn = 100\nserver_reset_query =\nignore_startup_parameters = extra_float_digits,options\n",
            server.port()
        );
        std::fs::write(&settings, text)?;
        // It refuses to run as root, and its user must read what we wrote.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        std::fs::set_permissions(&settings, std::fs::Permissions::from_mode(0o644))?;
        let mut pgbouncer = command(&program()?, "TERM", user);
        pgbouncer.arg(&settings).current_dir(folder.path());
        let log = folder.path().join("pgbouncer.log");
        let mut process = Process::start("pgbouncer", pgbouncer, &log)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if !process.is_running() || Instant::now() > deadline {
                bail!("pgbouncer does not start; its log:\n{}", process.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { _process: process, _folder: folder, port })
    }

    /// The connection string of the database behind it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.exists())
        .context("expected pgbouncer on the PATH, found none; run infra/local/setup, or install the package pgbouncer")
}
