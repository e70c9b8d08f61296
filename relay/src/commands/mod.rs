//! One file for each verb. Each returns whether all is well.

pub(crate) mod check;
pub(crate) mod init;
pub(crate) mod run;
pub(crate) mod status;

use dsn::Dsn;
use relay::config::Config;
use relay::publish::{Destination, aws_config};

/// The source database.
fn source(config: &Config) -> anyhow::Result<Dsn> {
    let dsn: Dsn = config.database_url()?.parse()?;
    Ok(dsn.with_password_from(std::env::var("PGPASSWORD").ok()))
}

/// The destinations that the configuration names, in the order of their ids.
async fn destinations(config: &Config) -> anyhow::Result<Vec<Destination>> {
    let addresses = config.destinations()?.addresses;
    let region = addresses.iter().find_map(relay::publish::Address::region);
    let aws = aws_config(region).await;
    Ok(addresses.iter().map(|address| Destination::new(&aws, address.clone())).collect())
}
