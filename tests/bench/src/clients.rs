//! The clients that are measured, each in a process of its own.

use crate::broker::Broker;
use crate::canned::Canned;
use crate::debezium::Debezium;
use crate::measure::{Cost, peak};
use crate::sink::Watched;
use crate::{canned, sdk};
use anyhow::{Context, Result, bail};
use pgwire_replication::client::ReplicationEvent;
use pgwire_replication::{Lsn, ReplicationClient, ReplicationConfig, TlsConfig};
use relay::pipeline::{Setup, run as run_pipeline};
use relay::publish::{Address, Destination, DestinationId, Null, Publisher, aws_config};
use relay::route::Routes;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Client {
    /// The relay, to a sink or to a topic or queue.
    Relay(Relay),
    /// The crate pgwire-replication, which hands out bytes.
    Pgwire(Slot),
    /// The bare AWS SDK.
    Sdk(sdk::Options),
    /// The server that the clients publish to.
    Canned(canned::Options),
}

/// What a client reads.
#[derive(Debug, clap::Args)]
pub(crate) struct Slot {
    /// The connection string.
    #[arg(long)]
    url: String,
    /// The slot.
    #[arg(long)]
    slot: String,
    /// How many events to read before it ends.
    #[arg(long)]
    events: u64,
    /// The publication.
    #[arg(long, default_value = crate::load::PUBLICATION)]
    publication: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Relay {
    #[command(flatten)]
    slot: Slot,
    /// Print the most memory that was resident, in MiB, at the end.
    #[arg(long)]
    peak: bool,
    /// Write for each event its id and when it was accepted into this file.
    #[arg(long)]
    seen: Option<PathBuf>,
    /// The topic or queue; without it, the null sink.
    #[arg(long)]
    to: Option<Address>,
    #[command(flatten)]
    limits: Limits,
}

/// The relay's settings, with its own defaults.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Limits {
    /// How many bytes of events may be on their way.
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 20)]
    bytes_in_flight: usize,
    /// How many requests may be in flight at most.
    #[arg(long, value_name = "REQUESTS", default_value_t = 512)]
    requests_in_flight: u32,
}

pub(crate) async fn run(client: Client) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match client {
        Client::Relay(mut options) => match options.to.take() {
            Some(address) => {
                let destination = Destination::new(&aws_config(address.region()).await, address);
                destination.learn_limits().await?;
                relay(options, destination).await
            }
            None => {
                let null = Null::until(options.slot.events);
                relay(options, null).await
            }
        },
        Client::Pgwire(slot) => pgwire(slot).await,
        Client::Sdk(options) => sdk::run(options).await,
        Client::Canned(options) => canned::run(options).await,
    }
}

async fn relay<P: Publisher>(options: Relay, publisher: P) -> Result<()> {
    let Relay { slot, peak: print_peak, seen, limits, .. } = options;
    let publisher = Watched::new(publisher, slot.events, seen.is_some());
    let watch = publisher.watch();
    let setup = Setup {
        dsn: slot.url.parse()?,
        slot: slot.slot,
        publication: slot.publication,
        source: "bench".to_owned(),
        tables: Vec::new(),
        numbers: relay::value::Numbers::default(),
        routes: Routes::all_to(DestinationId(0)),
        destinations: vec![publisher.into()],
        bytes_in_flight: limits.bytes_in_flight,
        requests_in_flight: 1..=limits.requests_in_flight,
        shutdown_grace: Duration::from_secs(10),
        confirmed_time: Arc::default(),
        conditions: relay::condition::Conditions::default(),
        pulse: Arc::default(),
        meters: relay::observe::metric::Meters::new([""]).0,
    };
    let report = run_pipeline(setup, watch.reached()).await?;
    if report.published < slot.events {
        bail!("expected {} events, found {}", slot.events, report.published);
    }
    if let Some(file) = &seen {
        watch.write(file)?;
    }
    let (cost, requests) = watch.cost().context("expected the cost of the events")?;
    Cost { peak: peak()?, ..cost }.print(requests);
    if print_peak {
        println!("peak {}", peak()? >> 20);
    }
    Ok(())
}

/// Who reads a slot, as a process of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader<'a> {
    /// The relay, to the null sink or to a topic or queue.
    Relay(Option<(Broker, &'a Canned)>, Limits),
    /// Debezium's engine, which sends nothing.
    Debezium(&'a Debezium),
}

impl Reader<'_> {
    /// It ends after so many events; with `seen` it writes there when each was accepted.
    pub(crate) fn command(
        self,
        url: &str,
        slot: &str,
        events: u32,
        seen: Option<&Path>,
    ) -> Result<Command> {
        let (to, limits) = match self {
            Self::Relay(to, limits) => (to, limits),
            Self::Debezium(debezium) => return debezium.command(url, slot, events, seen),
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["client", "relay", "--slot", slot, "--url", url]);
        command.args(["--events", &events.to_string()]);
        command.args(["--bytes-in-flight", &limits.bytes_in_flight.to_string()]);
        command.args(["--requests-in-flight", &limits.requests_in_flight.to_string()]);
        if let Some((broker, canned)) = to {
            local::ministack::point_at(&mut command, &canned.endpoint);
            command.args(["--to", &broker.address(&canned.endpoint)]);
        }
        if let Some(seen) = seen {
            command.arg("--seen").arg(seen);
        }
        Ok(command)
    }
}

/// Counts the rows, as far as this client goes: it hands out bytes, and knows no outbox.
async fn pgwire(options: Slot) -> Result<()> {
    let dsn: dsn::Dsn = options.url.parse()?;
    let port = dsn.config().get_ports().first().copied().unwrap_or(5432);
    let password = dsn.config().get_password().map(String::from_utf8_lossy).unwrap_or_default();
    let config = ReplicationConfig::new(
        "127.0.0.1",
        dsn.user(),
        password,
        dsn.database(),
        &options.slot,
        options.publication.as_str(),
    )
    .with_port(port)
    .with_tls(TlsConfig::disabled())
    .with_start_lsn(Lsn::parse("0/0")?)
    .with_status_interval(Duration::from_secs(1));
    let mut client = ReplicationClient::connect(config).await?;
    let mut rows = 0;
    while let Some(event) = client.recv().await? {
        if let ReplicationEvent::XLogData { wal_end, data, .. } = event {
            rows += u64::from(data.first() == Some(&b'I'));
            client.update_applied_lsn(wal_end);
            if rows == options.events {
                return Ok(());
            }
        }
    }
    bail!("expected {} rows, found the end of the stream after {rows}", options.events)
}
