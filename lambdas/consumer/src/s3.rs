//! Claim checks from a bucket of S3, without its SDK.
//!
//! A Lambda function has its credentials and its region in the environment ([`from_environment`]);
//! elsewhere a provider of the SDK's default chain is handed to [`claim_checks`].

use crate::claim_check::ClaimChecks;
use crate::credentials::{self, variable};
use std::sync::Arc;

pub use ::s3::{Place, Store};

/// What names this product in the user agent, as `app/…`.
pub const PRODUCT: &str = concat!("relay-consumer-", env!("CARGO_PKG_VERSION"));

/// A claim check of a bucket that is not ours.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a claim check for the bucket {expected}, found one for {found}")]
struct OtherBucket {
    expected: String,
    found: String,
}

/// Claim checks for the objects of this bucket that have at most so many bytes.
#[must_use]
pub fn claim_checks(store: Store, bucket: &str, most: usize) -> ClaimChecks {
    let bucket: Arc<str> = bucket.into();
    ClaimChecks::new(move |check| {
        let (store, bucket) = (store.clone(), Arc::clone(&bucket));
        async move {
            if check.bucket != *bucket {
                let (expected, found) = (bucket.to_string(), check.bucket);
                return Err(OtherBucket { expected, found }.into());
            }
            let object = store.get(&bucket, &check.key, most).await?;
            Ok(String::from_utf8(object.into())?)
        }
    })
}

/// The same with the credentials and the region that Lambda gives a function: `AWS_REGION`,
/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`; and the stand-in that
/// `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names.
#[must_use]
pub fn from_environment(bucket: &str, most: usize) -> ClaimChecks {
    let place = Place::new(variable("AWS_REGION").unwrap_or_default())
        .at(variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")));
    let store = Store::new(place, credentials::of_environment(), PRODUCT);
    claim_checks(store, bucket, most)
}
