//! Where the password comes from, tried with the relay's own command.

use super::{Server, both_refused, open};
use crate::harness::text;
use anyhow::Result;
use local::postgres::Postgres;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

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

/// Two servers with two passwords: each is shown its own, so that a list of hosts tells none of
/// them the password of another.
#[tokio::test]
async fn each_host_has_its_own_line_and_a_changed_file_counts_at_once() -> Result<()> {
    let server = Server::start().await?;
    let other = Postgres::start(&[]).await?;
    let client = other.connect("postgres").await?;
    client.batch_execute("create role s superuser login password 'another secret'").await?;
    let folder = tempfile::tempdir()?;
    let lines = folder.path().join("lines");
    let port = server.world.postgres.port();
    std::fs::write(
        &lines,
        format!("*:{}:*:*:another secret\n*:{port}:*:*:secret\n", other.port()),
    )?;
    std::fs::set_permissions(&lines, std::fs::Permissions::from_mode(0o600))?;
    // The other server lets us in, and has no such database.
    let string = format!(
        "host=127.0.0.1,127.0.0.1 port={},{port} user=s dbname={} passfile={}",
        other.port(),
        server.world.database,
        lines.display()
    );
    open(&string.parse()?).await?;
    std::fs::write(&lines, "")?;
    both_refused(&string, &["a password is needed"]).await?;
    std::fs::write(&lines, format!("*:{}:*:*:another secret\n*:*:*:*:wrong\n", other.port()))?;
    let [ordinary, session] = super::refusals(&string).await?;
    for said in [ordinary, session] {
        assert!(said.contains("does not exist") || said.contains("has no database"), "{said}");
        assert!(said.contains("password authentication failed"), "{said}");
    }
    Ok(())
}
