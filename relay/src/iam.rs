//! AWS IAM login with the region and the credentials of the SDK's default chain.

use aws_config::SdkConfig;
use dsn::Mint;

/// Why no token can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IamError {
    /// No region is known.
    #[error("expected a region to sign the token for, found none; set AWS_REGION")]
    NoRegion,
    /// There are no credentials.
    #[error("expected AWS credentials, found no source of them")]
    NoCredentials,
}

/// A mint that asks for credentials anew for each connection.
///
/// # Errors
/// When the configuration has no region or no source of credentials.
pub fn mint(config: &SdkConfig) -> Result<Mint, IamError> {
    let region = config.region().ok_or(IamError::NoRegion)?.to_string();
    let credentials = config.credentials_provider().ok_or(IamError::NoCredentials)?;
    Ok(Mint::iam(region, credentials))
}
