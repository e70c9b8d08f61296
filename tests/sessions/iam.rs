//! AWS IAM login.

use super::{Server, certificates, open};
use crate::harness::{World, text};
use anyhow::{Context, Result, ensure};
use dsn::{Dsn, Mint};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

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

/// As much of Postgres as asks for a password in clear text over TLS, and refuses it as RDS
/// does; returns what it was shown.
async fn asked_for_a_password(listener: TcpListener, folder: &Path) -> Result<String> {
    let chain =
        CertificateDer::pem_file_iter(folder.join("server.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let (mut plain, _) = listener.accept().await?;
    ensure!(message(&mut plain).await? == [4, 210, 22, 47], "expected a request for TLS");
    plain.write_all(b"S").await?;
    let mut tls = TlsAcceptor::from(Arc::new(config)).accept(plain).await?;
    message(&mut tls).await?;
    tls.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
    tls.flush().await?;
    ensure!(tls.read_u8().await? == b'p', "expected a password");
    let password = message(&mut tls).await?;
    let refusal = b"SFATAL\0C28000\0MPAM authentication failed for user \"relay\"\0\0";
    tls.write_u8(b'E').await?;
    tls.write_u32(u32::try_from(refusal.len())? + 4).await?;
    tls.write_all(refusal).await?;
    tls.shutdown().await?;
    Ok(String::from_utf8(password)?.trim_end_matches('\0').to_owned())
}

/// The body of a message, behind its length.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let length = from.read_u32().await?.checked_sub(4).context("a length of 4 or more")?;
    let mut body = vec![0; length.try_into()?];
    from.read_exact(&mut body).await?;
    Ok(body)
}

#[tokio::test]
async fn the_relay_shows_a_token_over_tls_and_never_tells_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    certificates(folder.path(), &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let world = World::bare(&[]).await?;
    let login = |url: String| {
        let mut command = world.relay("");
        command.arg("init").env("DATABASE_URL", url).env("RELAY_LOGIN", "aws-iam");
        command.env("AWS_REGION", "eu-west-1").env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE");
        command.env("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        command.env_remove("AWS_SESSION_TOKEN").env("PGPASSWORD", "not this one");
        command
    };
    let authority = folder.path().join("authority.pem");
    let url = format!(
        "postgres://relay@localhost:{port}/shop?sslmode=verify-full&sslrootcert={}",
        authority.display()
    );
    let mut command = login(url);
    let relay = tokio::task::spawn_blocking(move || command.output());
    let shown = asked_for_a_password(listener, folder.path()).await?;
    let output = relay.await??;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("PAM authentication failed") && !said.contains("X-Amz"), "{said}");

    let form = format!("localhost:{port}/?Action=connect&DBUser=relay&X-Amz-");
    assert!(shown.starts_with(&form), "{shown}");
    for part in [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256",
        "X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F",
        "%2Feu-west-1%2Frds-db%2Faws4_request",
        "X-Amz-Expires=900",
        "X-Amz-SignedHeaders=host",
        "X-Amz-Signature=",
    ] {
        assert!(shown.contains(part), "expected {part} in {shown}");
    }

    // Without TLS nothing is asked, not even of this machine.
    let plain = login(format!("postgres://relay@localhost:{port}/shop")).output()?;
    assert_eq!(plain.status.code(), Some(2));
    assert!(text(&plain).contains("a login token is a password in clear text"), "{}", text(&plain));
    Ok(())
}
