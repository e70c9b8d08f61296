//! What the read model can keep of an event: the bounds of its keys, and what is done beyond them.
//!
//! Knows: the bounds, which the outbox has too, and `relay.parked`. Must not know: versions, queues,
//! handlers.

use crate::apply::Item;
use crate::database::Session;
use crate::error::{describe, is_final};
use crate::handler::Tx;
use crate::inbox;
use crate::undone::Undone;
use envelope::Event;
use std::fmt::Write as _;

/// The most bytes of a projection's name. The key of `relay.progress` is the projection, the tenant,
/// the type and the id: together they stay below the 2,704 bytes that an index of Postgres holds.
pub(crate) const PROJECTION: usize = 128;
const TENANT: usize = 128;
const TYPE: usize = 255;
const ID: usize = 1024;

/// Why an event's key cannot be kept, if it cannot. The outbox refuses such an event; one from
/// elsewhere is parked.
pub(crate) fn too_long(event: &Event) -> Option<String> {
    let parts = [
        ("tenant_id", inbox::tenant(event), TENANT),
        ("aggregate_type", event.aggregate_type.as_str(), TYPE),
        ("aggregate_id", event.aggregate_id.as_str(), ID),
    ];
    let (field, text, most) = parts.into_iter().find(|(_, text, most)| text.len() > *most)?;
    let found = text.len();
    Some(format!("expected {field} of at most {most} bytes, found {found}"))
}

/// Parks an event without a look at what is there: its key cannot stand in the inbox or the progress.
///
/// A text that the database's encoding does not know is parked as ASCII with the escapes of JSON:
/// the body means the same, and can be replayed.
pub(crate) async fn park(
    session: &mut Session,
    projection: &str,
    item: Item<'_>,
    reason: &str,
) -> Result<(), Undone> {
    match try_park(session, projection, item, reason).await {
        Err(Undone::Db(error)) if is_final(&error) => {
            let (mut event, mut record) = (item.event.clone(), item.record.clone());
            for text in [&mut event.event_type, &mut event.aggregate_type, &mut event.aggregate_id]
            {
                *text = ascii(text);
            }
            event.tenant_id = event.tenant_id.as_deref().map(ascii);
            record.body = ascii(&record.body);
            let item = Item { event: &event, record: &record };
            try_park(session, projection, item, &ascii(reason)).await
        }
        parked => parked,
    }
}

async fn try_park(
    session: &mut Session,
    projection: &str,
    item: Item<'_>,
    reason: &str,
) -> Result<(), Undone> {
    let (transaction, statements) = session.begin().await.map_err(Undone::NotBegun)?;
    let mut tx = Tx::new(transaction.client(), statements);
    let parked = inbox::park(&mut tx, projection, item.event, item.record, reason).await;
    match tx.end(parked).await {
        Ok(()) => Ok(transaction.commit().await?),
        Err(undone) => {
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(error = describe(&error), "the rollback was not acknowledged");
            }
            Err(undone)
        }
    }
}

/// The same JSON in ASCII.
fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(tenant: usize, kind: usize, id: usize) -> Event {
        let text = |length| "x".repeat(length);
        Event::from_json(&format!(
            r#"{{"event_id":"01930000-0000-7000-8000-000000000001","event_type":"t",
               "timestamp":"2026-01-15T10:30:00Z","aggregate_type":"{}","aggregate_id":"{}",
               "data":1,"metadata":{{"tenant_id":"{}"}}}}"#,
            text(kind),
            text(id),
            text(tenant)
        ))
        .unwrap()
    }

    #[test]
    fn a_key_at_its_bounds_is_kept_and_one_byte_more_is_named() {
        assert_eq!(too_long(&event(TENANT, TYPE, ID)), None);
        for (event, field) in [
            (event(TENANT + 1, 1, 1), "tenant_id"),
            (event(1, TYPE + 1, 1), "aggregate_type"),
            (event(1, 1, ID + 1), "aggregate_id of at most 1024 bytes, found 1025"),
        ] {
            assert!(too_long(&event).is_some_and(|reason| reason.contains(field)), "{field}");
        }
    }

    #[test]
    fn ascii_means_the_same() {
        let text = "{\"a\":\"\u{e9}\u{1f600} b\"}";
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert!(ascii(text).is_ascii());
        assert_eq!(read(&ascii(text)), read(text));
    }
}
