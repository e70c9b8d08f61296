//! Credentials, kept until shortly before they expire.

use crate::Error;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Credentials that expire sooner than this are asked for anew.
const MARGIN: Duration = Duration::from_secs(10);

/// Credentials that do not say when they expire are asked for anew after this, as the SDK does.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// A provider with what it provided last.
#[derive(Debug)]
pub(crate) struct Cached {
    provider: SharedCredentialsProvider,
    last: Mutex<Option<(Credentials, Instant)>>,
}

impl Cached {
    pub(crate) fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, last: Mutex::new(None) }
    }

    pub(crate) async fn get(&self) -> Result<Credentials, Error> {
        if let Some((known, at)) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            let fresh = match known.expiry() {
                Some(expiry) => expiry > SystemTime::now() + MARGIN,
                None => at.elapsed() < LONGEST,
            };
            if fresh {
                return Ok(known.clone());
            }
        }
        let asked = self.provider.provide_credentials().await;
        let new = asked.map_err(|source| Error::Credentials { source })?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((new.clone(), Instant::now()));
        Ok(new)
    }

    /// Asks for others the next time: these were refused.
    pub(crate) fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
