//! The session over TLS: verified in full, or not at all.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::{Context, Result};
use local::process::server_user;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../relay/dsn/tests/certificates").join(name)
}

/// A copy that Postgres takes for its own: its user's, and no one else's to read.
fn for_the_server(folder: &Path, name: &str) -> Result<String> {
    let copy = folder.join(name);
    std::fs::copy(certificate(name), &copy)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600))?;
    if let Some(user) = server_user()? {
        chown(&copy, Some(user.uid), Some(user.gid))?;
    }
    Ok(copy.to_str().context("a path in UTF-8")?.to_owned())
}

#[tokio::test]
async fn a_session_over_tls_is_verified_in_full() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let chain = for_the_server(folder.path(), "server.pem")?;
    let key = for_the_server(folder.path(), "server.key")?;
    let settings = [("ssl", "on"), ("ssl_cert_file", &chain), ("ssl_key_file", &key)];
    let world = World::bare(&settings).await?;
    assert!(world.relay("").arg("init").output()?.status.success());
    let topic = world.broker.topic("orders.fifo");
    let url = world.postgres.url(&world.database).replace("127.0.0.1", "localhost");

    let authority = certificate("authority.pem");
    let verified = format!("{url}?sslmode=verify-full&sslrootcert={}", authority.display());
    let mut command = world.relay(&topic);
    command.arg("run").env("DATABASE_URL", verified);
    let mut relay = world.start(command)?;
    relay.said("streaming", LIMIT).await?;
    let client = world.client().await?;
    // Both sessions of the relay, the one for questions being over: the stream is encrypted.
    world.until(&client, "select bool_and(s.ssl) from pg_stat_replication as r join pg_stat_ssl as s using (pid)").await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    assert!(relay.terminate(LIMIT).await?.success());

    // The system's authorities do not know this server, so nothing is said to it.
    let unverified = format!("{url}?sslmode=require");
    let unknown = world.relay(&topic).arg("check").env("DATABASE_URL", unverified).output()?;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown).contains("certificate"), "{}", text(&unknown));
    Ok(())
}
