//! Every way into Postgres that an operator may need, tried on a real server, for both kinds of
//! connection: the replication session and the ordinary one.

use crate::harness::{LIMIT, World, text};
use anyhow::{Context, Result, ensure};
use dsn::{Dsn, Mint};
use local::postgres::Postgres;
use local::process::server_user;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use relay::wire::{Session, WireError};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;

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
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
";

impl Server {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        certificates(folder.path())?;
        std::fs::write(folder.path().join("hba.conf"), HBA)?;
        for name in ["hba.conf", "server.key", "server.pem", "authority.pem"] {
            for_the_server(&folder.path().join(name))?;
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (hba, chain, key, authority) =
            (path("hba.conf"), path("server.pem"), path("server.key"), path("authority.pem"));
        let addresses = if std::net::TcpListener::bind("[::1]:0").is_ok() {
            "127.0.0.1,::1"
        } else {
            "127.0.0.1"
        };
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
fn certificates(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?;
    std::fs::write(folder.join("authority.pem"), authority.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, subject) in [("server", "localhost"), ("client", "shown")] {
        let mut params = CertificateParams::new(vec![subject.to_owned()])?;
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

/// Why there is no replication session, with all causes.
async fn refusal(dsn: &str) -> Result<String> {
    let dsn: Dsn = dsn.parse()?;
    match Session::start(&dsn, "relay", "relay").await {
        Ok(_) => anyhow::bail!("expected no session for {dsn}"),
        Err(error) => {
            let debugged = format!("{error:?}");
            let said = format!("{:#} {debugged}", anyhow::Error::from(error));
            ensure!(!said.contains("secret"), "the password is shown: {said}");
            Ok(said)
        }
    }
}

#[tokio::test]
async fn every_login_opens_both_kinds_of_connection() -> Result<()> {
    let server = Server::start().await?;
    let socket = server.world.postgres.socket_dir().display().to_string();
    let own = |name: &str| server.folder.path().join(name).display().to_string();
    let certificate = format!("&sslcert={}&sslkey={}", own("client.pem"), own("client.key"));
    for (login, string) in [
        ("SCRAM", server.plain("s:secret", "")),
        ("SCRAM over TLS, bound to it", server.tls("s:secret", "&channel_binding=require")),
        ("SCRAM over TLS, not bound", server.tls("s:secret", "&channel_binding=disable")),
        ("md5", server.plain("m:secret", "")),
        ("md5 over TLS", server.tls("m:secret", "")),
        ("clear text over TLS", server.tls("clear:secret", "")),
        ("a client certificate", server.tls("shown", &certificate)),
        (
            "a unix socket",
            format!(
                "host={socket} port={} user=postgres dbname={}",
                server.world.postgres.port(),
                server.world.database
            ),
        ),
    ] {
        open(&string.parse()?).await.with_context(|| login.to_owned())?;
    }
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let string = server.plain("s:secret", "").replace("127.0.0.1", "[::1]");
        open(&string.parse()?).await.context("IPv6")?;
    } else {
        println!("skipped: this machine has no IPv6");
    }
    Ok(())
}

#[tokio::test]
async fn a_login_that_is_not_safe_or_not_right_is_refused_and_says_why() -> Result<()> {
    let server = Server::start().await?;
    let said = refusal(&server.plain("s:secret", "?channel_binding=require")).await?;
    assert!(said.contains("needs TLS"), "{said}");
    let said = refusal(&server.tls("clear:secret", "&channel_binding=require")).await?;
    assert!(said.contains("asks for the password itself"), "{said}");
    let said = refusal(&server.tls("shown", "")).await?;
    assert!(said.contains("certificate"), "{said}");
    let said = refusal(&server.plain("s:secret-not", "")).await?;
    assert!(said.contains("password authentication failed"), "{said}");
    let said = refusal(&server.plain("s", "")).await?;
    assert!(said.contains("there is none for this server"), "{said}");
    let string = server.tls("s:secret", "").replace("authority.pem", "client.pem");
    let said = refusal(&string).await?;
    assert!(said.contains("no TLS with"), "{said}");
    Ok(())
}

/// The server checks the token as a password in clear text, as RDS does.
#[tokio::test]
async fn an_iam_token_is_minted_for_each_connection() -> Result<()> {
    let server = Server::start().await?;
    let client = server.world.client().await?;
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let credentials = || {
        aws_credential_types::Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            None,
            None,
            "test",
        )
    };
    let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_473_000);
    let token = move |host: &str, port: u16, user: &str| {
        relay::iam::token((host, port), user, "eu-west-1", &credentials(), then)
    };
    let expected = token("localhost", server.world.postgres.port(), "clear")?;
    client.batch_execute(&format!("alter role clear password '{expected}'")).await?;
    let mint = Mint::new({
        let asked = std::sync::Arc::clone(&asked);
        move |host: String, port, user: String| {
            asked.lock().unwrap().push(host.clone());
            let minted = token(&host, port, &user).map_err(dsn::MintError::from);
            async move { minted }
        }
    });
    let dsn: Dsn = server.tls("clear", "").parse()?;
    open(&dsn.with_mint(mint)?).await?;
    assert_eq!(*asked.lock().unwrap(), ["localhost", "localhost"], "one for each connection");
    Ok(())
}

/// Sets a server to read only; new sessions see it in a moment.
async fn take_no_writes(client: &tokio_postgres::Client) -> Result<()> {
    client.execute("alter system set default_transaction_read_only = on", &[]).await?;
    client.execute("select pg_reload_conf()", &[]).await?;
    Ok(())
}

/// Waits until a server says that it takes no writes.
async fn read_only_said(string: &str) -> Result<WireError> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match Session::start(&string.parse()?, "relay", "relay").await {
            Err(error @ WireError::Dsn(dsn::Error::ReadOnly { .. })) => return Ok(error),
            other if Instant::now() > deadline => {
                anyhow::bail!("expected a refusal, found {other:?}");
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_found() -> Result<()> {
    let world = World::new().await?;
    let read_only = Postgres::start(&[]).await?;
    let client = read_only.connect("postgres").await?;
    client.batch_execute(&format!("create database {}", world.database)).await?;
    take_no_writes(&client).await?;
    // One that refuses, one that accepts and says nothing, one that takes no writes.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let ports = [gone, silent.local_addr()?.port(), read_only.port(), world.postgres.port()];
    let ports = ports.map(|port| port.to_string()).join(",");
    let string = format!(
        "host=127.0.0.1,localhost,127.0.0.1,127.0.0.1 port={ports} user=postgres password=postgres dbname={} connect_timeout=1",
        world.database
    );
    let reads_only = format!(
        "host=127.0.0.1 port={} user=postgres password=postgres dbname={} target_session_attrs=read-write",
        read_only.port(),
        world.database
    );
    read_only_said(&reads_only).await?;
    let began = Instant::now();
    let dsn: Dsn = string.parse()?;
    let (_session, identity) = Session::start(&dsn, "relay", "relay").await?;
    println!("found after {:?}", began.elapsed());
    let client = world.client().await?;
    let own =
        client.query_one("select system_identifier::text from pg_control_system()", &[]).await?;
    assert_eq!(identity.system_id, own.get::<_, String>(0));

    let string = string.replace(&format!(",{}", world.postgres.port()), &format!(",{gone}"));
    let said = refusal(&string).await?;
    for reason in ["refused", "no answer within 1 s", "found it read-only"] {
        assert!(said.contains(reason), "expected {reason} in {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_named() -> Result<()> {
    let world = World::new().await?;
    take_no_writes(&world.client().await?).await?;
    let string = format!("{}?target_session_attrs=read-write", world.postgres.url(&world.database));
    let error = read_only_said(&string).await?;
    assert!(error.is_transient() && format!("{:#}", anyhow::anyhow!("{error:?}")).contains("ReadOnly"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_password_comes_from_the_first_place_that_has_one() -> Result<()> {
    let server = Server::start().await?;
    let home = tempfile::tempdir()?;
    let file = home.path().join("password");
    std::fs::write(&file, "secret\n")?;
    let lines = home.path().join(".pgpass");
    std::fs::write(&lines, "*:*:*:other:wrong\n*:*:*:s:secret\n")?;
    std::fs::set_permissions(&lines, std::fs::Permissions::from_mode(0o600))?;
    let empty = tempfile::tempdir()?;
    let path = |path: &Path| path.display().to_string();
    let init = |role: &str, more: &str, variables: &[(&str, String)]| {
        let mut command = server.world.relay("");
        command.arg("init").env("DATABASE_URL", server.plain(role, more)).env("HOME", empty.path());
        command.env_remove("PGPASSWORD").env_remove("PGPASSFILE").envs(variables.iter().cloned());
        command.output()
    };
    for (role, more, variables) in [
        ("s:secret", "", vec![("PGPASSWORD", "wrong".to_owned())]),
        ("s", "", vec![("PGPASSWORD", "secret".to_owned()), ("RELAY_PASSWORD_FILE", path(&lines))]),
        ("s", "", vec![("RELAY_PASSWORD_FILE", path(&file)), ("HOME", path(home.path()))]),
        ("s", "", vec![("PGPASSFILE", path(&lines))]),
        ("s", "", vec![("HOME", path(home.path()))]),
        ("s", &format!("?passfile={}", path(&lines)), vec![]),
    ] {
        let output = init(role, more, &variables)?;
        assert!(output.status.success(), "{role} {variables:?}: {}", text(&output));
    }
    let none = init("s", "", &[])?;
    assert!(text(&none).contains("a password is needed"), "{}", text(&none));
    std::fs::set_permissions(&lines, std::fs::Permissions::from_mode(0o644))?;
    let open = init("s", "", &[("PGPASSFILE", path(&lines))])?;
    assert_eq!(open.status.code(), Some(2));
    assert!(
        text(&open).contains("chmod 600") && !text(&open).contains("secret"),
        "{}",
        text(&open)
    );
    Ok(())
}
