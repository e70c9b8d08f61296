//! Bodies that were too large for a message, got from where they are.
//!
//! Knows: which records have a claim check. Must not know: S3, the database. How an object is got
//! is handed in, so that the core needs no SDK.

use crate::record::{Content, Record};
use envelope::ClaimCheck;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What getting an object comes to: the body, or why there is none.
pub type Redeemed = Result<String, Box<dyn Error + Send + Sync>>;

type Redeem = dyn Fn(ClaimCheck) -> Pin<Box<dyn Future<Output = Redeemed> + Send>> + Send + Sync;

/// How a claim check is redeemed.
#[derive(Clone)]
pub struct ClaimChecks(Arc<Redeem>);

impl std::fmt::Debug for ClaimChecks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClaimChecks")
    }
}

impl ClaimChecks {
    /// Claim checks that this function redeems. It must refuse a bucket that it does not know:
    /// whoever may write to the queue names one.
    #[must_use]
    pub fn new<F>(redeem: impl Fn(ClaimCheck) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Redeemed> + Send + 'static,
    {
        Self(Arc::new(move |check| Box::pin(redeem(check))))
    }
}

/// Redeems the claim checks among the records. What cannot be had goes back to the queue.
pub(crate) async fn redeem(claim_checks: Option<&ClaimChecks>, records: &mut [Record]) {
    for record in records {
        let Content::ClaimCheck(check) = &record.content else { continue };
        let Some(ClaimChecks(redeem)) = claim_checks else {
            record.redeem(None);
            continue;
        };
        match redeem(check.clone()).await {
            Ok(body) => record.redeem(Some(body)),
            Err(error) => tracing::error!(
                message_id = record.message_id,
                bucket = check.bucket,
                key = check.key,
                receive_count = record.receive_count,
                error = crate::error::chain(&*error),
                "the body of a claim check cannot be had; the message goes back to the queue"
            ),
        }
    }
}
