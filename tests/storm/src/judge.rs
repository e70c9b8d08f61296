//! What was committed against what was accepted. Pure.

use crate::sky::REFUSED;
use crate::source::MARK;
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
    /// How long its payload is.
    pub(crate) bytes: usize,
    /// The LSN of its transaction's commit record, by the server's own decoding.
    pub(crate) commit_lsn: u64,
    /// Whether it is to arrive: not what was written while its table was not published.
    pub(crate) owed: bool,
    /// Whether it can be sent: else it is to be a dead letter that holds its bytes.
    pub(crate) is_text: bool,
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

/// A dead letter: an event that was set aside.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Letter {
    /// Its event.
    pub(crate) id: Uuid,
    /// Dead letters are numbered as they are written.
    pub(crate) number: i64,
    /// The broker's code; none for one that was never sent.
    pub(crate) code: Option<String>,
    /// Whether it was redriven, and is there no more.
    pub(crate) redriven: bool,
}

/// A dead letter that goes through the stream again: it is to be accepted, or set aside anew.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Redriven {
    /// Its event.
    pub(crate) id: Uuid,
    /// The number of the letter that is there no more.
    pub(crate) letter: i64,
    /// The LSN of the commit record of the transaction that redrove it.
    pub(crate) commit_lsn: u64,
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
    /// All that ever were.
    pub(crate) letters: Vec<Letter>,
    pub(crate) redriven: Vec<Redriven>,
    /// The rows of the captured table, each of them an event.
    pub(crate) marks: Vec<String>,
    /// Those of them that are dead letters.
    pub(crate) marks_kept: Vec<String>,
    /// Events that are over a limit which was raised before they were written.
    pub(crate) within_limit: HashSet<Uuid>,
    /// The destinations' limit of a message, in bytes.
    pub(crate) limit: usize,
    pub(crate) notes: Vec<Note>,
    /// How many messages had been accepted when each relay but the first was started.
    pub(crate) starts: Vec<usize>,
    /// How many requests at most were accepted without the relay's being told.
    pub(crate) cuts: usize,
}

/// How the broker calls a message over its limit.
const TOO_LONG: &str = "BatchRequestTooLong";

/// Entries in one request, at most.
const BATCH: usize = 10;

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
    /// A dead letter, though it is neither over the limit nor was it refused for its own fault.
    pub(crate) set_aside: Vec<String>,
    /// A process sent again what it had been told was accepted.
    pub(crate) sent_again: Vec<String>,
    /// Messages beyond the first of each event.
    pub(crate) duplicates: usize,
}

impl Verdict {
    /// Each kind of wrong with its name.
    pub(crate) fn wrongs(&self) -> [(&'static str, &[String]); 7] {
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
            (
                "set aside without a cause (a dead letter that could have been sent)",
                &self.set_aside,
            ),
            (
                "sent again without a cause (by a relay that knew of the acceptance)",
                &self.sent_again,
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
            if message.kind == MARK {
                if let Some((_, before)) = first.get(&message.id)
                    && (before.whole != message.whole || before.target != message.target)
                {
                    let (key, id) = (&message.key, message.id);
                    verdict.changed.push(format!("{MARK} {key} ({id}): sent again differently"));
                }
                first.entry(message.id).or_insert((at, message));
                continue;
            }
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
    let kept: HashSet<Uuid> =
        evidence.letters.iter().filter(|letter| !letter.redriven).map(|letter| letter.id).collect();
    let lost = |event: &&Committed| {
        event.owed && !first.contains_key(&event.id) && !kept.contains(&event.id)
    };
    verdict.set_aside = set_aside(evidence, &committed);
    verdict.sent_again = sent_again(evidence);
    verdict.lost = evidence.committed.iter().filter(lost).map(ToString::to_string).collect();
    verdict.lost.extend(lost_marks(evidence));
    verdict.out_of_order = out_of_order(evidence, &committed);
    verdict.confirmed_early = confirmed_early(evidence, &first);
    verdict
}

/// Rows of the captured table that are neither accepted nor dead letters.
fn lost_marks(evidence: &Evidence) -> Vec<String> {
    let accepted = evidence.accepted.iter().filter(|message| message.kind == MARK);
    let mut safe: HashSet<&str> = accepted.map(|message| message.key.as_str()).collect();
    safe.extend(evidence.marks_kept.iter().map(String::as_str));
    let lost = evidence.marks.iter().filter(|id| !safe.contains(id.as_str()));
    lost.map(|id| format!("{MARK} {id}")).collect()
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

/// Dead letters without a cause. An envelope is longer than its payload, so a payload of half
/// the limit may be over it and a shorter one is not.
fn set_aside(evidence: &Evidence, committed: &HashMap<Uuid, &Committed>) -> Vec<String> {
    let mut wrong = Vec::new();
    for letter in &evidence.letters {
        let id = letter.id;
        let large = |event: &&&Committed| event.bytes > evidence.limit / 2;
        let event = committed.get(&id);
        let cause = match letter.code.as_deref() {
            // A row of the captured table, too.
            Some(REFUSED) => true,
            Some(code) if code.ends_with(TOO_LONG) => event.as_ref().is_some_and(large),
            None if evidence.within_limit.contains(&id) => false,
            None => event.is_some_and(|event| large(&event) || !event.is_text),
            Some(_) => false,
        };
        if !cause {
            let event = committed.get(&id).map_or_else(|| id.to_string(), ToString::to_string);
            wrong.push(format!("{event}: error code {:?}", letter.code));
        }
    }
    wrong
}

/// A relay sends again what it was not told of: at most the entries of each request whose answer
/// was cut. Beside them only a redriven event can come twice, by the log that is read again and
/// as itself; and of a relay that is killed, a last request may be accepted a moment later.
fn sent_again(evidence: &Evidence) -> Vec<String> {
    let mut lives: HashMap<Uuid, usize> = HashMap::new();
    let mut repeats = 0;
    for (at, message) in evidence.accepted.iter().enumerate() {
        let life = evidence.starts.partition_point(|start| *start <= at);
        repeats += usize::from(lives.insert(message.id, life) == Some(life));
    }
    let explained = BATCH * (evidence.cuts + evidence.starts.len()) + evidence.redriven.len();
    let says = || {
        format!(
            "{repeats} repeats within the life of one relay, of which {} requests whose answer was cut, {} starts and {} redriven letters explain at most {explained}",
            evidence.cuts,
            evidence.starts.len(),
            evidence.redriven.len()
        )
    };
    (repeats > explained).then(says).into_iter().collect()
}

/// By first acceptance, the numbers of a key only rise. What was a dead letter at any time is
/// out of the sequence: redriven, it comes behind those that it no longer held back.
fn out_of_order(evidence: &Evidence, committed: &HashMap<Uuid, &Committed>) -> Vec<String> {
    let set_aside: HashSet<Uuid> = evidence.letters.iter().map(|letter| letter.id).collect();
    let mut seen = HashSet::new();
    let mut newest: HashMap<(&str, &str, &str), i64> = HashMap::new();
    let mut wrong = Vec::new();
    for message in &evidence.accepted {
        let Some(event) = committed.get(&message.id) else {
            continue;
        };
        if set_aside.contains(&message.id) || !seen.insert(message.id) {
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
/// position, so each of its events must have been safe by then: accepted, or a dead letter; one
/// that was redriven, accepted or a dead letter anew.
fn confirmed_early(evidence: &Evidence, first: &HashMap<Uuid, (usize, &Accepted)>) -> Vec<String> {
    let mut letters: HashMap<Uuid, Vec<i64>> = HashMap::new();
    for letter in &evidence.letters {
        letters.entry(letter.id).or_default().push(letter.number);
    }
    let is_safe = |id: Uuid, note: &Note, newer_than: i64| {
        let kept = |number: &i64| *number > newer_than && *number <= note.letter;
        first.get(&id).is_some_and(|(at, _)| *at < note.accepted)
            || letters.get(&id).is_some_and(|numbers| numbers.iter().any(kept))
    };
    let mut wrong = Vec::new();
    let mut named = HashSet::new();
    for note in &evidence.notes {
        let says = |what: &str| {
            let confirmed = lsn(note.confirmed);
            format!(
                "{what}: {}, the slot had confirmed {confirmed}, and the event was neither accepted nor a dead letter",
                note.when
            )
        };
        for event in &evidence.committed {
            if event.commit_lsn >= note.confirmed {
                break;
            }
            if event.owed && !is_safe(event.id, note, 0) && named.insert((event.id, 0)) {
                wrong.push(says(&event.to_string()));
            }
        }
        for again in evidence.redriven.iter().filter(|again| again.commit_lsn < note.confirmed) {
            if !is_safe(again.id, note, again.letter) && named.insert((again.id, again.letter)) {
                let at = lsn(again.commit_lsn);
                wrong.push(says(&format!("{}, redriven at {at}", again.id)));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests;
