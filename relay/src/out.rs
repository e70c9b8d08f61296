//! What a command prints: the one way to standard output and standard error.
//!
//! Everything that is printed is escaped, so that no key, reason or name from outside reaches a
//! terminal as it is. A reader that goes away (`relay dead-letters list | head -1`) changes
//! nothing else: the rest is not printed, the command does its work to the end, and its exit code
//! is that of the work.

use relay::printable::{printable, printable_json};
use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};
use std::sync::OnceLock;

/// The first failure to write to standard output. Nothing is written after it.
static FAILED: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a line to standard output.
macro_rules! out {
    ($($arg:tt)*) => { $crate::out::line(format_args!($($arg)*)) };
}
pub(crate) use out;

/// Prints a line; newlines and other control characters within it are escaped.
pub(crate) fn line(text: Arguments<'_>) {
    write(&format!("{}\n", printable(&text.to_string())));
}

/// Prints a text of several lines; all but its newlines and tabs is escaped.
pub(crate) fn text(text: &str) {
    for line in text.lines() {
        let fields: Vec<_> = line.split('\t').map(printable).collect();
        write(&format!("{}\n", fields.join("\t")));
    }
}

/// Prints a value as a JSON text on a line.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    json_line(&serde_json::to_string(value)?);
    Ok(())
}

/// Prints a JSON text on a line.
pub(crate) fn json_line(json: &str) {
    write(&format!("{}\n", printable_json(json)));
}

/// Whether this command prints JSON; once set, for the rest of the process.
static JSON: OnceLock<bool> = OnceLock::new();

pub(crate) fn set_json(json: bool) {
    let _ = JSON.set(json);
}

pub(crate) fn is_json() -> bool {
    JSON.get().copied().unwrap_or(false)
}

/// Prints a line to standard error. Where that is closed, nobody wants to know.
pub(crate) fn error(text: &str) {
    drop(std::io::stderr().write_all(format!("{}\n", printable(text)).as_bytes()));
}

fn write(text: &str) {
    if FAILED.get().is_some() {
        return;
    }
    let mut to = std::io::stdout().lock();
    if let Err(error) = to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        let _ = FAILED.set(error);
    }
}

/// Why standard output could not be written, but for a reader that went away.
pub(crate) fn failure() -> Option<&'static std::io::Error> {
    FAILED.get().filter(|error| error.kind() != ErrorKind::BrokenPipe)
}
