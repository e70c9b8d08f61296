//! The chaos suite: the relay's own binary between a Postgres it can lose and a broker that
//! misbehaves, under load, judged by what the source committed.

mod child;
mod evidence;
mod judge;
mod odd;
mod plan;
mod proxy;
mod run;
mod settle;
mod sky;
mod source;
mod strikes;
mod writers;

use anyhow::{Context, Result};
use clap::Parser;
use plan::Plan;
use run::{Outcome, Run};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the relay through faults that seeds draw, and judges what arrived.
#[derive(Debug, Parser)]
#[command(
    name = "tests/chaos",
    after_help = "Examples:\n  \
  tests/chaos                          five seeds, the first of them drawn at random\n  \
  tests/chaos --seeds 50 --first 1     the seeds 1 to 50\n  \
  tests/chaos --seeds 1 --first 17     seed 17 again\n  \
  tests/chaos --minutes 60             one seed after the other for an hour\n\n\
The last line: chaos: N seeds, accepted A, lost 0, out of order 0, duplicates D, worst memory M MiB\n\
A seed that fails ends the run; its logs stay in target/chaos.\n\n\
Exit codes: 0 all is well, 1 a seed failed, 2 wrong arguments, 130 interrupted."
)]
struct Arguments {
    /// How many seeds to run; without it 5, or as many as --minutes has time for.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// The first seed; the others follow it. Drawn at random where it is not given.
    #[arg(long)]
    first: Option<u64>,
    /// Begin no more seeds after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Another relay than the one that was built.
    #[arg(long, hide = true)]
    relay: Option<PathBuf>,
}

impl Arguments {
    fn seeds(&self) -> u64 {
        self.seeds.unwrap_or(if self.minutes.is_some() { u64::MAX } else { 5 })
    }
}

/// What the seeds came to, together.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    accepted: usize,
    lost: usize,
    out_of_order: usize,
    duplicates: usize,
    peak: u64,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.accepted += outcome.accepted;
        self.lost += outcome.verdict.lost.len();
        self.out_of_order += outcome.verdict.out_of_order.len();
        self.duplicates += outcome.verdict.duplicates;
        self.peak = self.peak.max(outcome.peak);
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, accepted, lost, out_of_order, duplicates, peak } = self;
        let memory = mebibytes(*peak);
        write!(
            f,
            "chaos: {seeds} seeds, accepted {accepted}, lost {lost}, out of order {out_of_order}, duplicates {duplicates}, worst memory {memory} MiB"
        )
    }
}

/// Whole mebibytes, rounded up.
fn mebibytes(kibibytes: u64) -> u64 {
    kibibytes.div_ceil(1024)
}

// One thread: the children die with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupted = async {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    tokio::select! {
        done = chaos(&arguments) => match done {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => {
                eprintln!("\nchaos: the suite itself failed: {error:#}");
                ExitCode::from(1)
            }
        },
        () = interrupted => {
            eprintln!("\ninterrupted: everything is stopped");
            ExitCode::from(130)
        }
    }
}

async fn chaos(arguments: &Arguments) -> Result<bool> {
    let first = arguments.first.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let until = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let relay = match &arguments.relay {
        Some(relay) => std::path::absolute(relay)?,
        None => local::stack::binary("relay")?,
    };
    let mut total = Total::default();
    let mut well = true;
    for seed in (0..arguments.seeds()).map(|n| first.wrapping_add(n)) {
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let outcome =
            Box::pin(one(seed, relay.clone())).await.with_context(|| format!("seed {seed}"))?;
        total.add(&outcome);
        if !outcome.wrong.is_empty() {
            well = false;
            break;
        }
    }
    println!("{total}");
    Ok(well)
}

/// One seed, told as it goes.
async fn one(seed: u64, relay: PathBuf) -> Result<Outcome> {
    let plan = Plan::draw(seed);
    let began = Instant::now();
    println!("seed {seed}: {}", settings(&plan));
    for (_, strike) in &plan.strikes {
        println!("  {strike}");
    }
    let folder =
        tempfile::Builder::new().prefix("relay-chaos-").tempdir().context("make a folder")?;
    let outcome = match Run::start(plan, relay, folder.path()).await {
        Ok(run) => Box::pin(run.finish()).await,
        Err(error) => Err(error),
    };
    let failed = outcome.as_ref().map_or(true, |outcome| !outcome.wrong.is_empty());
    if failed {
        println!("\nseed {seed} failed; again with: tests/chaos --seeds 1 --first {seed}");
        println!("the relay's logs: {}\n", keep(folder.path(), seed)?.display());
    }
    let outcome = outcome?;
    for paragraph in &outcome.wrong {
        println!("{paragraph}\n");
    }
    let Outcome { committed, accepted, letters, kills, verdict, peak, .. } = &outcome;
    println!(
        "  committed {committed}, accepted {accepted}, dead letters {letters}, duplicates {}, kills {kills}, worst memory {} MiB, {:.1} s",
        verdict.duplicates,
        mebibytes(*peak),
        began.elapsed().as_secs_f64()
    );
    Ok(outcome)
}

fn settings(plan: &Plan) -> String {
    let Plan { destinations: [first, second], budget, requests, sender_timeout, .. } = plan;
    format!(
        "{first:?} and {second:?}, {}, {budget} KiB and {requests} requests in flight, wal_sender_timeout {sender_timeout:?}, {} writers, faults in {} % of the requests",
        plan.encoding.name(),
        plan.writers,
        plan.background
    )
}

/// Copies the logs of a failed seed to where they stay.
fn keep(logs: &Path, seed: u64) -> Result<PathBuf> {
    let kept = Path::new("target/chaos").join(seed.to_string());
    std::fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
    for log in std::fs::read_dir(logs).context("read the logs")?.flatten() {
        std::fs::copy(log.path(), kept.join(log.file_name())).context("keep a log")?;
    }
    Ok(kept)
}
