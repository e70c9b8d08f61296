//! The log of a process.

use tracing_subscriber::EnvFilter;

/// Logs as Lambda shows them best: a JSON object a line, on standard output. `RUST_LOG` filters;
/// without it what is `info` and worse is logged. To be called once, at the start of a process.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_target(false).init();
}
