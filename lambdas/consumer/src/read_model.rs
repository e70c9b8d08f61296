//! Read-your-writes: waiting until a projection has come so far.
//!
//! Knows: what can be waited for, and what the caller is told. Must not know:
//! handlers, queues, how the read model is asked (`watch` does).

mod ask;
mod watch;

use crate::error::Error;
use dsn::Dsn;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;
use watch::{Wait, Watch};

/// How long after its end a wait is given up that the read model has not answered.
const GRACE: Duration = Duration::from_secs(2);

/// The longest wait. A longer one waits so long.
const LONGEST: Duration = Duration::from_hours(24);

/// A read model whose progress can be waited for.
///
/// All waits share one connection. A wait is woken by `NOTIFY` when the transaction commits that
/// it waits for; beside that it asks again and again, so that it ends on a standby, through a
/// pooler, or with a role that may not write `relay.awaited`, where no notification arrives.
///
/// Needs `select` on `relay.progress` and `relay.inbox`, and to be woken `select`, `insert`,
/// `update` and `delete` on `relay.awaited`.
///
/// ```no_run
/// use consumer::ReadModel;
/// use std::time::Duration;
///
/// # async fn read(dsn: consumer::Dsn) -> Result<(), Box<dyn std::error::Error>> {
/// let read_model = ReadModel::connect(&dsn).await?;
/// let limit = Duration::from_secs(2);
/// let waited = read_model.await_version("order_summary", "order", "ord_1", 5, limit).await?;
/// waited.or_timed_out()?;
/// // Version 5 can be read now, on any connection.
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ReadModel {
    waits: mpsc::UnboundedSender<Wait>,
}

/// How often a wait asks by itself: after the first pause, then after twice that, up to the longest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pauses {
    /// Pause after the first question; 5 ms by default.
    pub first: Duration,
    /// Upper bound of the pauses, each twice the one before; 100 ms by default.
    pub longest: Duration,
}

impl Default for Pauses {
    /// 5 ms to 100 ms, as `relay.await_version` in SQL has them.
    fn default() -> Self {
        Self { first: Duration::from_millis(5), longest: Duration::from_millis(100) }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "what is read after a wait that timed out is stale"]
pub enum Waited {
    /// The projection has come so far: what is read from now on shows it.
    Reached,
    /// It has not, in the time that there was.
    TimedOut,
}

impl Waited {
    /// Whether what is read now may be older than what was waited for: for callers that take it
    /// as it is.
    #[must_use]
    pub fn is_stale(self) -> bool {
        self == Self::TimedOut
    }

    /// An error where it timed out: for callers that want it fresh or not at all.
    ///
    /// # Errors
    /// When the projection had not come so far in time.
    pub fn or_timed_out(self) -> Result<(), TimedOut> {
        match self {
            Self::Reached => Ok(()),
            Self::TimedOut => Err(TimedOut),
        }
    }
}

/// The projection had not come so far in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected the projection to come so far in time, found it behind")]
pub struct TimedOut;

/// The read model could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// It cannot be reached, or refuses.
    #[error("the read model cannot be asked how far it is")]
    Failed(#[source] Arc<Error>),
    /// No answer came within the wait and 2 s more.
    #[error("expected the read model to say how far it is within {seconds} s, found no answer")]
    Silent {
        /// How long was waited.
        seconds: u64,
    },
}

/// What is waited for.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Version {
        projection: String,
        tenant_id: String,
        aggregate_type: String,
        aggregate_id: String,
        version: i64,
    },
    Event {
        projection: String,
        event_id: Uuid,
    },
}

impl ReadModel {
    /// Connects; the connection is made anew when it breaks.
    ///
    /// # Errors
    /// When the read model cannot be reached, or lacks what `relay init --read-model` makes.
    pub async fn connect(dsn: &Dsn) -> Result<Self, Error> {
        Self::connect_with(dsn, Pauses::default()).await
    }

    /// The same with other pauses than the usual ones.
    ///
    /// # Errors
    /// As [`ReadModel::connect`].
    pub async fn connect_with(dsn: &Dsn, pauses: Pauses) -> Result<Self, Error> {
        Self::open(dsn, pauses, false).await
    }

    /// The same behind a pooler in transaction mode (pgbouncer, RDS Proxy): waits are not announced,
    /// as a notification would reach another client, and end by asking alone.
    ///
    /// # Errors
    /// As [`ReadModel::connect`].
    pub async fn connect_through_a_pool(dsn: &Dsn, pauses: Pauses) -> Result<Self, Error> {
        Self::open(dsn, pauses, true).await
    }

    async fn open(dsn: &Dsn, pauses: Pauses, pooled: bool) -> Result<Self, Error> {
        let watch = Watch::open(dsn.clone(), pauses, pooled).await?;
        let (waits, requests) = mpsc::unbounded_channel();
        // Ends with the last clone of the sender.
        tokio::spawn(watch.run(requests));
        Ok(Self { waits })
    }

    /// Waits until the projection has come to this version of the aggregate, or beyond it.
    ///
    /// The projection's mode must be `Versioned` or `Latest`: `Once` knows no versions. An event
    /// that was parked counts, as the projection goes on without it. A `timeout` of zero asks once.
    ///
    /// # Errors
    /// When the read model could not be asked.
    pub async fn await_version(
        &self,
        projection: &str,
        aggregate_type: &str,
        aggregate_id: &str,
        version: i64,
        timeout: Duration,
    ) -> Result<Waited, Unavailable> {
        let aggregate = ("", aggregate_type, aggregate_id);
        self.await_version_of(projection, aggregate, version, timeout).await
    }

    /// The same for an aggregate of a tenant: tenant, type and id.
    ///
    /// # Errors
    /// As [`await_version`](Self::await_version).
    pub async fn await_version_of(
        &self,
        projection: &str,
        (tenant_id, aggregate_type, aggregate_id): (&str, &str, &str),
        version: i64,
        timeout: Duration,
    ) -> Result<Waited, Unavailable> {
        let target = Target::Version {
            projection: projection.to_owned(),
            tenant_id: tenant_id.to_owned(),
            aggregate_type: aggregate_type.to_owned(),
            aggregate_id: aggregate_id.to_owned(),
            version,
        };
        self.wait(target, timeout).await
    }

    /// Waits until the event had its effect in the projection, or was parked.
    ///
    /// For every mode; but an event that in mode `Latest` came after a later one of its aggregate
    /// never has an effect: wait for its version there. A `timeout` of zero asks once.
    ///
    /// # Errors
    /// When the read model could not be asked.
    pub async fn await_event(
        &self,
        projection: &str,
        event_id: Uuid,
        timeout: Duration,
    ) -> Result<Waited, Unavailable> {
        self.wait(Target::Event { projection: projection.to_owned(), event_id }, timeout).await
    }

    async fn wait(&self, target: Target, timeout: Duration) -> Result<Waited, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let timeout = timeout.min(LONGEST);
        let deadline = Instant::now() + timeout;
        let silent = || Unavailable::Silent { seconds: (timeout + GRACE).as_secs() };
        if self.waits.send(Wait { target, deadline, answer }).is_err() {
            return Err(silent());
        }
        match timeout_at(deadline + GRACE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(silent()),
        }
    }
}
