//! What was committed against what was accepted. Pure.

use std::collections::{HashMap, HashSet};
use std::fmt;
use uuid::Uuid;

/// An event that the source committed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Committed {
    pub(crate) id: Uuid,
    pub(crate) kind: String,
    pub(crate) key: String,
    /// Its number among the events of its key, from 1, in commit order.
    pub(crate) n: i64,
    /// The MD5 of its payload.
    pub(crate) digest: String,
    /// The LSN of its transaction's commit record, by the server's own decoding.
    pub(crate) commit_lsn: u64,
}

/// A message that the broker accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Accepted {
    pub(crate) id: Uuid,
    /// The topic or queue.
    pub(crate) target: String,
    pub(crate) kind: String,
    pub(crate) key: String,
    pub(crate) n: Option<i64>,
    pub(crate) digest: String,
    pub(crate) commit_lsn: Option<u64>,
    /// The MD5 of all that was sent: body, attributes, group, deduplication id.
    pub(crate) whole: String,
}

/// What the slot had confirmed at a moment, and what was done with by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Note {
    /// Which moment.
    pub(crate) when: String,
    /// The slot's `confirmed_flush_lsn`.
    pub(crate) confirmed: u64,
    /// How many messages had been accepted.
    pub(crate) accepted: usize,
    /// The number of the newest dead letter.
    pub(crate) letter: i64,
}

/// Everything the judge goes by.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// In commit order.
    pub(crate) committed: Vec<Committed>,
    /// In the order of acceptance.
    pub(crate) accepted: Vec<Accepted>,
    /// Where the events of a kind go.
    pub(crate) targets: HashMap<String, String>,
    /// The number of each event's dead letter.
    pub(crate) letters: HashMap<Uuid, i64>,
    pub(crate) notes: Vec<Note>,
}

/// What the judge found; each line is one event that went wrong.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Verdict {
    /// Committed, and neither accepted nor a dead letter.
    pub(crate) lost: Vec<String>,
    /// First accepted after a later one of its key.
    pub(crate) out_of_order: Vec<String>,
    /// Sent differently the second time, or not as it was written.
    pub(crate) changed: Vec<String>,
    /// Accepted, and never committed.
    pub(crate) never_committed: Vec<String>,
    /// Behind the confirmed position before it was accepted or a dead letter.
    pub(crate) confirmed_early: Vec<String>,
    /// Messages beyond the first of each event.
    pub(crate) duplicates: usize,
}

impl Verdict {
    /// Each kind of wrong with its name.
    pub(crate) fn wrongs(&self) -> [(&'static str, &[String]); 5] {
        [
            ("lost (committed, and neither accepted nor a dead letter)", &self.lost),
            ("out of order (first accepted after a later event of its key)", &self.out_of_order),
            (
                "changed (one id, and not the content that was written or sent before)",
                &self.changed,
            ),
            ("never committed (rolled back, and accepted all the same)", &self.never_committed),
            (
                "confirmed early (behind the slot's confirmed position, and not safe)",
                &self.confirmed_early,
            ),
        ]
    }
}

impl fmt::Display for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, kind, key, n, commit_lsn, .. } = self;
        write!(f, "{kind} {key} number {n} ({id}, committed at {})", lsn(*commit_lsn))
    }
}

/// As Postgres writes it.
pub(crate) fn lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// Compares.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let committed: HashMap<Uuid, &Committed> =
        evidence.committed.iter().map(|event| (event.id, event)).collect();
    let mut first: HashMap<Uuid, (usize, &Accepted)> = HashMap::new();
    let mut verdict = Verdict::default();
    for (at, message) in evidence.accepted.iter().enumerate() {
        let Some(event) = committed.get(&message.id) else {
            verdict
                .never_committed
                .push(format!("{} {} ({})", message.kind, message.key, message.id));
            continue;
        };
        match first.get(&message.id) {
            Some((_, before)) => {
                verdict.duplicates += 1;
                if before.whole != message.whole || before.target != message.target {
                    verdict.changed.push(format!("{event}: sent again differently"));
                }
            }
            None => {
                first.insert(message.id, (at, message));
                if let Some(difference) = difference(event, message, &evidence.targets) {
                    verdict.changed.push(format!("{event}: {difference}"));
                }
            }
        }
    }
    let lost = |event: &&Committed| {
        !first.contains_key(&event.id) && !evidence.letters.contains_key(&event.id)
    };
    verdict.lost = evidence.committed.iter().filter(lost).map(ToString::to_string).collect();
    verdict.out_of_order = out_of_order(evidence, &committed);
    verdict.confirmed_early = confirmed_early(evidence, &first);
    verdict
}

/// How a message differs from the event that it should be.
fn difference(
    event: &Committed,
    message: &Accepted,
    targets: &HashMap<String, String>,
) -> Option<String> {
    let found = (&message.kind, &message.key, message.n, &message.digest, message.commit_lsn);
    let wanted = (&event.kind, &event.key, Some(event.n), &event.digest, Some(event.commit_lsn));
    if found != wanted {
        return Some(format!("expected {wanted:?}, found {found:?}"));
    }
    let target = targets.get(&event.kind);
    (target != Some(&message.target))
        .then(|| format!("expected it at {target:?}, found it at {}", message.target))
}

/// By first acceptance, the numbers of a key only rise. A dead letter is out of the sequence.
fn out_of_order(evidence: &Evidence, committed: &HashMap<Uuid, &Committed>) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut newest: HashMap<(&str, &str, &str), i64> = HashMap::new();
    let mut wrong = Vec::new();
    for message in &evidence.accepted {
        let Some(event) = committed.get(&message.id) else {
            continue;
        };
        if evidence.letters.contains_key(&message.id) || !seen.insert(message.id) {
            continue;
        }
        let key = (message.target.as_str(), event.kind.as_str(), event.key.as_str());
        let newest = newest.entry(key).or_insert(0);
        if event.n < *newest {
            wrong.push(format!("{event}: first accepted after number {newest}"));
        }
        *newest = event.n.max(*newest);
    }
    wrong
}

/// Postgres never sends a transaction again whose commit record begins before the confirmed
/// position, so each of its events must have been safe by then.
fn confirmed_early(evidence: &Evidence, first: &HashMap<Uuid, (usize, &Accepted)>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut named = HashSet::new();
    for note in &evidence.notes {
        for event in &evidence.committed {
            if event.commit_lsn >= note.confirmed {
                break;
            }
            let accepted = first.get(&event.id).is_some_and(|(at, _)| *at < note.accepted);
            let letter = evidence.letters.get(&event.id).is_some_and(|at| *at <= note.letter);
            if !accepted && !letter && named.insert(event.id) {
                wrong.push(format!(
                    "{event}: {}, the slot had confirmed {}, and the event was neither accepted nor a dead letter",
                    note.when,
                    lsn(note.confirmed)
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Committed {
        Committed {
            id: Uuid::from_u128(n.into()),
            kind: "order".to_owned(),
            key: "k".to_owned(),
            n: i64::try_from(n).unwrap(),
            digest: n.to_string(),
            commit_lsn: n * 100,
        }
    }

    fn message(n: u64) -> Accepted {
        let Committed { id, kind, key, n, digest, commit_lsn } = event(n);
        let (n, commit_lsn) = (Some(n), Some(commit_lsn));
        let (whole, target) = (digest.clone(), "topic".to_owned());
        Accepted { id, target, kind, key, n, digest, commit_lsn, whole }
    }

    fn evidence(accepted: &[u64]) -> Evidence {
        Evidence {
            committed: (1..=3).map(event).collect(),
            accepted: accepted.iter().map(|n| message(*n)).collect(),
            targets: [("order".to_owned(), "topic".to_owned())].into(),
            ..Evidence::default()
        }
    }

    fn note(confirmed: u64, accepted: usize, letter: i64) -> Note {
        Note { when: "at a kill".to_owned(), confirmed, accepted, letter }
    }

    fn letter(n: u64, number: i64) -> (Uuid, i64) {
        (event(n).id, number)
    }

    #[test]
    fn all_in_order_with_repeats_is_right() {
        let verdict = judge(&evidence(&[1, 2, 1, 2, 3, 2]));
        assert_eq!(verdict, Verdict { duplicates: 3, ..Verdict::default() });
    }

    #[test]
    fn an_event_that_is_nowhere_is_lost_and_a_dead_letter_is_not() {
        let mut evidence = evidence(&[1, 3]);
        assert_eq!(judge(&evidence).lost.len(), 1);
        evidence.letters = [letter(2, 1)].into();
        assert_eq!(judge(&evidence), Verdict::default());
    }

    #[test]
    fn a_first_acceptance_behind_a_later_one_is_out_of_order() {
        assert_eq!(judge(&evidence(&[1, 3, 2])).out_of_order.len(), 1);
        let mut set_aside = evidence(&[1, 3, 2]);
        set_aside.letters = [letter(2, 1)].into();
        assert_eq!(judge(&set_aside).out_of_order, Vec::<String>::new());
    }

    #[test]
    fn another_content_place_or_position_under_the_same_id_is_found() {
        let spoil: [fn(&mut Accepted); 6] = [
            |m| m.digest = "other".to_owned(),
            |m| m.key = "other".to_owned(),
            |m| m.n = None,
            |m| m.commit_lsn = Some(7),
            |m| m.target = "other".to_owned(),
            |m| m.kind = "other".to_owned(),
        ];
        for spoil in spoil {
            let mut evidence = evidence(&[1, 2, 3]);
            spoil(&mut evidence.accepted[1]);
            assert_eq!(judge(&evidence).changed.len(), 1);
        }
        let mut again = evidence(&[1, 2, 3, 2]);
        again.accepted[3].whole = "other".to_owned();
        assert_eq!(judge(&again).changed.len(), 1);
    }

    #[test]
    fn what_was_rolled_back_must_not_be_accepted() {
        assert_eq!(judge(&evidence(&[1, 2, 3, 4])).never_committed.len(), 1);
    }

    #[test]
    fn a_confirmed_position_past_an_event_that_is_not_safe_is_found() {
        // The commit record of number 2 begins at 200: confirmed up to there it is sent again.
        for (noted, wrong) in [
            (note(200, 1, 0), 0),
            (note(201, 1, 0), 1),
            (note(201, 2, 0), 0),
            (note(301, 2, 0), 1),
            (note(100, 0, 0), 0),
            (note(101, 0, 0), 1),
        ] {
            let evidence = Evidence { notes: vec![noted.clone()], ..evidence(&[1, 2, 3]) };
            assert_eq!(judge(&evidence).confirmed_early.len(), wrong, "{noted:?}");
        }
        // A dead letter counts from when it was written.
        for (noted, wrong) in [(note(201, 1, 6), 1), (note(201, 1, 7), 0)] {
            let letters = [letter(2, 7)].into();
            let evidence = Evidence { notes: vec![noted], letters, ..evidence(&[1, 3]) };
            assert_eq!(judge(&evidence).confirmed_early.len(), wrong);
        }
        // And one that is lost was confirmed early, too.
        let evidence = Evidence { notes: vec![note(500, 2, 0)], ..evidence(&[1, 3]) };
        assert_eq!(judge(&evidence).confirmed_early.len(), 1);
    }
}
