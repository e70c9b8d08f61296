//! Each kind of login.

use super::{Server, both_refused, has_ipv6, open};
use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt as _;

#[tokio::test]
async fn every_login_opens_both_kinds_of_connection() -> Result<()> {
    let server = Server::start().await?;
    let socket = server.world.postgres.socket_dir().display().to_string();
    for (login, string) in [
        ("SCRAM", server.plain("s:secret", "")),
        ("SCRAM over TLS, bound to it", server.tls("s:secret", "&channel_binding=require")),
        ("SCRAM over TLS, not bound", server.tls("s:secret", "&channel_binding=disable")),
        ("md5", server.plain("m:secret", "")),
        ("md5 over TLS", server.tls("m:secret", "")),
        ("clear text over TLS", server.tls("clear:secret", "")),
        ("a client certificate", server.tls("shown", &server.certificate())),
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
    if has_ipv6() {
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
    let bound = "channel_binding=require";
    let unbound = ["needs TLS", "did not use channel binding"];
    both_refused(&server.plain("s:secret", &format!("?{bound}")), &unbound).await?;
    let itself = ["asks for the password itself", "did not use channel binding"];
    both_refused(&server.tls("clear:secret", &format!("&{bound}")), &itself).await?;
    both_refused(&server.tls("m:secret", &format!("&{bound}")), &itself).await?;
    let unbound = ["another kind of login", "did not use channel binding"];
    let shown = format!("&{bound}{}", server.certificate());
    both_refused(&server.tls("shown", &shown), &unbound).await?;
    both_refused(&server.tls("shown", ""), &["certificate"]).await?;
    both_refused(&server.plain("s:secret-not", ""), &["password authentication failed"]).await?;
    both_refused(&server.plain("m:secret-not", ""), &["password authentication failed"]).await?;
    both_refused(&server.tls("clear:secret-not", ""), &["password authentication failed"]).await?;
    both_refused(&server.plain("s", ""), &["a password is needed"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_key_that_others_may_read_is_refused() -> Result<()> {
    let server = Server::start().await?;
    let key = server.folder.path().join("client.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644))?;
    let string = server.tls("shown", &server.certificate());
    both_refused(&string, &["chmod 600"]).await?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    open(&string.parse()?).await
}

/// The server refuses what it does not know, so it has read the options.
#[tokio::test]
async fn options_of_the_string_reach_the_server_in_both_kinds_of_connection() -> Result<()> {
    let server = Server::start().await?;
    let with = |options: &str| server.plain("s:secret", &format!("?options={options}"));
    both_refused(&with("-c%20no_such_setting=1"), &["no_such_setting"]).await?;
    open(&with("-c%20statement_timeout=60000").parse()?).await
}
