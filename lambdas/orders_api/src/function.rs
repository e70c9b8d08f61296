//! The service as a Lambda function behind a function URL, or an HTTP API.
//!
//! Knows: how Lambda tells of a request. Must not know: what is asked.

use anyhow::anyhow;
use axum::Router;
use std::env::var_os;

/// Whether Lambda has started this program: it names its runtime API.
pub(crate) fn is_ours() -> bool {
    var_os("AWS_LAMBDA_RUNTIME_API").is_some()
}

/// Answers until Lambda ends the process, one request at a time.
pub(crate) async fn run(routes: Router) -> anyhow::Result<()> {
    lambda_http::run(routes).await.map_err(|error| anyhow!(error).context("the runtime API ended"))
}
