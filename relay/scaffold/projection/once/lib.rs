//! Each event as one row, in whatever order they come: the projection `__name__`.

use consumer::{Event, HandlerError, Mode, Projection, Tx, Typed};
use serde::Deserialize;

consumer::events! {
    /// What it is made of; events of other types are passed over.
    #[derive(Debug)]
    pub enum Happened {
        __variants__
    }
}

__payloads__

/// Brings the table `__name__` up to date.
#[derive(Clone, Copy, Debug, Default)]
pub struct __Name__;

/// The projection as a handler; upcasters for older versions of its events belong here.
#[must_use]
pub fn handler() -> Typed<__Name__> {
    Typed::new(__Name__)
}

impl Projection for __Name__ {
    type Event = Happened;

    fn name(&self) -> &'static str {
        "__name__"
    }

    fn mode(&self) -> Mode {
        Mode::Once
    }

    async fn apply(
        &self,
        event: Happened,
        envelope: &Event,
        tx: &mut Tx<'_>,
    ) -> Result<(), HandlerError> {
        __happened__
        let sql = "insert into __name__
              (event_id, aggregate_type, aggregate_id, happened, happened_at)
            values ($1, $2, $3, $4, $5)";
        let Event { event_id, aggregate_type, aggregate_id, timestamp, .. } = envelope;
        tx.write(sql, &[event_id, aggregate_type, aggregate_id, &happened, timestamp]).await?;
        Ok(())
    }
}
