//! `relay run`: publish until told to stop.

use super::{destinations, source, upkeep};
use anyhow::Context;
use prometheus_client::registry::Registry;
use relay::condition::Conditions;
use relay::config::Config;
use relay::observe::Pulse;
use relay::observe::http::Server;
use relay::observe::metric::Meters;
use relay::pipeline::{self, Setup, To};
use relay::publish::Publisher as _;
use relay::route::Routes;
use relay::value::Numbers;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

pub(crate) async fn run(config: &Config) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let publishers = destinations(config).await?;
    let destinations = config.destinations()?;
    let to = publishers.into_iter().zip(&destinations.settings);
    let to = to.map(|(publisher, settings)| To {
        publisher,
        ordering: settings.ordering,
        on_poison: settings.on_poison,
    });
    let to: Vec<_> = to.collect();
    let confirmed_time = Arc::new(AtomicI64::new(0));
    let heartbeat = config.postgres.heartbeat;
    let heartbeat = heartbeat.map(|every| tokio::spawn(relay::heartbeat::run(dsn.clone(), every)));
    let pulse = Arc::<Pulse>::default();
    let alive = tokio::spawn(relay::slot::alive::run(
        dsn.clone(),
        config.postgres.slot.clone(),
        Arc::clone(&pulse),
    ));
    let conditions = Conditions::default();
    let advice = relay::slot::advice::Subject {
        dsn: dsn.clone(),
        slot: config.postgres.slot.clone(),
        publication: config.postgres.publication.clone(),
        heartbeat: config.postgres.heartbeat.is_some(),
    };
    let advice = tokio::spawn(relay::slot::advice::run(advice, conditions.clone()));
    let maintenance = tokio::spawn(upkeep::run(
        dsn.clone(),
        config.outbox.clone(),
        Arc::clone(&confirmed_time),
        conditions.clone(),
    ));
    let (meters, registry) = Meters::new(to.iter().map(|to| to.publisher.name()));
    let observer = observe(config, registry, &pulse, &conditions).await?;
    let setup = Setup {
        slot: config.postgres.slot.clone(),
        publication: config.postgres.publication.clone(),
        source: config.publish.source.clone().unwrap_or_else(|| dsn.database().to_owned()),
        dsn,
        tables: config.tables()?,
        numbers: Numbers { numeric: config.values.numeric },
        routes: Routes::new(&destinations),
        destinations: to,
        bytes_in_flight: usize::try_from(config.publish.bytes_in_flight.as_u64())
            .unwrap_or(usize::MAX),
        requests_in_flight: config.publish.requests_in_flight_at_least
            ..=config.publish.requests_in_flight,
        shutdown_grace: config.publish.shutdown_grace,
        confirmed_time,
        conditions,
        pulse,
        meters,
    };
    let report = pipeline::run(setup, stop_signal()?).await;
    maintenance.abort();
    if let Some(observer) = observer {
        observer.abort();
    }
    advice.abort();
    alive.abort();
    if let Some(heartbeat) = heartbeat {
        heartbeat.abort();
    }
    let report = report?;
    tracing::info!(
        published = report.published, dead_letters = report.dead_letters, confirmed = %report.confirmed, "stopped"
    );
    if report.unfinished > 0 {
        tracing::warn!(
            unfinished = report.unfinished,
            "the grace was over before all was sent; what was not is sent at the next start"
        );
    }
    Ok(report.unfinished == 0)
}

/// Serves metrics and health where the configuration says so.
async fn observe(
    config: &Config,
    registry: Registry,
    pulse: &Arc<Pulse>,
    conditions: &Conditions,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(address) = config.observe.listen else { return Ok(None) };
    let server = Server::bind(address).await?;
    tracing::info!("metrics and health at http://{}/metrics, /live, /ready", server.address()?);
    Ok(Some(tokio::spawn(server.serve(registry, Arc::clone(pulse), conditions.clone()))))
}

/// SIGTERM or Ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
