//! The service as a server of its own, in a container or on a machine.
//!
//! Knows: sockets and signals. Must not know: what is asked.

use anyhow::Context;
use axum::Router;
use axum::serve::ListenerExt;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Beyond its wait a request that is being answered has so long when the service ends.
const GRACE: Duration = Duration::from_secs(5);

/// Told when the service is to end.
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// On SIGTERM and Ctrl-C.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            tracing::info!("stopping: requests that are being answered are finished");
            let _ = stop.send(true);
        });
        Ok(Self(stopped))
    }

    async fn told(mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Answers until it is told to stop, and then what it was asked before: each request waits for
/// its version as long as `wait`.
pub(crate) async fn run(
    routes: Router,
    listen: SocketAddr,
    wait: Duration,
    stop: Stop,
) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let listener = listener.tap_io(|stream| {
        // Answers are small: each goes at once.
        let _ = stream.set_nodelay(true);
    });
    let ending = Stop(stop.0.clone());
    let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.told());
    let limit = async move {
        ending.told().await;
        tokio::time::sleep(wait.saturating_add(GRACE)).await;
    };
    tokio::select! {
        served = serving.into_future() => served.context("serving ended"),
        () = limit => {
            tracing::warn!("ended with requests unanswered: their clients do not read");
            Ok(())
        }
    }
}
