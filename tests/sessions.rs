//! Every way into Postgres that an operator may need, tried on a real server, for both kinds of
//! connection: the replication session and the ordinary one.

mod encryption;
mod failover;
mod hosts;
mod iam;
mod logins;
mod passwords;

use crate::harness::{LIMIT, World};
use anyhow::{Context, Result, ensure};
use dsn::Dsn;
use local::process::server_user;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm,
};
use relay::wire::{Session, WireError};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server that takes each role's login in its own way, over TLS and without.
struct Server {
    world: World,
    folder: TempDir,
}

const HBA: &str = "\
local all postgres trust
host all m 127.0.0.1/32 md5
hostssl all clear 127.0.0.1/32 password
hostssl all shown 127.0.0.1/32 cert
hostnossl all tls 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
";

impl Server {
    async fn start() -> Result<Self> {
        Self::signed_with(&rcgen::PKCS_ECDSA_P256_SHA256).await
    }

    /// Its authority signs certificates in this way.
    async fn signed_with(algorithm: &'static SignatureAlgorithm) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        certificates(folder.path(), algorithm)?;
        std::fs::write(folder.path().join("hba.conf"), HBA)?;
        for name in ["hba.conf", "server.key", "server.pem", "authority.pem"] {
            for_the_server(&folder.path().join(name))?;
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (hba, chain, key, authority) =
            (path("hba.conf"), path("server.pem"), path("server.key"), path("authority.pem"));
        let addresses = if has_ipv6() { "127.0.0.1,::1" } else { "127.0.0.1" };
        let settings = [
            ("ssl", "on"),
            ("ssl_cert_file", chain.as_str()),
            ("ssl_key_file", key.as_str()),
            ("ssl_ca_file", authority.as_str()),
            ("hba_file", hba.as_str()),
            ("listen_addresses", addresses),
        ];
        let world = World::bare(&settings).await?;
        ensure!(world.relay("").arg("init").output()?.status.success(), "relay init failed");
        let client = world.client().await?;
        client
            .batch_execute(
                "create role s superuser login password 'secret';
                 create role tls superuser login password 'secret';
                 create role shown superuser login;
                 create role clear superuser login password 'secret';
                 set password_encryption = 'md5'; create role m superuser login password 'secret'",
            )
            .await?;
        Ok(Self { world, folder })
    }

    /// A connection string for this role, to `localhost`, with its certificate's authority.
    fn tls(&self, role: &str, more: &str) -> String {
        let authority = self.folder.path().join("authority.pem");
        format!(
            "postgres://{role}@localhost:{}/{}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}{more}",
            self.world.postgres.port(),
            self.world.database,
            authority.display()
        )
    }

    /// The settings that show the certificate of the role `shown`.
    fn certificate(&self) -> String {
        let own = |name: &str| self.folder.path().join(name).display().to_string();
        format!("&sslcert={}&sslkey={}", own("client.pem"), own("client.key"))
    }

    fn plain(&self, role: &str, more: &str) -> String {
        format!(
            "postgres://{role}@127.0.0.1:{}/{}{more}",
            self.world.postgres.port(),
            self.world.database
        )
    }
}

/// An authority, and what it signs: the server's certificate for `localhost`, and one for the
/// role `shown`.
fn certificates(folder: &Path, algorithm: &'static SignatureAlgorithm) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let key = KeyPair::generate_for(algorithm)?;
    let authority = params.self_signed(&key)?;
    std::fs::write(folder.join("authority.pem"), authority.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, subject, names) in
        [("server", "localhost", &["localhost", "db.example.com"][..]), ("client", "shown", &[])]
    {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, subject);
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &issuer)?;
        std::fs::write(folder.join(format!("{name}.pem")), signed.pem())?;
        let path = folder.join(format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Makes a file the server's user's alone, as Postgres demands of a key.
fn for_the_server(path: &Path) -> Result<()> {
    let mode = if path.ends_with("authority.pem") { 0o644 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if let Some(user) = server_user()? {
        chown(path, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

/// Opens both kinds of connection.
async fn open(dsn: &Dsn) -> Result<()> {
    let (client, _driver) = dsn.connect("test").await.context("an ordinary connection")?;
    client.query_one("select 1", &[]).await?;
    stream(dsn).await.context("a replication session")
}

/// Opens a replication session and ends it, as soon as the slot is free.
async fn stream(dsn: &Dsn) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match Session::start(dsn, "relay", "relay").await {
            Ok((session, _)) => return Ok(session.finish().await?),
            Err(WireError::SlotInUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why there is neither kind of connection, with all causes; and no password in it.
async fn refusals(dsn: &str) -> Result<[String; 2]> {
    let dsn: Dsn = dsn.parse()?;
    let Err(ordinary) = dsn.connect("test").await else {
        anyhow::bail!("expected no connection to {dsn}");
    };
    let Err(session) = Session::start(&dsn, "relay", "relay").await else {
        anyhow::bail!("expected no session with {dsn}");
    };
    let debugged = format!("{ordinary:?} {session:?}");
    let said = [anyhow::Error::from(ordinary), anyhow::Error::from(session)];
    let said = said.map(|error| format!("{error:#}"));
    ensure!(!format!("{debugged} {said:?}").contains("secret"), "the password is shown: {said:?}");
    Ok(said)
}

/// Both kinds of connection are refused, and both say so in one of these words.
async fn both_refused(dsn: &str, words: &[&str]) -> Result<()> {
    for said in refusals(dsn).await? {
        ensure!(words.iter().any(|word| said.contains(word)), "expected {words:?} in: {said}");
    }
    Ok(())
}

fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}
