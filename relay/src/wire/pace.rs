//! How often the socket is read.
//!
//! A walsender sends message by message. A reader that waits for the socket is
//! woken for each of them, and waking it costs the walsender about as much as
//! the sending: in a backlog both cores are busy with that. So when much comes,
//! the reader asks to be woken for much at once, or where a socket cannot do that
//! stays away for a moment and lets it fill; when little comes, it does neither.
//!
//! Knows: when bytes came, and how many. Must not know: sockets, clocks.

use std::time::{Duration, Instant};

/// How long the rate is measured over to see a backlog begin.
const TO_BEGIN: Duration = Duration::from_millis(1);

/// And to see it end: a walsender stalls for a moment now and then, and to be woken for each
/// message after each of them would cost what the pauses gain.
const TO_END: Duration = Duration::from_millis(10);

/// So many bytes a millisecond are a backlog: 16 MB a second, some 25,000 small transactions.
const MUCH: usize = 16 * 1024;

/// The time from one read to the next in a backlog. In it a walsender sends some
/// 20 KiB, of the 128 KiB and more that a socket holds.
const BETWEEN_READS: Duration = Duration::from_micros(200);

/// The rate at which bytes come.
#[derive(Debug)]
pub(super) struct Pace {
    window_began: Instant,
    in_window: usize,
    last_read: Instant,
    backlog: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_began: now, in_window: 0, last_read: now, backlog: false }
    }

    /// Takes note of a read.
    pub(super) fn read(&mut self, now: Instant, bytes: usize) {
        self.last_read = now;
        self.in_window += bytes;
        let elapsed = now.duration_since(self.window_began);
        let window = if self.backlog { TO_END } else { TO_BEGIN };
        if elapsed >= window {
            let millis = usize::try_from(elapsed.as_millis()).unwrap_or(usize::MAX).max(1);
            self.backlog = self.in_window / millis >= MUCH;
            self.window_began = now;
            self.in_window = 0;
        }
    }

    /// Whether there is much to read.
    pub(super) fn is_backlog(&self) -> bool {
        self.backlog
    }

    /// How long to stay away from the socket before the next read.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        if !self.backlog {
            return Duration::ZERO;
        }
        BETWEEN_READS.saturating_sub(now.duration_since(self.last_read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads so many bytes every so often, for fifty milliseconds; how long the last pause was.
    fn last_pause(bytes: usize, every: Duration) -> Duration {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        let mut now = began;
        while now < began + Duration::from_millis(50) {
            now += every;
            pace.read(now, bytes);
        }
        pace.pause(now)
    }

    #[test]
    fn only_a_backlog_is_let_to_fill() {
        let micros = Duration::from_micros;
        // 10,000 small transactions a second, as they come: no pause, no latency.
        assert_eq!(last_pause(1000, micros(100)), Duration::ZERO);
        // Message by message at full speed.
        assert_eq!(last_pause(700, micros(8)), BETWEEN_READS);
    }

    #[test]
    fn a_reader_that_was_busy_does_not_pause_and_the_end_of_a_backlog_is_noticed() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        now += TO_BEGIN;
        pace.read(now, MUCH);
        pace.read(now, 1);
        assert_eq!(pace.pause(now), BETWEEN_READS);
        assert_eq!(pace.pause(now + BETWEEN_READS), Duration::ZERO, "it was busy for as long");
        // A moment's stall is not the end of it.
        now += TO_END / 2;
        pace.read(now, 1);
        assert_eq!(pace.pause(now), BETWEEN_READS);
        now += TO_END / 2;
        pace.read(now, 1);
        assert_eq!(pace.pause(now), Duration::ZERO, "little came for ten milliseconds");
    }
}
