//! What a process says of itself: log lines, and spans where they are wanted.

use crate::traces::Traces;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

/// Where spans are sent to.
#[cfg(not(feature = "otel"))]
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Logs as Lambda shows them best: a JSON object a line, on standard output. `RUST_LOG` filters;
/// without it what is `info` and worse is logged. To be called once, at the start of a process.
///
/// With the feature `otel` spans are kept too, where OpenTelemetry's variables ask for them
/// (`Traces::from_environment`): hand what is returned to
/// [`Consumer::with_traces`](crate::Consumer::with_traces).
///
/// What is wrong with those variables is logged, and the function works without spans: no event
/// waits for a trace. To log otherwise, put a subscriber of your own together.
pub fn start_logging() -> Traces {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // An error of the writer must not be printed to standard error: that panics where it is closed.
    let lines = fmt::layer().json().with_target(false).log_internal_errors(false);
    let lines = lines.with_filter(filter);
    let subscriber = tracing_subscriber::registry().with(lines);
    #[cfg(feature = "otel")]
    {
        let traces = Traces::from_environment();
        let layer = traces.as_ref().ok().map(Traces::layer);
        subscriber.with(layer).init();
        traces.unwrap_or_else(|error| {
            let error = crate::error::chain(&error);
            tracing::error!(error, "no spans are sent");
            Traces::default()
        })
    }
    #[cfg(not(feature = "otel"))]
    {
        subscriber.init();
        if std::env::var_os(ENDPOINT).is_some_and(|value| !value.is_empty()) {
            tracing::warn!(
                "expected a build with the feature otel of the crate consumer for {ENDPOINT}, found one without it; no spans are sent"
            );
        }
        Traces::default()
    }
}
