//! What a seed draws: the settings of a run, and the faults in their order. Pure.

use std::fmt;
use std::time::Duration;

/// How a broker that misbehaves does so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mood {
    /// Too many requests.
    Throttled,
    /// 500, nothing accepted.
    ServerErrors,
    /// No answer for seconds, then the connection is cut; nothing accepted.
    Hanging,
    /// The connection is cut, nothing accepted.
    CutBefore,
    /// The connection is cut, everything accepted.
    AcceptThenCut,
    /// Everything accepted, late.
    Slow,
    /// Single entries fail, not by the sender's fault.
    EntriesFail,
    /// Single entries fail by the sender's fault: dead letters.
    EntriesRefused,
    /// The answer names the entries in another order, and some of them fail.
    Shuffled,
    /// The credentials are expired.
    CredentialsExpired,
}

/// Every mood; the background draws from all of them.
pub(crate) const MOODS: [Mood; 10] = [
    Mood::Throttled,
    Mood::ServerErrors,
    Mood::Hanging,
    Mood::CutBefore,
    Mood::AcceptThenCut,
    Mood::Slow,
    Mood::EntriesFail,
    Mood::EntriesRefused,
    Mood::Shuffled,
    Mood::CredentialsExpired,
];

/// One fault of a run. Those with a time last for it while the next ones come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Strike {
    /// SIGKILL to the relay.
    Kill,
    /// SIGKILL while a request hangs and later events have been accepted and positions reported.
    KillBehindHang,
    /// SIGTERM to the relay.
    Terminate,
    /// Postgres is stopped in order and started again after a while.
    Restart(Duration),
    /// Postgres is stopped at once and started again after a while.
    Crash(Duration),
    /// `pg_terminate_backend` of the walsender.
    TerminateWalsender,
    /// After so many more bytes towards the relay, or towards Postgres, the connection is cut.
    Cut {
        /// Bytes that still pass.
        after: usize,
        /// Whether they are counted towards the relay.
        to_relay: bool,
        /// Whether it ends by a reset.
        reset: bool,
    },
    /// Nothing passes between the relay and Postgres, and no connection ends.
    Silence(Duration),
    /// The broker's mood; `only` is the place of one destination, or all of them.
    Broker {
        /// What it does.
        mood: Mood,
        /// For how long.
        lasting: Duration,
        /// To which.
        only: Option<usize>,
    },
    /// One request is not answered at all: the relay must give it up by itself.
    NeverAnswered,
    /// The table of dead letters cannot be written to, while entries are refused.
    LockDeadLetters(Duration),
    /// No fault: `relay dead-letters redrive --all`.
    Redrive,
    /// So many messages that nobody signed, under the relay's prefixes and others.
    Forged(u32),
    /// So many events whose texts and bytes are odd, by all three roads.
    OddTexts(u32),
    /// The outbox is without a nullable column for a while.
    WithoutColumn {
        /// For how long.
        lasting: Duration,
        /// Whether the relay is killed meanwhile.
        kill: bool,
    },
    /// The outbox is not published, until the relay has said so.
    Unpublished,
    /// There is no publication for a while, and then a new one; from Postgres 18 on.
    PublicationAnew(Duration),
    /// A table has another name for a while.
    Renamed {
        /// The outbox, or else the captured table.
        outbox: bool,
        /// For how long.
        lasting: Duration,
    },
    /// The server ends each session of the relay as soon as it is there.
    SessionsEnded(Duration),
    /// The relay's role may not log in, or may not replicate.
    LoginRefused {
        /// Whether it may log in and not replicate.
        replication: bool,
        /// For how long.
        lasting: Duration,
    },
    /// Postgres is told to stop while the broker refuses everything, and must.
    StopBehindRefusal {
        /// It waits for whoever is connected.
        smart: bool,
    },
    /// The relay may not write dead letters, until it has said so.
    LettersRevoked,
    /// The relay may not use the schema of the type of a captured column.
    TypesRevoked(Duration),
    /// From now on a destination does not tell its limits; its limit is raised at the end.
    LimitsRefused(usize),
    /// From now on a destination takes larger messages.
    LimitRaised(usize),
    /// No fault but load: so many events in one transaction.
    LargeTransaction(u32),
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => write!(f, "kill -9"),
            Self::KillBehindHang => write!(f, "kill -9 behind a request that hangs"),
            Self::Terminate => write!(f, "SIGTERM"),
            Self::Restart(down) => write!(f, "Postgres restarts, down {down:?}"),
            Self::Crash(down) => write!(f, "Postgres crashes, down {down:?}"),
            Self::TerminateWalsender => write!(f, "walsender terminated"),
            Self::Cut { after, to_relay, reset } => {
                let side = if *to_relay { "to the relay" } else { "to Postgres" };
                let how = if *reset { "reset" } else { "closed" };
                write!(f, "connection {how} after {after} bytes {side}")
            }
            Self::Silence(time) => write!(f, "connection silent for {time:?}"),
            Self::Broker { mood, lasting, only } => {
                write!(f, "broker {mood:?} for {lasting:?}")?;
                only.map_or(Ok(()), |at| write!(f, " at destination {at}"))
            }
            Self::NeverAnswered => write!(f, "a request is never answered"),
            Self::LockDeadLetters(time) => write!(f, "dead letters locked for {time:?}"),
            Self::Redrive => write!(f, "dead letters redriven"),
            Self::Forged(count) => write!(f, "{count} messages that nobody signed"),
            Self::OddTexts(count) => write!(f, "{count} events with odd texts and bytes"),
            Self::WithoutColumn { lasting, kill } => {
                let kill = if *kill { ", kill -9 meanwhile" } else { "" };
                write!(f, "the outbox without a column for {lasting:?}{kill}")
            }
            Self::Unpublished => write!(f, "the outbox not published until it is told"),
            Self::PublicationAnew(time) => write!(f, "no publication for {time:?}, then a new one"),
            Self::Renamed { outbox, lasting } => {
                let table = if *outbox { "the outbox" } else { "the captured table" };
                write!(f, "{table} renamed for {lasting:?}")
            }
            Self::SessionsEnded(time) => write!(f, "each session ended at once for {time:?}"),
            Self::LoginRefused { replication, lasting } => {
                let what = if *replication { "replication" } else { "login" };
                write!(f, "{what} refused for {lasting:?}")
            }
            Self::StopBehindRefusal { smart } => {
                let how = if *smart { "smart" } else { "fast" };
                write!(f, "Postgres stops ({how}) while the broker refuses everything")
            }
            Self::LettersRevoked => write!(f, "dead letters revoked until it is told"),
            Self::TypesRevoked(time) => write!(f, "a type's schema revoked for {time:?}"),
            Self::LimitsRefused(at) => write!(f, "limits not told by destination {at}"),
            Self::LimitRaised(at) => write!(f, "limit raised at destination {at}"),
            Self::LargeTransaction(events) => write!(f, "{events} events in one transaction"),
        }
    }
}

/// What a destination is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// An SNS FIFO topic.
    FifoTopic,
    /// An SNS standard topic.
    Topic,
    /// An SQS FIFO queue.
    FifoQueue,
    /// An SQS standard queue.
    Queue,
}

/// The encoding of the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Encoding {
    Utf8,
    Latin1,
    /// No encoding: whatever bytes a client sends.
    SqlAscii,
}

impl Encoding {
    /// As `create database` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF8",
            Self::Latin1 => "LATIN1",
            Self::SqlAscii => "SQL_ASCII",
        }
    }
}

const ENCODINGS: [Encoding; 3] = [Encoding::Utf8, Encoding::Latin1, Encoding::SqlAscii];

const KINDS: [Kind; 4] = [Kind::FifoTopic, Kind::FifoQueue, Kind::Topic, Kind::Queue];

/// All that a seed decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Where events go: the default, and the route's.
    pub(crate) destinations: [Kind; 2],
    pub(crate) encoding: Encoding,
    /// `bytes_in_flight`, in KiB.
    pub(crate) budget: u32,
    /// `requests_in_flight`.
    pub(crate) requests: u32,
    /// The server's `wal_sender_timeout`; positions are reported four times as often.
    pub(crate) sender_timeout: Duration,
    /// How many write at once.
    pub(crate) writers: u64,
    /// Of a hundred requests so many meet a fault at any time.
    pub(crate) background: u8,
    /// The faults, each after a pause.
    pub(crate) strikes: Vec<(Duration, Strike)>,
}

impl Plan {
    /// Draws everything from the seed: the same seed, the same plan.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut kinds = KINDS;
        rng.shuffle(&mut kinds);
        let [first, second, ..] = kinds;
        let background = pick(&mut rng, &[0, 3, 8]);
        Self {
            seed,
            destinations: [first, second],
            encoding: pick(&mut rng, &ENCODINGS),
            budget: pick(&mut rng, &[256, 1024, 4096]),
            requests: pick(&mut rng, &[1, 4, 64]),
            sender_timeout: Duration::from_millis(pick(&mut rng, &[300, 800, 2000])),
            writers: rng.u64(3..8),
            background,
            strikes: strikes(&mut rng),
        }
    }
}

fn pick<T: Copy>(rng: &mut fastrand::Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

/// How many faults a run has, beside the kill that none goes without.
const STRIKES: usize = 12;

/// A hand from a shuffled deck: a few seeds together play every card.
fn strikes(rng: &mut fastrand::Rng) -> Vec<(Duration, Strike)> {
    let mut deck = deck(rng);
    rng.shuffle(&mut deck);
    deck.truncate(STRIKES);
    let kill = rng.usize(STRIKES / 2..deck.len());
    deck.insert(kill, Strike::Kill);
    deck.into_iter().map(|strike| (millis(rng, 100..900), strike)).collect()
}

fn deck(rng: &mut fastrand::Rng) -> Vec<Strike> {
    let mut deck = vec![
        Strike::Kill,
        Strike::KillBehindHang,
        Strike::KillBehindHang,
        Strike::Terminate,
        Strike::Restart(millis(rng, 0..800)),
        Strike::Crash(millis(rng, 0..800)),
        Strike::Crash(millis(rng, 0..800)),
        Strike::TerminateWalsender,
        Strike::Silence(millis(rng, 300..3000)),
        Strike::LockDeadLetters(millis(rng, 500..2500)),
        Strike::LargeTransaction(rng.u32(2000..10_000)),
        Strike::Redrive,
        Strike::Redrive,
    ];
    for _ in 0..3 {
        let (after, reset) = (rng.usize(1..30_000), rng.bool());
        deck.push(Strike::Cut { after, to_relay: true, reset });
    }
    deck.push(Strike::Cut { after: rng.usize(1..200), to_relay: false, reset: rng.bool() });
    for mood in MOODS {
        let only = rng.bool().then(|| rng.usize(0..2));
        deck.push(Strike::Broker { mood, lasting: millis(rng, 300..2500), only });
    }
    deck.extend(hard_strikes(rng));
    // It costs the relay's time-out of 15 s at the end, so not always.
    if rng.u8(0..4) == 0 {
        deck.push(Strike::NeverAnswered);
    }
    deck
}

/// What once stopped a relay for good, lost a part without a word, or held the server.
fn hard_strikes(rng: &mut fastrand::Rng) -> Vec<Strike> {
    vec![
        Strike::Forged(rng.u32(5..60)),
        Strike::OddTexts(rng.u32(5..40)),
        Strike::OddTexts(rng.u32(5..40)),
        Strike::WithoutColumn { lasting: millis(rng, 100..1500), kill: rng.bool() },
        Strike::Unpublished,
        Strike::PublicationAnew(millis(rng, 100..1500)),
        Strike::Renamed { outbox: true, lasting: millis(rng, 100..1500) },
        Strike::Renamed { outbox: false, lasting: millis(rng, 100..1500) },
        Strike::SessionsEnded(millis(rng, 500..2500)),
        Strike::LoginRefused { replication: rng.bool(), lasting: millis(rng, 500..2500) },
        Strike::StopBehindRefusal { smart: rng.bool() },
        Strike::LettersRevoked,
        Strike::TypesRevoked(millis(rng, 100..1500)),
        Strike::LimitsRefused(rng.usize(0..2)),
        Strike::LimitRaised(rng.usize(0..2)),
    ]
}

fn millis(rng: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_plan_each_time_and_another_seed_another() {
        assert_eq!(Plan::draw(7), Plan::draw(7));
        assert_ne!(Plan::draw(7).strikes, Plan::draw(8).strikes);
    }

    #[test]
    fn every_run_has_a_kill_and_a_few_runs_have_every_kind_of_fault() {
        let mut found = std::collections::HashSet::new();
        let mut encodings = std::collections::HashSet::new();
        for seed in 0..30 {
            let plan = Plan::draw(seed);
            encodings.insert(plan.encoding.name());
            assert!(plan.strikes.iter().any(|(_, s)| *s == Strike::Kill), "seed {seed}");
            for (_, strike) in &plan.strikes {
                found.insert(match strike {
                    Strike::Broker { mood, .. } => format!("{mood:?}"),
                    other => format!("{:?}", std::mem::discriminant(other)),
                });
            }
        }
        // Twenty-five kinds beside the broker's moods.
        assert_eq!(found.len(), MOODS.len() + 25);
        assert_eq!(encodings.len(), ENCODINGS.len());
    }
}
