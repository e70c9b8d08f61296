//! Against a server of TLS: only a certificate that is verified in full is spoken to.

use dsn::{Dsn, Error};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

fn certificates(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "certificates", name].iter().collect()
}

/// As much of Postgres as a login over TLS needs, for one connection; its certificate is for `localhost`.
fn serve(listener: &TcpListener) -> anyhow::Result<()> {
    let chain =
        CertificateDer::pem_file_iter(certificates("server.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(certificates("server.key"))?;
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
    let (mut plain, _) = listener.accept()?;
    read_message(&mut plain)?;
    plain.write_all(b"S")?;
    let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config))?, plain);
    read_message(&mut tls)?;
    // AuthenticationOk, ReadyForQuery.
    tls.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")?;
    tls.flush()?;
    let _ = read_message(&mut tls);
    Ok(())
}

/// A message without a tag: its length, then the rest.
fn read_message(from: &mut impl Read) -> anyhow::Result<()> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let rest = u32::from_be_bytes(length).saturating_sub(4);
    std::io::copy(&mut from.take(rest.into()), &mut std::io::sink())?;
    Ok(())
}

/// What becomes of a connection to a server that shows the certificate of `localhost`.
async fn connect(host: &str, settings: &str) -> anyhow::Result<Result<(), Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let server = std::thread::spawn(move || serve(&listener));
    let dsn: Dsn = format!("postgres://u@{host}:{port}/d?{settings}").parse()?;
    let done = match dsn.connect("test").await {
        Ok((client, driver)) => {
            drop(client);
            driver.await?;
            Ok(())
        }
        Err(error) => Err(error),
    };
    // A server that was never asked still waits for its one connection.
    drop(TcpStream::connect(("127.0.0.1", port)));
    let served = server.join();
    anyhow::ensure!(served.is_ok(), "the server panicked");
    Ok(done)
}

#[tokio::test]
async fn a_certificate_of_a_named_authority_is_trusted() -> anyhow::Result<()> {
    let root = certificates("authority.pem");
    for mode in ["require", "verify-ca", "verify-full"] {
        let settings = format!("sslmode={mode}&sslrootcert={}", root.display());
        connect("localhost", &settings).await??;
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_authority_is_refused_with_the_cure() -> anyhow::Result<()> {
    let refused = connect("localhost", "sslmode=require").await?;
    let Err(error @ Error::Handshake { .. }) = refused else {
        anyhow::bail!("expected a refusal, found {refused:?}");
    };
    assert!(error.to_string().contains("sslrootcert"));
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused_but_here_by_verify_ca() -> anyhow::Result<()> {
    let root = certificates("authority.pem");
    for mode in ["require", "verify-full"] {
        let settings = format!("sslmode={mode}&sslrootcert={}", root.display());
        let refused = connect("127.0.0.1", &settings).await?;
        assert!(matches!(refused, Err(Error::Handshake { .. })), "{mode}: {refused:?}");
    }
    let settings = format!("sslmode=verify-ca&sslrootcert={}", root.display());
    connect("127.0.0.1", &settings).await??;
    // The chain is verified all the same.
    let refused = connect("127.0.0.1", "sslmode=verify-ca").await?;
    assert!(matches!(refused, Err(Error::Handshake { .. })), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_remote_host_is_spoken_to_over_tls_though_nothing_asks_for_it() -> anyhow::Result<()> {
    // The name is remote, the address is not: what counts is the name.
    let root = certificates("authority.pem");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let server = std::thread::spawn(move || -> anyhow::Result<Vec<u8>> {
        let (mut plain, _) = listener.accept()?;
        let mut asked = vec![0; 8];
        plain.read_exact(&mut asked)?;
        plain.write_all(b"N")?;
        // Nothing may follow the refusal: no login, no password.
        plain.read_to_end(&mut asked)?;
        Ok(asked)
    });
    let text = format!(
        "host=db.example.com hostaddr=127.0.0.1 port={port} user=u password=p sslrootcert={}",
        root.display()
    );
    let dsn: Dsn = text.parse()?;
    let refused = dsn.connect("test").await.map(drop);
    assert!(matches!(refused, Err(Error::Handshake { .. })), "{refused:?}");
    let asked = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    assert_eq!(asked, [0, 0, 0, 8, 4, 210, 22, 47], "a request for TLS and no more");
    Ok(())
}

#[test]
fn a_root_file_that_is_none_is_named() -> anyhow::Result<()> {
    for name in ["missing.pem", "server.key"] {
        let path = certificates(name);
        let dsn: Dsn =
            format!("postgres://u@db.example.com/d?sslrootcert={}", path.display()).parse()?;
        let refused = dsn.tls().map(drop);
        assert!(
            matches!(&refused, Err(Error::RootFile { path: found, .. }) if *found == path),
            "{refused:?}"
        );
    }
    Ok(())
}
