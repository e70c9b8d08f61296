//! Which events had their effect before.
//!
//! Knows: the rows of `relay.inbox`, their days, their horizon; `relay.parked`.
//! Must not know: versions, queues, what handlers do.

use crate::handler::Tx;
use crate::record::Record;
use crate::statements::Step;
use crate::undone::Undone;
use envelope::Event;
use std::collections::HashSet;
use time::{Date, OffsetDateTime, UtcOffset};
use tokio_postgres::Row;
use uuid::Uuid;

/// The day of all ids that tell none; `relay.event_reached` knows it too.
const OF_OTHER_IDS: Date = match Date::from_ordinal_date(1, 1) {
    Ok(day) => day,
    Err(_) => Date::MIN,
};

/// The day that an event's inbox row stands under: a function of its id alone, so that an id is
/// found whatever the timestamp beside it says, and in one partition however late it comes again.
pub(crate) fn day(event: &Event) -> Date {
    v7_time(&event.event_id).map_or(OF_OTHER_IDS, |time| time.to_offset(UtcOffset::UTC).date())
}

/// The day that tells whether the inbox may have forgotten an event: of its id, or of its time.
pub(crate) fn happened_on(event: &Event) -> Date {
    let time = v7_time(&event.event_id).unwrap_or(event.timestamp);
    // The first and the last hours of time have no day in UTC; theirs is as good.
    time.checked_to_offset(UtcOffset::UTC).unwrap_or(time).date()
}

/// Whose event it is, as the columns hold it: empty where no tenants are used.
pub(crate) fn tenant(event: &Event) -> &str {
    event.tenant_id.as_deref().unwrap_or_default()
}

fn v7_time(id: &Uuid) -> Option<OffsetDateTime> {
    if id.get_version_num() != 7 {
        return None;
    }
    let (seconds, _) = id.get_timestamp()?.to_unix();
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

/// What an event says, in 16 bytes: the same for each delivery of it.
///
/// Neither its position nor its metadata are part of it: an event that is published anew, from
/// the outbox or from a replay, is the same event.
pub(crate) fn content(event: &Event) -> Uuid {
    let version = event.aggregate_version.map(|version| version.to_string()).unwrap_or_default();
    let parts = [
        event.event_type.as_str(),
        event.event_version.as_str(),
        event.aggregate_type.as_str(),
        event.aggregate_id.as_str(),
        version.as_str(),
        event.data.get(),
    ];
    // NUL cannot stand in any of the first five.
    Uuid::new_v5(&event.event_id, parts.join("\0").as_bytes())
}

/// What the inbox says of events that seem to be repeats.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// Those that say something else now: id and content.
    pub(crate) changed: HashSet<(Uuid, Uuid)>,
    /// Those that it does not know although it remembers their day.
    pub(crate) unknown: HashSet<Uuid>,
}

/// Compares events that seem to be repeats with what the inbox knows under their ids.
pub(crate) async fn compare(
    tx: &mut Tx<'_>,
    projection: &str,
    repeated: &[&Event],
) -> Result<Repeats, tokio_postgres::Error> {
    let mut repeats = Repeats::default();
    if repeated.is_empty() {
        return Ok(repeats);
    }
    let ids: Vec<Uuid> = repeated.iter().map(|event| event.event_id).collect();
    let days: Vec<Date> = repeated.iter().map(|event| day(event)).collect();
    let contents: Vec<Uuid> = repeated.iter().map(|event| content(event)).collect();
    let happened: Vec<Date> = repeated.iter().map(|event| happened_on(event)).collect();
    let rows = tx
        .query(
            "select repeated.event_id, repeated.content, i.content is null
             from unnest($2::pg_catalog.uuid[], $3::pg_catalog.date[], $4::pg_catalog.uuid[],
                 $5::pg_catalog.date[])
               as repeated (event_id, day, content, happened_on)
             left join lateral (
               select content from relay.inbox
               where projection operator(pg_catalog.=) $1
                 and event_id operator(pg_catalog.=) repeated.event_id
                 and day operator(pg_catalog.=) repeated.day
               offset 0
             ) as i on true
             where i.content operator(pg_catalog.<>) repeated.content
               or (i.content is null and not exists (
                 select from relay.inbox_horizon as h
                 where h.day operator(pg_catalog.>) repeated.happened_on))",
            &[&projection, &ids, &days, &contents, &happened],
        )
        .await?;
    for row in rows {
        if row.get(2) {
            repeats.unknown.insert(row.get(0));
        } else {
            repeats.changed.insert((row.get(0), row.get(1)));
        }
    }
    Ok(repeats)
}

/// Asks for the first day that the inbox remembers ([`first_day`]).
///
/// To be asked after the events were recorded: a partition that was dropped before
/// that has moved the horizon, and one that holds a row of ours waits for us.
pub(crate) fn horizon() -> Step<'static> {
    // A fresh database remembers from -infinity on, which `Date` cannot say.
    Step::new("select day from relay.inbox_horizon where pg_catalog.isfinite(day)")
}

/// The first day that the inbox remembers, by what [`horizon`] returned.
pub(crate) fn first_day(rows: &[Row]) -> Option<Date> {
    rows.first().map(|row| row.get(0))
}

/// Writes an event into `relay.parked`.
pub(crate) const PARK: &str = "insert into relay.parked
           (projection, event_id, event_type, aggregate_type, aggregate_id, reason, body,
            tenant_id, content)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict do nothing";

/// Parks an event with the reason; the same event with the same content is parked once.
pub(crate) async fn park(
    tx: &mut Tx<'_>,
    projection: &str,
    event: &Event,
    record: &Record,
    reason: &str,
) -> Result<(), Undone> {
    // Postgres text holds no NUL, and a reason may quote the payload.
    let reason = reason.replace('\0', "\u{fffd}");
    tx.write_ours(
        PARK,
        &[
            &projection,
            &event.event_id,
            &event.event_type,
            &event.aggregate_type,
            &event.aggregate_id,
            &reason,
            &record.body,
            &tenant(event),
            &content(event),
        ],
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day_of(id: &str, timestamp: &str) -> (String, String) {
        let golden = include_str!("../../../relay/envelope/golden/relay_1.json");
        let body = golden
            .replace("01930000-0000-7000-8000-000000000001", id)
            .replace("2026-01-15T10:30:00.000Z", timestamp);
        let event = Event::from_json(&body).unwrap();
        (day(&event).to_string(), happened_on(&event).to_string())
    }

    #[test]
    fn the_day_of_an_inbox_row_is_a_function_of_the_id_and_that_of_the_horizon_of_the_time_too() {
        let both = |row: &str, horizon: &str| (row.to_owned(), horizon.to_owned());
        let late = "2026-01-15T23:30:00-02:00";
        let v7 = "01930000-0000-7000-8000-000000000001";
        assert_eq!(day_of(v7, late), both("2024-11-06", "2024-11-06"));
        let v4 = "8f7dbb62-4ab5-4a34-9a51-1b9c3fc8b1ad";
        assert_eq!(day_of(v4, late), both("0001-01-01", "2026-01-16"));
        assert_eq!(day_of(v4, "2026-01-15T23:30:00Z"), both("0001-01-01", "2026-01-15"));
        // A version 7 id of a year that no calendar here has.
        let far = "ffffffff-ffff-7fff-bfff-ffffffffffff";
        assert_eq!(day_of(far, late), both("0001-01-01", "2026-01-16"));
        let end = "9999-12-31T23:59:59-12:00";
        assert_eq!(day_of(v4, end), both("0001-01-01", "9999-12-31"));
    }
}
