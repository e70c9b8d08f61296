//! One file for each verb. Each returns whether all is well.

pub(crate) mod check;
pub(crate) mod dead_letters;
pub(crate) mod drop;
pub(crate) mod init;
mod kept;
mod moment;
pub(crate) mod new;
pub(crate) mod parked;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod upkeep;

use anyhow::Context as _;
use bytesize::ByteSize;
use dsn::Dsn;
use relay::config::{Config, Login};
use relay::publish::{Access, ClaimChecks, Destination, aws_config};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use std::path::PathBuf;

/// Arguments that clap cannot judge alone, and that are wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// A variable that is no key of the configuration, without the newline of a mounted secret. One
/// without a value counts as not set.
fn variable(name: &str) -> Result<Option<String>, Usage> {
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    let value = value
        .into_string()
        .map_err(|_| Usage(format!("expected UTF-8 text in {name}, found bytes that are not")))?;
    let value = value.trim_end_matches(['\r', '\n']);
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

/// The source database, with its password.
///
/// The first that there is: the connection string's own, `PGPASSWORD`, the file that holds it
/// alone, the line of a password file as libpq has it; or a token for each connection.
///
/// Its sessions look up names among Postgres's own alone.
async fn source(config: &Config) -> anyhow::Result<Dsn> {
    let dsn: Dsn =
        config.database_url()?.parse().context("postgres.url (DATABASE_URL) cannot be used")?;
    let dsn = dsn.with_builtin_names();
    if config.postgres.login == Login::AwsIam {
        return with_tokens(dsn).await;
    }
    let dsn = dsn.with_password_from(variable("PGPASSWORD")?);
    let dsn = match &config.postgres.password_file {
        Some(path) => dsn.with_password_file(path.into()),
        None => dsn,
    };
    Ok(with_pass_file(dsn))
}

/// The read model, with its password; or a token for each connection, as `READ_MODEL_LOGIN` says
/// here as it does to the functions.
async fn read_model() -> anyhow::Result<Dsn> {
    let url = variable("READ_MODEL_URL")?.ok_or_else(|| {
        Usage(
            "expected READ_MODEL_URL, the connection string of the read model; found nothing"
                .to_owned(),
        )
    })?;
    let dsn: Dsn = url.trim().parse().context("READ_MODEL_URL cannot be used")?;
    match read_model_login().context("READ_MODEL_LOGIN cannot be used")? {
        Login::Password => Ok(with_pass_file(dsn)),
        Login::AwsIam => with_tokens(dsn).await,
    }
}

fn read_model_login() -> Result<Login, Usage> {
    let Some(login) = variable("READ_MODEL_LOGIN")? else { return Ok(Login::default()) };
    let login = Login::deserialize(login.trim().into_deserializer());
    login.map_err(|error: serde::de::value::Error| Usage(error.to_string()))
}

/// The same, shown a token of AWS IAM for each connection.
async fn with_tokens(dsn: Dsn) -> anyhow::Result<Dsn> {
    let aws = aws_config(None).await;
    Ok(dsn.with_mint(relay::iam::mint(&aws)?)?)
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
    let destinations = config.destinations()?;
    let region = destinations.addresses.iter().find_map(relay::publish::Address::region);
    let aws = Access::new(region, &config.aws).await;
    let claim_checks = claim_checks(config, &aws)?;
    let with_settings = destinations.addresses.into_iter().zip(destinations.settings);
    let destination = with_settings.map(|(address, settings)| {
        let claim_checks = claim_checks.as_ref().filter(|_| settings.claim_check);
        let claim_checks = claim_checks.map(|claims| claims.of_format(settings.format));
        aws.destination(address).with_claim_checks(claim_checks)
    });
    Ok(destination.collect())
}

/// The bucket for what is too large for a message, where there is one.
fn claim_checks(config: &Config, aws: &Access) -> anyhow::Result<Option<ClaimChecks>> {
    let wanted = &config.claim_check;
    let Some(bucket) = wanted.bucket() else { return Ok(None) };
    let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    let (above, largest) = (wanted.above.map(bytes), bytes(wanted.largest));
    Ok(Some(ClaimChecks::new(aws.s3_store()?, bucket, &wanted.prefix, above, largest)))
}
