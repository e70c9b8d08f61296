//! The SDK's cache of credentials, that can be told to forget.
//!
//! The SDK keeps credentials until they say that they expire. A broker that calls them expired
//! earlier (they were revoked, a role's session was ended, a clock is wrong) is believed: the
//! next request asks their source again.

use aws_config::identity::IdentityCache;
use aws_smithy_runtime_api::client::identity::{
    IdentityFuture, ResolveCachedIdentity, SharedIdentityCache, SharedIdentityResolver,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// No more often than this are credentials forgotten: many requests are refused for the same
/// ones, and those that came in their place shall be tried first.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// A cache of credentials; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Identities(Arc<RwLock<Known>>);

#[derive(Debug)]
struct Known {
    cache: SharedIdentityCache,
    forgotten_at: Option<Instant>,
}

impl Default for Identities {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Known { cache: new(), forgotten_at: None })))
    }
}

fn new() -> SharedIdentityCache {
    IdentityCache::lazy().build()
}

impl Identities {
    fn now(&self) -> SharedIdentityCache {
        self.0.read().unwrap_or_else(PoisonError::into_inner).cache.clone()
    }

    /// Forgets the credentials if this is what the broker's code calls for.
    pub(super) fn refused(&self, code: &str) {
        const CODES: [&str; 6] = [
            "ExpiredToken",
            "ExpiredTokenException",
            "InvalidClientTokenId",
            "RequestExpired",
            "TokenRefreshRequired",
            "UnrecognizedClientException",
        ];
        if !CODES.contains(&code) {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let lately = |at| now.saturating_duration_since(at) < AT_MOST_EVERY;
        if !known.forgotten_at.is_some_and(lately) {
            *known = Known { cache: new(), forgotten_at: Some(now) };
        }
    }
}

impl ResolveCachedIdentity for Identities {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        runtime_components: &'a RuntimeComponents,
        config_bag: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        let cache = self.now();
        IdentityFuture::new(async move {
            cache.resolve_cached_identity(resolver, runtime_components, config_bag).await
        })
    }
}
