//! An HTTP call for each paid order, as a mail would be sent: the function `notifier`.
//!
//! What it does outside the database cannot be part of a transaction, so it cannot be done exactly
//! once by anything that is done here alone. What can be had, and is:
//!
//! - **No order is forgotten.** That the call is due is committed with the event.
//! - **At most one call that may have had its effect.** Before each call it is committed that it
//!   was begun. A crash in the middle leaves that note, and the next host parks the event instead
//!   of calling again. It calls again only when it is certain that nothing happened: the receiver
//!   could not be reached, or said that it did nothing (408, 425, 429, 503).
//! - **Exactly once with a receiver that takes part.** Each call carries the event's id as
//!   `Idempotency-Key`. With `NOTIFY_RECEIVER_KNOWS_REPEATS=true` what nobody can say of is called
//!   again until the receiver answers, and the receiver drops the repeats.
//!
//! What cannot be had is in `relay/docs/side-effects.md`.

mod post;

pub use post::{Misconfigured, Target};

use anyhow::Context;
use consumer::{
    Consumer, Effect, Effects, Event, HandlerError, Mode, Performed, Projection, Tx, Typed,
};
use dsn::Dsn;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How long one call may take, from its first byte out to the answer.
const LIMIT: Duration = Duration::from_secs(10);

consumer::events! {
    /// What there is to tell of.
    #[derive(Debug)]
    pub enum Told {
        /// An order was paid.
        "order.paid" => Paid(Paid),
    }
}

/// An order was paid.
#[derive(Debug, Deserialize)]
pub struct Paid {}

/// Body of the call, as JSON.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Notice {
    /// What is told: `order_paid`.
    pub notice: String,
    /// Id of the order.
    pub order_id: String,
}

/// Notes a call for each paid order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notifier;

impl Projection for Notifier {
    type Event = Told;

    fn name(&self) -> &'static str {
        "notifier"
    }

    /// Its queue has no other events of an order, so versions have gaps.
    fn mode(&self) -> Mode {
        Mode::Once
    }

    async fn apply(
        &self,
        event: Told,
        envelope: &Event,
        tx: &mut Tx<'_>,
    ) -> Result<(), HandlerError> {
        let Told::Paid(Paid {}) = event;
        let order_id = envelope.aggregate_id.clone();
        tx.effect(&Notice { notice: "order_paid".to_owned(), order_id })
    }
}

/// The function: the handler, and the calls after it.
#[must_use]
pub fn consumer(
    read_model: &Dsn,
    target: &Arc<Target>,
    knows_repeats: bool,
) -> Consumer<Typed<Notifier>> {
    let target = Arc::clone(target);
    let effects = Effects::new(move |effect| {
        let target = Arc::clone(&target);
        async move { notify(&target, &effect).await }
    });
    let effects = effects.limit(LIMIT);
    let effects = if knows_repeats { effects.repeatable() } else { effects };
    Consumer::new(Typed::new(Notifier), read_model).with_effects(effects)
}

async fn notify(target: &Target, effect: &Effect) -> Performed {
    match effect.request::<serde_json::Value>() {
        Ok(notice) => target.post(&effect.event_id.to_string(), notice.to_string()).await,
        // The error would quote what was noted.
        Err(_) => Performed::Refused(
            "expected a notice in relay.effect, found a request of another shape".to_owned(),
        ),
    }
}

/// What the environment says of the calls.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `NOTIFY_URL`, with `NOTIFY_ROOTS`: a PEM file of trusted authorities in place of the system's.
    pub target: Arc<Target>,
    /// `NOTIFY_RECEIVER_KNOWS_REPEATS`: false where it is not set.
    pub knows_repeats: bool,
}

impl Settings {
    /// Reads them; `variable` looks one up.
    ///
    /// # Errors
    /// When one is missing or is not what it should be.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let set = |name: &str| variable(name).filter(|text| !text.is_empty());
        let url = set("NOTIFY_URL").context("expected NOTIFY_URL, found nothing")?;
        let roots = set("NOTIFY_ROOTS").map(Into::into);
        let target = Target::new(&url, roots).context("NOTIFY_URL")?;
        let knows_repeats = match set("NOTIFY_RECEIVER_KNOWS_REPEATS").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => anyhow::bail!(
                "expected NOTIFY_RECEIVER_KNOWS_REPEATS to be true or false, found {other:?}"
            ),
        };
        Ok(Self { target: Arc::new(target), knows_repeats })
    }

    /// The function with these settings.
    #[must_use]
    pub fn consumer(&self, read_model: &Dsn) -> Consumer<Typed<Notifier>> {
        consumer(read_model, &self.target, self.knows_repeats)
    }
}
