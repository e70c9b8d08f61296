//! Bodies that were too large for a message, got from where they are.
//!
//! Knows: which records have a claim check. Must not know: S3, the database. How an object is got
//! is handed in, so that the core needs no SDK.

use crate::deadline::{Deadline, Passed};
use crate::record::{Content, Record};
use envelope::ClaimCheck;
use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

/// So many objects are got at a time.
const AT_ONCE: usize = 8;

/// Once a delivery has so many bytes of objects, 64 MiB, the rest of them goes back to the queue.
const MOST_BYTES: usize = 64 << 20;

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

/// Redeems the claim checks among the records, side by side. What cannot be had in time goes back to
/// the queue alone.
pub(crate) async fn redeem(
    claim_checks: Option<&ClaimChecks>,
    records: &mut [Record],
    deadline: &Deadline,
) {
    let Some(ClaimChecks(redeem)) = claim_checks else {
        for record in records {
            if matches!(record.content, Content::ClaimCheck(_)) {
                record.redeem(None);
            }
        }
        return;
    };
    let wanted: Vec<(usize, ClaimCheck)> = records
        .iter()
        .enumerate()
        .filter_map(|(at, record)| match &record.content {
            Content::ClaimCheck(check) => Some((at, check.clone())),
            Content::Event(_) | Content::Probe | Content::Malformed(_) => None,
        })
        .collect();
    if wanted.is_empty() {
        return;
    }
    let mut got = stream::iter(wanted)
        .map(|(at, check)| async move {
            let body = AssertUnwindSafe(async { redeem(check).await }).catch_unwind().await;
            (at, body.unwrap_or_else(|_| Err(Panicked.into())))
        })
        .buffer_unordered(AT_ONCE);
    let (mut bytes, mut reasons) = (0, HashMap::new());
    while bytes < MOST_BYTES {
        let next = async { Ok::<_, Passed>(got.next().await) };
        match deadline.before(next).await {
            Ok(Some((at, Ok(body)))) => {
                bytes += body.len();
                records[at].redeem(Some(body));
            }
            Ok(Some((at, Err(error)))) => drop(reasons.insert(at, crate::error::chain(&*error))),
            Ok(None) | Err(Passed) => break,
        }
    }
    drop(got);
    let why = if bytes < MOST_BYTES {
        "its time in the delivery was over"
    } else {
        "the bodies of one delivery have a bound in bytes, and it was reached"
    };
    for (at, record) in records.iter().enumerate() {
        not_had(record, reasons.get(&at).map_or(why, String::as_str));
    }
}

/// The code that gets objects panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the code that redeems claim checks panicked; standard error says where")]
struct Panicked;

fn not_had(record: &Record, error: &str) {
    let Content::ClaimCheck(check) = &record.content else { return };
    tracing::error!(
        message_id = record.message_id,
        bucket = check.bucket,
        key = check.key,
        receive_count = record.receive_count,
        error,
        "the body of a claim check cannot be had; the message goes back to the queue"
    );
}
