//! `sslmode` and its companions, as docs/connection.md has them.

use super::{Server, both_refused, open};
use anyhow::{Context, Result};
use dsn::Dsn;
use local::postgres::Postgres;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Whether an ordinary connection of this string is encrypted.
async fn is_encrypted(dsn: &str) -> Result<bool> {
    let (client, _driver) = dsn.parse::<Dsn>()?.connect("test").await?;
    let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

#[tokio::test]
async fn each_mode_to_this_machine_does_what_its_name_says() -> Result<()> {
    let server = Server::start().await?;
    let authority =
        format!("&sslrootcert={}", server.folder.path().join("authority.pem").display());
    let to = |host: &str, role: &str, settings: &str| {
        server.plain(role, &format!("?{settings}")).replace("127.0.0.1", host)
    };
    // The role `tls` is let in over TLS alone.
    for (settings, host, encrypted) in [
        ("", "localhost", false),
        ("sslmode=disable", "localhost", false),
        ("sslmode=prefer", "localhost", true),
        ("sslmode=require", "localhost", true),
        ("sslmode=verify-ca", "localhost", true),
        ("sslmode=verify-ca", "127.0.0.1", true),
        ("sslmode=verify-full", "localhost", true),
    ] {
        let string = to(host, "s:secret", &format!("{settings}{authority}"));
        assert_eq!(is_encrypted(&string).await?, encrypted, "{settings} {host}");
        let tls = to(host, "tls:secret", &format!("{settings}{authority}"));
        if encrypted {
            open(&tls.parse()?).await.with_context(|| settings.to_owned())?;
        } else {
            both_refused(&tls, &["pg_hba.conf rejects"]).await?;
        }
    }
    // The certificate names localhost: another name is refused.
    for mode in ["require", "verify-full"] {
        let string = to("127.0.0.1", "s:secret", &format!("sslmode={mode}{authority}"));
        both_refused(&string, &["no TLS with"]).await?;
    }
    // No one trusts its authority: refused, but where TLS is only preferred.
    for mode in ["require", "verify-ca", "verify-full"] {
        let string = to("localhost", "s:secret", &format!("sslmode={mode}"));
        both_refused(&string, &["sslrootcert"]).await?;
    }
    let preferred = to("localhost", "s:secret", "sslmode=prefer");
    assert!(!is_encrypted(&preferred).await?);
    open(&preferred.parse()?).await
}

#[tokio::test]
async fn each_mode_to_another_host_is_verified_in_full_and_disable_is_refused() -> Result<()> {
    let server = Server::start().await?;
    // Its name is not local; that its address is does not make it so.
    let string = |name: &str, more: &str| server.tls("s:secret", more).replace("@localhost", name);
    for mode in ["", "prefer", "require", "verify-ca", "verify-full"] {
        let mode = if mode.is_empty() { String::new() } else { format!("sslmode={mode}") };
        let remote = |name: &str| string(name, "").replace("sslmode=verify-full", &mode);
        let named = remote("@db.example.com");
        assert!(is_encrypted(&named).await?, "{mode}");
        open(&named.parse()?).await.with_context(|| mode.clone())?;
        both_refused(&remote("@other.example.com"), &["no TLS with"]).await?;
    }
    let plain = string("@db.example.com", "").replace("verify-full", "disable");
    assert!(matches!(plain.parse::<Dsn>(), Err(dsn::Error::PlainToRemote { .. })));
    Ok(())
}

#[tokio::test]
async fn a_server_without_tls_is_spoken_to_here_where_it_is_preferred_and_nowhere_else()
-> Result<()> {
    let server = Postgres::start(&[]).await?;
    let client = server.connect("postgres").await?;
    client.batch_execute("create publication relay").await?;
    client.batch_execute("select pg_create_logical_replication_slot('relay', 'pgoutput')").await?;
    let string = |settings: &str| format!("{}?{settings}", server.url("postgres"));
    open(&string("sslmode=prefer").parse()?).await?;
    both_refused(&string("sslmode=require"), &["no TLS with", "does not offer it"]).await?;
    Ok(())
}

/// A server that takes the request for TLS and answers with this byte.
async fn answering(byte: u8) -> Result<(u16, tokio::task::JoinHandle<Vec<Vec<u8>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let served = tokio::spawn(async move {
        let mut heard = Vec::new();
        for _ in 0..2 {
            let Ok((mut socket, _)) = listener.accept().await else { break };
            let mut all = vec![0; 8];
            let _ = socket.read_exact(&mut all).await;
            let _ = socket.write_all(&[byte]).await;
            let _ = socket.read_to_end(&mut all).await;
            heard.push(all);
        }
        heard
    });
    Ok((port, served))
}

#[tokio::test]
async fn a_remote_server_without_tls_hears_a_request_for_it_and_no_more() -> Result<()> {
    for answer in [b'N', b'E'] {
        let (port, served) = answering(answer).await?;
        let string =
            format!("host=db.example.com hostaddr=127.0.0.1 port={port} user=u password=secret");
        both_refused(&string, &["no TLS with", "does not offer it", "answered with an error"])
            .await?;
        let request = vec![0, 0, 0, 8, 4, 210, 22, 47];
        assert_eq!(served.await?, [request.clone(), request]);
    }
    Ok(())
}

#[tokio::test]
async fn a_login_is_bound_to_a_certificate_of_any_usual_signature() -> Result<()> {
    let server = Server::signed_with(&rcgen::PKCS_ECDSA_P384_SHA384).await?;
    open(&server.tls("s:secret", "&channel_binding=require").parse()?).await.context("SHA-384")?;
    // A signature with no hash of its own has nothing to bind to (RFC 5929, 4.1).
    let server = Server::signed_with(&rcgen::PKCS_ED25519).await?;
    open(&server.tls("s:secret", "").parse()?).await.context("Ed25519")?;
    let required = server.tls("s:secret", "&channel_binding=require");
    both_refused(&required, &["channel_binding=require needs", "did not use channel binding"]).await
}

#[tokio::test]
async fn tls_from_the_first_byte_is_spoken_from_17_on() -> Result<()> {
    let server = Server::start().await?;
    let string = server.tls("s:secret", "&sslnegotiation=direct");
    let client = server.world.client().await?;
    let sql = "select current_setting('server_version_num')::int / 10000";
    if client.query_one(sql, &[]).await?.get::<_, i32>(0) >= 17 {
        assert!(is_encrypted(&string).await?);
        open(&string.parse()?).await
    } else {
        both_refused(&string, &["no TLS with", "cannot connect"]).await
    }
}
