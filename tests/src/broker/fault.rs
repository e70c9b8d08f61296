//! How the broker misbehaves.

use std::time::Duration;

/// What happens to a request to publish instead of its being taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Refused for going too fast.
    Throttle,
    /// 500, nothing accepted.
    ServerError,
    /// No answer for so long; nothing accepted.
    Hang(Duration),
    /// The connection is cut, nothing accepted.
    CutBefore,
    /// The connection is cut, everything accepted.
    CutAfter,
    /// An answer that takes so long; everything accepted.
    Slow(Duration),
    /// The whole request is refused with this code.
    Refuse(&'static str),
    /// The whole request is refused for its credentials (403) with this code.
    Forbid(&'static str),
    /// Everything accepted; the answer names the entries in another order.
    Shuffle,
    /// The entries at these places are refused with this code; the others are accepted.
    FailEntries {
        /// Which.
        places: Vec<usize>,
        /// The code.
        code: &'static str,
        /// Whether the sender is to blame.
        sender_fault: bool,
    },
}

/// From the topic's ARN or the queue's name to the fault.
type Next = Box<dyn FnMut(&str) -> Option<Fault> + Send>;

/// Decides what the next request to publish meets.
pub(super) struct Draw(pub(super) Next);

impl std::fmt::Debug for Draw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Draw")
    }
}

/// Faults that a client must get over by itself, drawn at random.
pub(super) fn transient(rng: &mut fastrand::Rng) -> Fault {
    match rng.u8(0..7) {
        0 => Fault::Throttle,
        1 => Fault::ServerError,
        2 => Fault::CutBefore,
        3 => Fault::CutAfter,
        4 => Fault::Slow(Duration::from_millis(rng.u64(1..60))),
        5 => Fault::Refuse("KMSThrottling"),
        _ => Fault::FailEntries {
            places: (0..10).filter(|_| rng.bool()).collect(),
            code: "InternalError",
            sender_fault: false,
        },
    }
}
