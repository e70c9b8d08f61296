//! The end of a seed: everything has arrived or never will, and the evidence is judged.

use crate::evidence;
use crate::judge::{Committed, Evidence, Redriven, judge};
use crate::run::{LIMIT, LOOK, Outcome, Run};
use crate::source::KINDS;
use anyhow::Result;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// In the quiet after the faults, events that have not moved for so long will not any more.
/// Above the longest back-off (20 s) and the time-out of a request (15 s) together.
const PATIENCE: Duration = Duration::from_secs(50);

/// How much more than its budget a relay may have resident, in KiB: see relay/docs/chaos.md.
const BESIDE_THE_BUDGET: u64 = 28 * 1024;

impl Run {
    /// Waits until every committed event is accepted or a dead letter, or never will be; then
    /// ends the relay and judges.
    pub(crate) async fn settle(mut self) -> Result<Outcome> {
        let (committed, redriven) = self.source.committed().await?;
        let last = committed.last().map_or(0, |event| event.commit_lsn);
        let newest = redriven.iter().fold(last, |newest, again| newest.max(again.commit_lsn));
        let owed = committed.iter().filter(|event| event.owed);
        let mut waiting: HashSet<Uuid> = owed.map(|event| event.id).collect();
        let (mut read, mut moved) = (0, Instant::now());
        let done = loop {
            self.watch_for(LOOK).await?;
            // Confirmed past the last of them: what is not there now will not come.
            let (confirmed, _) = self.source.slot().await?;
            let before = waiting.len();
            let accepted = self.broker.state().accepted.get(read..).map(<[_]>::to_vec);
            for message in accepted.into_iter().flatten() {
                read += 1;
                waiting.remove(&evidence::accepted(&message)?.id);
            }
            for letter in self.source.letters().await?.into_iter().filter(|letter| !letter.redriven)
            {
                waiting.remove(&letter.id);
            }
            if confirmed > newest {
                break true;
            }
            if waiting.len() < before {
                moved = Instant::now();
            }
            if moved.elapsed() > PATIENCE {
                break false;
            }
        };
        if done {
            let ended = self.child.terminate().await?;
            if !ended.success() {
                self.wrong.push(format!(
                    "With all done: expected the relay to end in order, found {ended}; its log ends:\n{}",
                    self.child.newest_log()
                ));
            }
            self.note("at the end").await?;
        } else {
            let (confirmed, active) = self.source.slot().await?;
            self.wrong.push(format!(
                "{} events did not arrive within {PATIENCE:?} of the last that did; the slot is {} and has confirmed {}, and the last was committed at {}; the relay's log ends:\n{}",
                waiting.len(),
                if active { "active" } else { "not active" },
                crate::judge::lsn(confirmed),
                crate::judge::lsn(newest),
                self.child.newest_log()
            ));
        }
        self.judge(committed, redriven).await
    }

    async fn judge(
        mut self,
        committed: Vec<Committed>,
        redriven: Vec<Redriven>,
    ) -> Result<Outcome> {
        let (messages, violations) = {
            let state = self.broker.state();
            (state.accepted.clone(), state.violations.clone())
        };
        let (marks, marks_kept) = self.source.marks().await?;
        let evidence = Evidence {
            committed,
            marks,
            marks_kept,
            within_limit: self.within_limit,
            accepted: messages.iter().map(evidence::accepted).collect::<Result<_>>()?,
            targets: KINDS.map(str::to_owned).into_iter().zip(self.targets).collect(),
            letters: self.source.letters().await?,
            redriven,
            limit: LIMIT,
            notes: self.notes,
            starts: self.starts,
            cuts: self.sky.cuts(),
        };
        let verdict = judge(&evidence);
        for (name, lines) in verdict.wrongs() {
            self.wrong.extend(paragraph(name, lines));
        }
        self.wrong.extend(paragraph("in flight twice (two entries of a key at once)", &violations));
        for log in self.child.ended_by_itself {
            self.wrong.push(format!("The relay ended by itself; its log ends:\n{log}"));
        }
        let bound = u64::from(self.plan.budget) + BESIDE_THE_BUDGET;
        if self.child.peak > bound {
            self.wrong.push(format!(
                "Memory: expected at most {bound} KiB resident, the budget of {} KiB and {BESIDE_THE_BUDGET} KiB beside it, found {} KiB",
                self.plan.budget, self.child.peak
            ));
        }
        Ok(Outcome {
            committed: evidence.committed.len(),
            accepted: evidence.accepted.len() - verdict.duplicates,
            letters: evidence.letters.len(),
            kills: self.kills,
            verdict,
            peak: self.child.peak,
            wrong: self.wrong,
        })
    }
}

/// How many were wrong in a way, and the first few of them.
fn paragraph(name: &str, lines: &[String]) -> Option<String> {
    const SHOWN: usize = 5;
    let first = lines.iter().take(SHOWN).map(|line| format!("\n  {line}")).collect::<String>();
    let more = lines.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    (!lines.is_empty()).then(|| format!("{} {name}:{first}{more}", lines.len()))
}
