//! The ids of recent outbox events, to notice two events under one id.
//!
//! FIFO topics and queues drop the second of two messages with one deduplication id within five
//! minutes, and a consumer's inbox the second of one id at any time: without a word. Nothing in a
//! partitioned outbox can forbid it. A writer that repeats an insert whose outcome it did not
//! hear writes the same event again, and the drop is what it wants; another content is a mistake.

use crate::outbox::OutboxEvent;
use envelope::Position;

/// Sets of events, of which a new one takes the place of the oldest; both numbers together bound
/// the memory to 2 MiB and a little.
const SETS: usize = 1 << 13;
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    id: u128,
    /// What the event says, see `content`.
    content: u64,
    position: Position,
}

/// What is known of an event's id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// It is new, as far as is remembered, or the event is the same.
    Fine,
    /// The event at this position has it, and says something else.
    OfAnother(Position),
}

/// The last some ten thousand ids, each with where it stands and what it says.
///
/// Nearly every id is new, and a set is anywhere in memory: the tags alone, 256 KiB of them, are
/// read for it.
#[derive(Debug, Default)]
pub(super) struct RecentIds {
    /// Empty until the first event. A tag of 0: nothing is known there.
    tags: Vec<[u64; WAYS]>,
    known: Vec<[Known; WAYS]>,
    /// The place in each set that the next new id takes: its oldest.
    oldest: Vec<u8>,
}

impl RecentIds {
    /// Looks an event's id up, and remembers it.
    pub(super) fn see(&mut self, event: &OutboxEvent<'_>, position: Position) -> Seen {
        if self.tags.is_empty() {
            self.tags.resize(SETS, [0; WAYS]);
            self.known.resize(SETS, [Known::default(); WAYS]);
            self.oldest.resize(SETS, 0);
        }
        let id = event.event_id.as_u128();
        let content = content(event);
        let (high, low) = event.event_id.as_u64_pair();
        let hash = mix(high, low);
        let (at, tag) = (usize::try_from(hash >> 32).unwrap_or(0) % SETS, hash | 1);
        let (Some(tags), Some(set), Some(oldest)) =
            (self.tags.get_mut(at), self.known.get_mut(at), self.oldest.get_mut(at))
        else {
            return Seen::Fine;
        };
        for (known, _) in set.iter().zip(tags.iter()).filter(|(_, other)| **other == tag) {
            if known.id == id {
                // The same place is the same event, read again.
                let same = known.position == position || known.content == content;
                return if same { Seen::Fine } else { Seen::OfAnother(known.position) };
            }
        }
        let place = usize::from(*oldest) % WAYS;
        tags[place] = tag;
        set[place] = Known { id, content, position };
        *oldest = oldest.wrapping_add(1);
        Seen::Fine
    }
}

/// A fingerprint of what an event says. Two of one id that differ and have the same one
/// are told apart no more: that is as if the first were forgotten.
fn content(event: &OutboxEvent<'_>) -> u64 {
    let version = event.aggregate_version.map_or(0, i64::cast_unsigned);
    let texts = [
        &*event.aggregate_type,
        &*event.aggregate_id,
        &*event.event_type,
        event.tenant_id.as_deref().unwrap_or_default(),
        event.data,
    ];
    texts.iter().fold(version, |hash, text| bytes(hash, text.as_bytes()))
}

/// Eight bytes at a time: the data can be long, and this is on the way of each event.
fn bytes(mut hash: u64, text: &[u8]) -> u64 {
    let (words, rest) = text.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(mix(hash, u64::from_le_bytes(last)), text.len() as u64)
}

fn mix(hash: u64, word: u64) -> u64 {
    // An odd number with bits all over: 2^64 divided by the golden ratio.
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;
    use uuid::Uuid;

    fn event(id: u128, data: &str) -> OutboxEvent<'_> {
        OutboxEvent {
            event_id: Uuid::from_u128(id),
            recorded_at: Cow::Borrowed("2026-01-15T10:30:00Z"),
            aggregate_type: Cow::Borrowed("order"),
            aggregate_id: Cow::Borrowed("o"),
            aggregate_version: None,
            event_type: Cow::Borrowed("order.created"),
            event_version: Cow::Borrowed("1.0"),
            tenant_id: None,
            correlation_id: None,
            causation_id: None,
            data,
            metadata: "{}",
        }
    }

    fn at(ordinal: u64) -> Position {
        Position { ordinal, ..Position::default() }
    }

    #[test]
    fn another_event_under_a_known_id_is_noticed_and_the_same_one_is_not() {
        let mut ids = RecentIds::default();
        assert_eq!(ids.see(&event(1, "{\"n\":1}"), at(0)), Seen::Fine);
        assert_eq!(ids.see(&event(1, "{\"n\":1}"), at(0)), Seen::Fine, "read again");
        assert_eq!(ids.see(&event(1, "{\"n\":1}"), at(1)), Seen::Fine, "written again");
        assert_eq!(ids.see(&event(1, "{\"n\":2}"), at(2)), Seen::OfAnother(at(0)));
        let other = OutboxEvent { aggregate_id: Cow::Borrowed("p"), ..event(1, "{\"n\":1}") };
        assert_eq!(ids.see(&other, at(3)), Seen::OfAnother(at(0)));
        assert_eq!(ids.see(&event(0, "{}"), at(4)), Seen::Fine, "the nil id is one like any");
        assert_eq!(ids.see(&event(0, "[]"), at(5)), Seen::OfAnother(at(4)));
    }

    #[test]
    fn ids_are_remembered_for_thousands_of_events_in_bounded_memory() {
        let mut ids = RecentIds::default();
        for n in 0..100_000_u128 {
            let position = at(u64::try_from(n).unwrap());
            assert_eq!(ids.see(&event(n, "{}"), position), Seen::Fine);
            if n >= 4000 {
                assert_eq!(ids.see(&event(n - 4000, "{}"), at(0)), Seen::Fine, "the same content");
            }
        }
        let found = (96_000..100_000).filter(|n| ids.see(&event(*n, "[]"), at(0)) != Seen::Fine);
        assert!(found.count() > 3900, "most of the last 4000 are known");
        assert_eq!((ids.tags.len(), ids.known.len()), (SETS, SETS));
    }
}
