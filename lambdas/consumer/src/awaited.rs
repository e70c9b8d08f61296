//! Those who wait for what a transaction brings about.
//!
//! Knows: `relay.awaited`. Must not know: how one waits.

use crate::handler::Tx;
use crate::inbox::tenant;
use crate::statements::Step;
use crate::undone::Undone;
use envelope::Event;

/// Notifies, with the commit, those who wait for these events or for their aggregates.
///
/// To be asked where [`Recorded`](crate::ledger::Recorded) said that anyone waits. One who began
/// to wait after that is not notified, and asks again by itself. One who is notified asks too, so
/// an aggregate that was not moved does no harm.
pub(crate) async fn notify(
    tx: &mut Tx<'_>,
    projection: &str,
    events: &[&Event],
) -> Result<(), Undone> {
    let step = Step::new(
        "select pg_catalog.pg_notify('relay_progress', a.key::pg_catalog.text)
         from (
           select relay.await_key($1, tenant_id, aggregate_type, aggregate_id) as key
           from unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[])
             as moved (tenant_id, aggregate_type, aggregate_id)
           union
           select relay.await_key($1, event_id)
           from pg_catalog.unnest($5::pg_catalog.uuid[]) as arrived (event_id)
         ) as brought_about
         join relay.awaited as a on a.key operator(pg_catalog.=) brought_about.key
         where a.expires_at operator(pg_catalog.>) pg_catalog.clock_timestamp()",
    )
    .with(projection)
    .with(events.iter().map(|event| tenant(event)).collect::<Vec<_>>())
    .with(events.iter().map(|event| event.aggregate_type.as_str()).collect::<Vec<_>>())
    .with(events.iter().map(|event| event.aggregate_id.as_str()).collect::<Vec<_>>())
    .with(events.iter().map(|event| event.event_id).collect::<Vec<_>>());
    tx.together(&[step]).await.map(drop)
}
