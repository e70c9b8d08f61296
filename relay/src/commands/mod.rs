//! One file for each verb. Each returns whether all is well.

pub(crate) mod check;
pub(crate) mod dead_letters;
pub(crate) mod drop;
pub(crate) mod init;
pub(crate) mod run;
pub(crate) mod status;

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
    let dsn = dsn.with_password_from(std::env::var("PGPASSWORD").ok());
    let dsn = match &config.postgres.password_file {
        Some(path) => dsn.with_password_file(path.into()),
        None => dsn,
    };
    Ok(with_pass_file(dsn))
}

/// The same with `PGPASSFILE`, or else the password file in the home folder.
fn with_pass_file(dsn: Dsn) -> Dsn {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    match set("PGPASSFILE").map(PathBuf::from).or_else(home) {
        Some(path) => dsn.with_pass_file(path),
        None => dsn,
    }
}

/// The destinations that the configuration names, in the order of their ids.
async fn destinations(config: &Config) -> anyhow::Result<Vec<Destination>> {
    let addresses = config.destinations()?.addresses;
    let region = addresses.iter().find_map(relay::publish::Address::region);
    let aws = aws_config(region).await;
    Ok(addresses.iter().map(|address| Destination::new(&aws, address.clone())).collect())
}
