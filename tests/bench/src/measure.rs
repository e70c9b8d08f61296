//! A client from its start to its end: seconds, processor time, memory.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use wait4::Wait4 as _;

/// What one run cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// User and system time of the client.
    pub(crate) processor: Duration,
    /// The most memory that was resident, in bytes.
    pub(crate) peak: u64,
}

/// Runs a command to its end and measures it.
pub(crate) fn measure(mut command: Command) -> Result<Cost> {
    let began = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let used = child.wait4().context("wait for the client")?;
    ensure!(used.status.success(), "{} failed: {}", command.get_program().display(), used.status);
    Ok(Cost {
        wall: began.elapsed(),
        processor: used.rusage.utime + used.rusage.stime,
        peak: used.rusage.maxrss,
    })
}

/// A client that measures itself between two moments of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    began: Instant,
    processor: Duration,
}

impl Meter {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { began: Instant::now(), processor: processor()? })
    }

    pub(crate) fn read(&self) -> Result<Cost> {
        let wall = self.began.elapsed();
        Ok(Cost { wall, processor: processor()?.saturating_sub(self.processor), peak: peak()? })
    }
}

/// What this process used of the processors so far, in user and kernel, over all its threads.
///
/// From the scheduler's own account, in nanoseconds; `getrusage` would count in ticks here.
fn processor() -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread that has just ended has no account any more.
        let Ok(account) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let ran = account.split(' ').next().context("expected the time of a thread")?;
        total += Duration::from_nanos(ran.parse()?);
    }
    Ok(total)
}

/// The most memory of this process that was resident, in bytes.
pub(crate) fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.context("expected VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

impl Cost {
    /// Prints it for the process that started this one.
    pub(crate) fn print(&self, requests: u64) {
        let (wall, processor) = (self.wall.as_micros(), self.processor.as_micros());
        println!("cost {wall} {processor} {} {requests}", self.peak);
    }

    /// Runs a client that measures itself to its end.
    pub(crate) fn of(mut client: Command) -> Result<(Self, u64)> {
        let client = client.stdin(Stdio::null()).stderr(Stdio::inherit());
        Self::told(&client.output().context("start a client")?)
    }

    /// What a client that has ended says it cost, and how many requests it sent.
    pub(crate) fn told(client: &Output) -> Result<(Self, u64)> {
        ensure!(client.status.success(), "a client failed: {}", client.status);
        let said = String::from_utf8_lossy(&client.stdout);
        said.lines().find_map(Self::parse).context("a client does not say what it cost")
    }

    fn parse(line: &str) -> Option<(Self, u64)> {
        let mut numbers = line.strip_prefix("cost ")?.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let (wall, processor) = (Duration::from_micros(next()?), Duration::from_micros(next()?));
        Some((Self { wall, processor, peak: next()? }, next()?))
    }
}
