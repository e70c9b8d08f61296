//! Against a real server: each way to fail has its own words, and none has the password.

use dsn::{Dsn, Error};
use local::postgres::Postgres;
use std::time::{Duration, Instant};

/// Why there is no connection, and all that is said of it.
async fn refusal(dsn: &str) -> anyhow::Result<(Error, String)> {
    let dsn: Dsn = dsn.parse()?;
    let Err(error) = dsn.connect("test").await else {
        anyhow::bail!("expected no connection to {dsn}");
    };
    let mut said = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        said = format!("{said}: {cause}");
        source = cause.source();
    }
    anyhow::ensure!(!format!("{error:?} {said}").contains("hunter2"), "{said}");
    Ok((error, said))
}

#[tokio::test]
async fn each_failure_has_its_own_error() -> anyhow::Result<()> {
    let postgres = Postgres::start(&[]).await?;
    let port = postgres.port();

    let (error, said) =
        refusal(&format!("postgres://postgres:hunter2@127.0.0.1:{port}/postgres")).await?;
    assert!(matches!(&error, Error::Login { user, .. } if user == "postgres"));
    assert!(said.contains("password authentication failed") && said.contains(&port.to_string()));

    let (error, said) = refusal(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await?;
    assert!(matches!(error, Error::Login { .. }) && said.contains("a password is needed"));

    let (error, said) = refusal(&postgres.url("missing")).await?;
    assert!(matches!(&error, Error::NoDatabase { database, .. } if database == "missing"));
    assert!(!error.is_transient() && said.contains("create it"));

    let url = format!("{}?sslmode=require", postgres.url("postgres"));
    let (error, said) = refusal(&url.replace("127.0.0.1", "localhost")).await?;
    assert!(matches!(error, Error::Handshake { .. }) && said.contains("does not support TLS"));

    drop(postgres);
    let (error, said) =
        refusal(&format!("postgres://postgres:hunter2@127.0.0.1:{port}/postgres")).await?;
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{said}");
    assert!(said.contains("refused"), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_password_may_come_from_elsewhere_and_the_database_may_be_another() -> anyhow::Result<()>
{
    let postgres = Postgres::start(&[]).await?;
    let database = postgres.create_database().await?;
    let dsn: Dsn = format!("postgres://postgres@127.0.0.1:{}", postgres.port()).parse()?;
    let dsn = dsn.with_password_from(Some("postgres".to_owned())).with_database(&database);
    let (client, driver) = dsn.connect("by test").await?;
    let row = client
        .query_one("select current_database()::text, current_setting('application_name')", &[])
        .await?;
    assert_eq!((row.get(0), row.get(1)), (database.as_str(), "by test"));
    drop(client);
    driver.await?;

    let kept: Dsn = postgres.url("postgres").parse()?;
    let kept = kept.with_password_from(Some("hunter2".to_owned()));
    assert!(kept.connect("by test").await.is_ok(), "the string's own password comes first");
    Ok(())
}

#[tokio::test]
async fn a_unix_socket_is_local_and_a_dead_host_leaves_the_next_its_turn() -> anyhow::Result<()> {
    let postgres = Postgres::start(&[]).await?;
    let pairs = format!(
        "host={} port={} user=postgres password=postgres dbname=postgres sslmode=require",
        postgres.socket_dir().display(),
        postgres.port()
    );
    let dsn: Dsn = pairs.parse()?;
    assert!(dsn.is_local());
    dsn.connect("test").await?;

    // Bound and let go: nothing listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let two: Dsn = format!(
        "postgres://postgres:postgres@127.0.0.1:{closed},127.0.0.1:{}/postgres",
        postgres.port()
    )
    .parse()?;
    two.connect("test").await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() -> anyhow::Result<()> {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = silent.local_addr()?.port();
    let started = Instant::now();
    let url = format!("postgres://u:hunter2@127.0.0.1:{port}/d?connect_timeout=1");
    let (error, _) = refusal(&url).await?;
    assert!(matches!(error, Error::TimeOut { seconds: 1, .. }) && error.is_transient());
    assert!(started.elapsed() < Duration::from_secs(5));
    Ok(())
}
