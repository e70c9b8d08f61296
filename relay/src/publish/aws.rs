//! How AWS is reached: credentials, region, endpoints, time-outs.

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::{Builder, tls};
use aws_types::service_config::ServiceConfigKey;
use std::time::Duration;

/// The SDK's configuration: its default chain of credentials and regions, our
/// own retries (the SDK's would hold a key's place unseen), and rustls with ring.
///
/// `region` is that of an address that names one; without it the default chain decides.
pub async fn aws_config(region: Option<&str>) -> SdkConfig {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(15))
        .build();
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(Builder::new().tls_provider(tls).build_https())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .app_name(
            aws_config::AppName::new("relay").unwrap_or_else(|_| unreachable!("a legal name")),
        );
    match region {
        Some(region) => loader.region(Region::new(region.to_owned())).load().await,
        None => loader.load().await,
    }
}

/// Why there is no S3 to put claim checks into.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// No region is known.
    #[error("expected a region for the bucket of claim_check, found none; set AWS_REGION")]
    NoRegion,
    /// There is no source of credentials.
    #[error("expected AWS credentials for the bucket of claim_check, found no source of them")]
    NoCredentials,
}

/// S3 as this configuration reaches it.
///
/// # Errors
/// When the configuration has no region or no source of credentials.
pub fn s3_store(config: &SdkConfig) -> Result<s3::Store, StoreError> {
    let region = config.region().ok_or(StoreError::NoRegion)?;
    let credentials = config.credentials_provider().ok_or(StoreError::NoCredentials)?;
    let place = s3::Place::new(region.as_ref())
        .at(s3_endpoint(config))
        .fips(config.use_fips().unwrap_or_default())
        .dual_stack(config.use_dual_stack().unwrap_or_default());
    Ok(s3::Store::new(place, credentials))
}

/// `AWS_ENDPOINT_URL_S3`, its counterpart in a profile, or the endpoint of all services.
fn s3_endpoint(config: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("s3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url");
    let own = key.build().ok().and_then(|key| config.service_config()?.load_config(key));
    own.or_else(|| config.endpoint_url().map(str::to_owned))
}
