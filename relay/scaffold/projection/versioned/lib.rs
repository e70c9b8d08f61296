//! How far each aggregate has come, as one row: the projection `__name__`.

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
        Mode::Versioned
    }

    async fn apply(
        &self,
        event: Happened,
        envelope: &Event,
        tx: &mut Tx<'_>,
    ) -> Result<(), HandlerError> {
        __happened__
        // A parked event can be replayed when later ones have had their effect: it counts, and the
        // row does not go back. An event without a version is before every one that has one.
        let sql = "insert into __name__ as had
              (aggregate_type, aggregate_id, status, events, changed_at, version)
            values ($1, $2, $3, 1, $4, $5)
            on conflict (aggregate_type, aggregate_id) do update set events = had.events + 1,
              status = case when excluded.version is not distinct from
                greatest(had.version, excluded.version) then excluded.status else had.status end,
              changed_at = greatest(had.changed_at, excluded.changed_at),
              version = greatest(had.version, excluded.version)";
        let Event { aggregate_type, aggregate_id, timestamp, aggregate_version, .. } = envelope;
        tx.write(sql, &[aggregate_type, aggregate_id, &happened, timestamp, aggregate_version])
            .await?;
        Ok(())
    }
}
