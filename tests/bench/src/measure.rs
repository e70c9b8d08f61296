//! A client from its start to its end: seconds, processor time, memory.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};
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
