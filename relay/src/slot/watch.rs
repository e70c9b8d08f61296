//! A look at the slot every so often, and a word when it is worse.

use super::state::{MUCH, SlotState, Trouble};
use dsn::Dsn;
use std::time::Duration;

/// How often the slot is looked at.
pub const EVERY: Duration = Duration::from_secs(30);

/// What was said last, so that the same is not said again.
#[derive(Debug, Default)]
pub(crate) struct Said {
    trouble: Option<Trouble>,
    /// Bytes of retained log that were mentioned.
    retained: u64,
}

impl Said {
    /// What is worth a line of the log now, if anything.
    pub(crate) fn worth_saying(&mut self, state: &SlotState, name: &str) -> Option<String> {
        let trouble = state.trouble();
        let retained = state.retained.unwrap_or(0);
        let worse = match (&trouble, &self.trouble) {
            (Some(now), Some(before)) => now < before,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let doubled = retained > MUCH && retained >= self.retained.saturating_mul(2);
        if retained <= MUCH {
            self.retained = 0;
        }
        self.trouble.clone_from(&trouble);
        if !worse && !doubled {
            return None;
        }
        if doubled {
            self.retained = retained;
        }
        Some(match trouble {
            Some(trouble) => state.describe(&trouble, name),
            None => format!(
                "{} of log are kept for the slot {name}; a long transaction holds them if nothing waits",
                bytesize::ByteSize::b(retained)
            ),
        })
    }
}

/// Looks at the slot for as long as it is polled, over a connection of its own.
pub async fn run(dsn: Dsn, name: String, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut client, mut said) = (None, Said::default());
    loop {
        ticks.tick().await;
        let open = match client.take() {
            Some(open) => Ok(open),
            None => dsn.connect("relay watch").await.map(|(open, _)| open),
        };
        // That Postgres cannot be reached is said by the stream itself.
        let Ok(open) = open else {
            continue;
        };
        if let Ok(state) = SlotState::read(&open, &name).await {
            if let Some(line) = state.as_ref().and_then(|s| said.worth_saying(s, &name)) {
                tracing::warn!("{line}");
            }
            if let Some(state) = &state {
                tracing::debug!(
                    retained = state.retained,
                    behind = state.behind,
                    wal_status = state.wal_status,
                    safe_wal_size = state.safe_wal_size,
                    "slot"
                );
            }
            client = Some(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worse_is_said_once() {
        let state = |status: &str, retained: u64| SlotState {
            wal_status: Some(status.to_owned()),
            retained: Some(retained),
            ..SlotState::default()
        };
        let mut said = Said::default();
        assert_eq!(said.worth_saying(&state("reserved", 5), "relay"), None);
        assert!(said.worth_saying(&state("extended", MUCH + 1), "relay").is_some());
        assert_eq!(said.worth_saying(&state("extended", MUCH + 2), "relay"), None);
        assert!(said.worth_saying(&state("extended", MUCH * 2 + 2), "relay").is_some());
        let unreserved = said.worth_saying(&state("unreserved", MUCH * 2 + 3), "relay").unwrap();
        assert!(unreserved.contains("next checkpoint"), "{unreserved}");
        assert_eq!(said.worth_saying(&state("unreserved", MUCH * 2 + 3), "relay"), None);
        assert!(said.worth_saying(&state("lost", 0), "relay").unwrap().contains("is lost"));
        // Well again, and worse again: said again.
        assert_eq!(said.worth_saying(&state("reserved", 0), "relay"), None);
        assert!(said.worth_saying(&state("unreserved", 0), "relay").is_some());
    }
}
