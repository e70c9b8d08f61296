//! The relay as a child process: started, looked at, killed, started again.

use anyhow::{Context, Result, ensure};
use local::process::Process;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// How long after SIGTERM it may still run: its own grace, and as much to say goodbye.
pub(crate) const GRACE: Duration = Duration::from_secs(3);
const END: Duration = Duration::from_secs(20);

/// The relay, and what is known of all its processes in a run.
pub(crate) struct Child {
    command: Box<dyn Fn() -> Command>,
    folder: PathBuf,
    process: Option<Process>,
    runs: u32,
    /// The most memory that any of them had resident, in KiB.
    pub(crate) peak: u64,
    /// What each that ended unasked said last.
    pub(crate) ended_by_itself: Vec<String>,
}

impl Child {
    /// A relay that this command runs, its logs in this folder.
    pub(crate) fn new(command: impl Fn() -> Command + 'static, folder: PathBuf) -> Self {
        let command = Box::new(command);
        Self { command, folder, process: None, runs: 0, peak: 0, ended_by_itself: Vec::new() }
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.runs += 1;
        let log = self.folder.join(format!("relay-{}.log", self.runs));
        self.process = Some(Process::start("relay", (self.command)(), &log)?);
        Ok(())
    }

    /// Notes its memory; one that has ended by itself is noted too, and started again.
    pub(crate) fn look(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        if process.is_running() {
            // None when it ended just now: the next look finds out.
            self.peak = self.peak.max(peak(process.id()).unwrap_or(0));
            return Ok(());
        }
        self.ended_by_itself.push(end_of(&process.log()));
        self.start()
    }

    /// SIGKILL, and the end of it.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.look()?;
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        Ok(())
    }

    /// SIGTERM, and its end.
    pub(crate) async fn terminate(&mut self) -> Result<ExitStatus> {
        self.look()?;
        let mut process = self.process.take().context("expected a relay that runs")?;
        process.terminate(END).await
    }

    /// Whether the newest has had a session.
    pub(crate) fn has_streamed(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.log().contains("streaming"))
    }

    /// The end of the newest log.
    pub(crate) fn newest_log(&self) -> String {
        let log = self.folder.join(format!("relay-{}.log", self.runs));
        end_of(&std::fs::read_to_string(log).unwrap_or_default())
    }
}

/// The last lines of a log, each as far as a terminal shows it; the whole log is kept.
fn end_of(log: &str) -> String {
    const LINES: usize = 6;
    const CHARACTERS: usize = 240;
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LINES));
    let shown = last.map(|line| line.chars().take(CHARACTERS).collect::<String>());
    shown.map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// The most memory that a process ever had resident, in KiB.
fn peak(process: u32) -> Result<u64> {
    // A child that is just being started has the memory, and the name, of the one that starts it.
    let name = |of: &str| std::fs::read_to_string(format!("/proc/{of}/comm"));
    ensure!(name(&process.to_string())? != name("self")?, "it does not run yet");
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.context("expected VmHWM")?.trim().trim_end_matches("kB").trim().parse()?)
}
