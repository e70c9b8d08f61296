//! AWS IAM login.

use super::{Server, certificates, open};
use crate::harness::{LIMIT, World, text};
use anyhow::{Context, Result, ensure};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use consumer::{Consumer, Event, Handler, HandlerError, Outcome, Record, Tx};
use dsn::{Dsn, Mint};
use local::stack::binary;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
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
    let asked = Arc::new(Mutex::new(Vec::new()));
    let credentials = || {
        Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            None,
            None,
            "test",
        )
    };
    let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_473_000);
    let token = move |host: &str, port: u16, user: &str| {
        dsn::iam::token((host, port), user, "eu-west-1", &credentials(), then)
            .map(dsn::iam::Token::into_password)
    };
    let expected = token("localhost", server.world.postgres.port(), "clear")?;
    client.batch_execute(&format!("alter role clear password '{expected}'")).await?;
    let mint = Mint::new({
        let asked = Arc::clone(&asked);
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

    assert_is_a_token(&shown, port);

    // Without TLS nothing is asked, not even of this machine.
    let plain = login(format!("postgres://relay@localhost:{port}/shop")).output()?;
    assert_eq!(plain.status.code(), Some(2));
    assert!(text(&plain).contains("a login token is a password in clear text"), "{}", text(&plain));
    Ok(())
}

/// What a server is shown for the role `relay` with the keys of these tests.
fn assert_is_a_token(shown: &str, port: u16) {
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
}

/// What the relay's own commands show the read model.
#[tokio::test]
async fn the_commands_for_the_read_model_show_a_token_over_tls_and_never_tell_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    certificates(folder.path(), &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let world = World::bare(&[]).await?;
    // A password that the string does not name is not asked for either.
    let pass_file = folder.path().join("passwords");
    std::fs::write(&pass_file, "*:*:*:*:not this one")?;
    std::fs::set_permissions(&pass_file, std::fs::Permissions::from_mode(0o600))?;
    let login = |arguments: &[&str], url: &str, login: &str| {
        let mut command = world.relay("");
        command.args(arguments).env("READ_MODEL_URL", url).env("READ_MODEL_LOGIN", login);
        command.env("AWS_REGION", "eu-west-1").env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE");
        command.env("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        command.env_remove("AWS_SESSION_TOKEN").env("PGPASSFILE", &pass_file);
        command
    };
    for arguments in [&["parked", "list"][..], &["init", "--read-model"]] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let plain = format!("postgres://relay:not-this-one@localhost:{port}/shop");
        let authority = folder.path().join("authority.pem");
        let url = format!("{plain}?sslmode=verify-full&sslrootcert={}", authority.display());
        let mut command = login(arguments, &url, "aws-iam");
        let relay = tokio::task::spawn_blocking(move || command.output());
        let shown = tokio::time::timeout(LIMIT, asked_for_a_password(listener, folder.path()));
        assert_is_a_token(&shown.await??, port);
        let output = relay.await??;
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output);
        assert!(said.contains("PAM authentication failed") && !said.contains("X-Amz"), "{said}");

        for (url, value, why) in [
            (&plain, "aws-iam", "a login token is a password in clear text"),
            (&url, "iam", "expected `password` or `aws-iam`"),
        ] {
            let refused = text(&login(arguments, url, value).output()?);
            assert!(refused.contains(why), "{refused}");
        }
    }
    Ok(())
}

/// The function reads its login, region and credentials where Lambda puts them.
#[tokio::test]
async fn a_function_shows_a_token_over_tls_and_never_tells_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    certificates(folder.path(), &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let function = binary("order_summary")?;
    let start = |url: String, login: &str| {
        let mut command = Command::new(&function);
        // No runtime API is there: the function ends when it has tried to connect.
        command.env_clear().env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1");
        command.env("AWS_LAMBDA_FUNCTION_NAME", "f").env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128");
        command.env("AWS_LAMBDA_FUNCTION_VERSION", "1").env("AWS_LAMBDA_LOG_GROUP_NAME", "g");
        command.env("AWS_LAMBDA_LOG_STREAM_NAME", "s").env("AWS_REGION", "eu-west-1");
        command.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE");
        command.env("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        command.env("AWS_SESSION_TOKEN", "a/b+c==").env("READ_MODEL_LOGIN", login);
        command.env("READ_MODEL_URL", url);
        command
    };
    let url = format!(
        "postgres://relay:not-this-one@localhost:{port}/shop?sslmode=verify-full&sslrootcert={}",
        folder.path().join("authority.pem").display()
    );
    let mut command = start(url.clone(), "aws-iam");
    let function = tokio::task::spawn_blocking(move || command.output());
    let shown = asked_for_a_password(listener, folder.path()).await?;
    assert_is_a_token(&shown, port);
    assert!(shown.contains("X-Amz-Security-Token=a%2Fb%2Bc%3D%3D"), "{shown}");
    let said = text(&function.await??);
    assert!(said.contains("PAM authentication failed") && !said.contains("X-Amz"), "{said}");

    for (url, login, why) in [
        (format!("postgres://relay@localhost:{port}/shop"), "aws-iam", "set sslmode=verify-full"),
        (url, "iam", "expected READ_MODEL_LOGIN to be password or aws-iam"),
    ] {
        let refused = start(url, login).output()?;
        assert!(!refused.status.success());
        assert!(text(&refused).contains(why), "{}", text(&refused));
    }
    Ok(())
}

/// Keys that are others each time, as those of a role are after a while.
#[derive(Debug, Default)]
struct Rotating(AtomicU32);

impl ProvideCredentials for Rotating {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let id = format!("KEY{}", self.0.fetch_add(1, Ordering::Relaxed));
        future::ProvideCredentials::ready(Ok(Credentials::new(id, "secret", None, None, "test")))
    }
}

struct Nothing;

impl Handler for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    async fn handle(&self, _: &Event, _: &mut Tx<'_>) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// The server checks each token as a password in clear text, over its own TLS, and takes no
/// token but the last.
#[tokio::test]
async fn a_consumer_has_a_new_token_for_each_connection() -> Result<()> {
    let server = Server::start().await?;
    let url = server.world.postgres.url(&server.world.database);
    let mut init = server.world.relay("");
    init.args(["init", "--read-model"]).env("READ_MODEL_URL", url);
    ensure!(init.output()?.status.success(), "relay init --read-model failed");
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let admin = Arc::new(server.world.client().await?);
    let minted: Dsn = server.tls("clear", "").parse()?;
    let provider = SharedCredentialsProvider::new(Rotating::default());
    let minted = minted.with_mint(Mint::iam("eu-west-1", provider))?;
    // What is minted becomes the role's password before it is shown.
    let mint = Mint::new({
        let (tokens, admin) = (Arc::clone(&tokens), Arc::clone(&admin));
        move |_, _, _| {
            let (tokens, admin, minted) = (Arc::clone(&tokens), Arc::clone(&admin), minted.clone());
            async move {
                let token = minted.password().await?.ok_or("expected a token, found none")?;
                let token = String::from_utf8(token)?;
                admin.batch_execute(&format!("alter role clear password '{token}'")).await?;
                tokens.lock().unwrap().push(token.clone());
                Ok(token)
            }
        }
    });
    let read_model: Dsn = server.tls("clear", "").parse()?;
    let mut consumer = Consumer::new(Nothing, &read_model.with_mint(mint)?);
    for version in 1..=3 {
        let event = format!(
            r#"{{"event_id":"00000000-0000-4000-8000-00000000000{version}","event_type":"ok",
                "timestamp":"2026-01-15T10:30:00Z","aggregate_type":"thing","aggregate_id":"a",
                "aggregate_version":{version},"data":1}}"#
        );
        let record = Record::new(Some("m".to_owned()), Some(event), false, |_| None);
        let report = consumer.deliver(vec![record]).await?;
        assert_eq!(report.count(Outcome::Applied), 1);
        if version == 2 {
            // The first two were of one connection, over TLS.
            let kill = "select pg_terminate_backend(pid), ssl
                from pg_stat_activity join pg_stat_ssl using (pid) where usename = 'clear'";
            let killed = admin.query(kill, &[]).await?;
            assert_eq!(killed.iter().map(|row| row.get(1)).collect::<Vec<bool>>(), [true]);
        }
    }
    let tokens = tokens.lock().unwrap().clone();
    let keys: Vec<bool> = ["KEY0%2F", "KEY1%2F"]
        .iter()
        .zip(&tokens)
        .map(|(key, token)| token.contains(&format!("X-Amz-Credential={key}")))
        .collect();
    assert_eq!((tokens.len(), keys), (2, vec![true, true]), "one for each connection");
    Ok(())
}
