//! The log of the program, on standard error.
//!
//! A log that cannot be written, because its reader went away, is no reason to stop.

use crate::commands::Usage;
use relay::printable::printable;
use std::io::{IsTerminal as _, stderr};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// How the log is written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    // An empty RELAY_LOG_FORMAT counts as not set.
    #[value(alias(""))]
    Text,
    /// A JSON object a line.
    Json,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Logs from here on.
///
/// # Errors
/// When the filter is none.
pub(crate) fn start(filter: &str, format: Format) -> Result<(), Usage> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        // Or an error of the writer is printed to standard error, which panics where that is closed.
        .log_internal_errors(false)
        .with_writer(stderr);
    match format {
        Format::Text => log.with_ansi(stderr().is_terminal()).fmt_fields(debug_fn(field)).init(),
        Format::Json => log.json().init(),
    }
    Ok(())
}

/// A field behind the message, everything in it on one line and printable.
fn field(
    to: &mut Writer<'_>,
    field: &tracing::field::Field,
    value: &dyn std::fmt::Debug,
) -> std::fmt::Result {
    let text = format!("{value:?}");
    match field.name() {
        "message" => write!(to, "{}", printable(&text)),
        // What `log` records say of their place.
        name if name.starts_with("log.") => Ok(()),
        name => write!(to, " {name}={}", printable(&text)),
    }
}

/// A level, or `target=level`, separated by commas. Whatever else a filter of tracing can say must
/// parse too; a word alone that is no level would switch everything else off.
fn parse(filter: &str) -> Result<EnvFilter, Usage> {
    let filter = if filter.trim().is_empty() { "info" } else { filter };
    let wrong = |found: &str| {
        Usage(format!(
            "expected --log (RELAY_LOG) to be a level ({}) or TARGET=LEVEL, separated by commas, found {found:?}",
            LEVELS.join(", ")
        ))
    };
    for directive in filter.split(',').map(str::trim) {
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(directive));
        if !is_level && !directive.contains(['=', '[', '{', '}', ']']) {
            return Err(wrong(directive));
        }
    }
    // Below what the operator says: the history of migrations, and the server's notices, such as
    // that a table exists already.
    let all = format!("refinery_core=warn,tokio_postgres=warn,{filter}");
    EnvFilter::builder().parse(all).map_err(|_| wrong(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_be_passed_over_is_refused() {
        for filter in ["", "info", "WARN", "relay=debug,warn", "relay::publish=trace, info", "off"]
        {
            assert!(parse(filter).is_ok(), "{filter:?}");
        }
        for filter in
            ["inf", "warning", "relay", "relay=loud", "info,", "relay=debug,,warn", "=", "5x"]
        {
            let error = parse(filter).unwrap_err().to_string();
            assert!(error.contains("RELAY_LOG") && error.contains("found"), "{filter:?}: {error}");
        }
    }
}
