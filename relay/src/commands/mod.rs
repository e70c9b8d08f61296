//! One file for each verb. Each returns whether all is well.

pub(crate) mod check;
pub(crate) mod drop;
pub(crate) mod init;
pub(crate) mod run;
pub(crate) mod status;

use anyhow::Context;
use dsn::Dsn;
use relay::config::{Config, Login};
use relay::publish::{Destination, aws_config};
use std::path::PathBuf;

/// The source database, with its password.
///
/// The first that there is: the connection string's own, `PGPASSWORD`, the file that holds it
/// alone, the line of a password file as libpq has it; or a token for each connection.
async fn source(config: &Config) -> anyhow::Result<Dsn> {
    let dsn: Dsn = config.database_url()?.parse()?;
    if config.postgres.login == Login::AwsIam {
        let aws = aws_config(None).await;
        return Ok(dsn.with_mint(relay::iam::mint(&aws)?)?);
    }
    let mut dsn = dsn.with_password_from(std::env::var("PGPASSWORD").ok());
    if let Some(path) = &config.postgres.password_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("expected a file of the password at {path}"))?;
        dsn = dsn.with_password_from(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let lines = dsn.password_file().map(PathBuf::from);
    let lines = lines.or_else(|| std::env::var_os("PGPASSFILE").map(PathBuf::from));
    let lines =
        lines.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass")));
    match lines {
        Some(path) => Ok(dsn.with_password_in(&path)?),
        None => Ok(dsn),
    }
}

/// The destinations that the configuration names, in the order of their ids.
async fn destinations(config: &Config) -> anyhow::Result<Vec<Destination>> {
    let addresses = config.destinations()?.addresses;
    let region = addresses.iter().find_map(relay::publish::Address::region);
    let aws = aws_config(region).await;
    Ok(addresses.iter().map(|address| Destination::new(&aws, address.clone())).collect())
}
