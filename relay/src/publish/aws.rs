//! How AWS is reached: credentials, region, endpoints, time-outs.

use super::identity::Identities;
use super::{Address, Destination};
use crate::config::Aws;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::{Builder, tls};
use std::time::Duration;

/// What names this product in the user agent of each request, as `app/relay-…`.
pub const PRODUCT: &str = concat!("relay-", env!("CARGO_PKG_VERSION"));

/// The SDK's configuration: its default chain of credentials and regions, our
/// own retries (the SDK's would hold a key's place unseen), and rustls with ring.
///
/// `region` is that of an address that names one; without it the default chain decides.
pub async fn aws_config(region: Option<&str>) -> SdkConfig {
    loader(region).load().await
}

fn loader(region: Option<&str>) -> ConfigLoader {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(15))
        .build();
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(Builder::new().tls_provider(tls).build_https())
        .retry_config(RetryConfig::disabled())
        // The time-out below covers it, and the watching of each body costs.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(timeouts)
        .app_name(AppName::new(PRODUCT).unwrap_or_else(|_| unreachable!("a legal name")));
    match region {
        Some(region) => loader.region(Region::new(region.to_owned())),
        None => loader,
    }
}

/// AWS as the operator's settings say that it is reached.
#[derive(Clone, Debug)]
pub struct Access {
    config: SdkConfig,
    identities: Identities,
}

impl Access {
    /// Finds out what the chain has; asks no one for credentials yet.
    pub async fn new(region: Option<&str>, settings: &Aws) -> Self {
        let identities = Identities::default();
        let mut loader = loader(region).identity_cache(identities.clone());
        // Where they are not set the SDK's own variables decide.
        if settings.dual_stack {
            loader = loader.use_dual_stack(true);
        }
        if settings.fips {
            loader = loader.use_fips(true);
        }
        let chain = loader.load().await;
        let config = match settings.role_arn() {
            Some(role) => with_role(chain, role, settings.external_id()).await,
            None => chain,
        };
        Self { config, identities }
    }

    /// A destination that is reached so; nothing is sent yet.
    #[must_use]
    pub fn destination(&self, address: Address) -> Destination {
        Destination::new(&self.config, address).with_identities(self.identities.clone())
    }

    /// S3 for claim checks.
    ///
    /// # Errors
    /// When there is no region or no source of credentials.
    pub fn s3_store(&self) -> Result<s3::Store, StoreError> {
        let region = self.config.region().ok_or(StoreError::NoRegion)?;
        let credentials = self.config.credentials_provider().ok_or(StoreError::NoCredentials)?;
        let place = s3::Place::new(region.as_ref())
            .at(super::cause::endpoint(&self.config, "s3"))
            .fips(self.config.use_fips().unwrap_or_default())
            .dual_stack(self.config.use_dual_stack().unwrap_or_default());
        Ok(s3::Store::new(place, credentials, PRODUCT))
    }
}

/// The same with the role that the chain's credentials take on.
async fn with_role(chain: SdkConfig, role: &str, external_id: Option<&str>) -> SdkConfig {
    let role = AssumeRoleProvider::builder(role).session_name(PRODUCT).configure(&chain);
    let role = match external_id {
        Some(id) => role.external_id(id),
        None => role,
    };
    let provider = SharedCredentialsProvider::new(role.build().await);
    chain.into_builder().credentials_provider(provider).build()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::{Outgoing, Publisher as _, Sealed};
    use aws_credential_types::Credentials;
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
    use aws_smithy_types::body::SdkBody;
    use std::sync::{Arc, Mutex};

    /// Notes what is asked, and refuses it.
    #[derive(Clone, Debug, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl HttpConnector for Notes {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            self.0.lock().unwrap().push(request.uri().to_owned());
            let refused = HttpResponse::new(500.try_into().unwrap(), SdkBody::empty());
            HttpConnectorFuture::ready(Ok(refused))
        }
    }

    /// The URLs at which a topic and a queue of eu-west-1 are asked for with these settings.
    async fn urls(dual_stack: bool, fips: bool) -> Vec<String> {
        let settings = format!("[aws]\ndual_stack = {dual_stack}\nfips = {fips}");
        let settings = crate::config::Config::from_sources(&settings, []).unwrap().aws;
        let mut access = Access::new(Some("eu-west-1"), &settings).await;
        let notes = Notes::default();
        let connector = notes.clone();
        let client = http_client_fn(move |_, _| SharedHttpConnector::new(connector.clone()));
        let credentials = Credentials::new("id", "secret", None, None, "test");
        access.config = access
            .config
            .into_builder()
            .http_client(client)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build();
        let event = Sealed {
            event_id: uuid::Uuid::nil(),
            event_type: "t".to_owned(),
            key: "k".to_owned(),
            body: "{}".to_owned(),
            attributes: Vec::new(),
        };
        let topic = "arn:aws:sns:eu-west-1:123456789012:orders.fifo";
        let queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo";
        for address in [topic, queue] {
            let destination = access.destination(address.parse().unwrap());
            destination.publish(&[&Outgoing::probe(event.clone())]).await;
        }
        notes.0.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn endpoints_are_those_that_the_settings_ask_for() {
        for (dual_stack, fips, expected) in [
            (false, false, ["sns.eu-west-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com"]),
            (true, false, ["sns.eu-west-1.api.aws", "sqs.eu-west-1.api.aws"]),
            (false, true, ["sns-fips.eu-west-1.amazonaws.com", "sqs-fips.eu-west-1.amazonaws.com"]),
            (true, true, ["sns-fips.eu-west-1.api.aws", "sqs-fips.eu-west-1.api.aws"]),
        ] {
            let expected = expected.map(|host| format!("https://{host}/"));
            assert_eq!(urls(dual_stack, fips).await, expected);
        }
    }
}
