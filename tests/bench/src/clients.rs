//! The clients that are measured, each in a process of its own.

use anyhow::{Context, Result, bail};
use pgwire_replication::client::ReplicationEvent;
use pgwire_replication::{Lsn, ReplicationClient, ReplicationConfig, TlsConfig};
use relay::pipeline::{Setup, run as run_pipeline};
use relay::publish::schedule::BatchLimits;
use relay::publish::{DestinationId, Null, Outcome, Outgoing, Publisher};
use relay::route::Routes;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which.
    #[arg(value_enum)]
    client: Client,
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
    /// Print the most memory that was resident, in MiB, at the end.
    #[arg(long)]
    peak: bool,
    /// Write for each event its id and when it was seen into this file.
    #[arg(long)]
    seen: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Client {
    Relay,
    Pgwire,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match (options.client, &options.seen) {
        (Client::Pgwire, _) => pgwire(options).await,
        (Client::Relay, None) => {
            let null = Null::until(options.events);
            let done = null.clone();
            relay(&options, null, async move { done.reached().await }).await
        }
        (Client::Relay, Some(file)) => {
            let clocked = Clocked::new(options.events);
            let done = Arc::clone(&clocked.done);
            relay(&options, clocked.clone(), async move { done.notified().await }).await?;
            clocked.write(file)
        }
    }
}

async fn relay<P: Publisher>(
    options: &Options,
    publisher: P,
    until: impl Future<Output = ()>,
) -> Result<()> {
    let setup = Setup {
        dsn: options.url.parse()?,
        slot: options.slot.clone(),
        publication: options.publication.clone(),
        source: "bench".to_owned(),
        tables: Vec::new(),
        numbers: relay::value::Numbers::default(),
        routes: Routes::all_to(DestinationId(0)),
        destinations: vec![publisher.into()],
        bytes_in_flight: 32 << 20,
        requests_in_flight: 1..=512,
        shutdown_grace: Duration::from_secs(10),
        confirmed_time: Arc::default(),
    };
    let report = run_pipeline(setup, until).await?;
    if report.published < options.events {
        bail!("expected {} events, found {}", options.events, report.published);
    }
    if options.peak {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line.context("expected VmHWM")?.trim().trim_end_matches(" kB").parse()?;
        println!("peak {}", kib / 1024);
    }
    Ok(())
}

/// Counts the rows, as far as this client goes: it hands out bytes, and knows no outbox.
async fn pgwire(options: Options) -> Result<()> {
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

/// A sink that takes note of when each event reached it.
#[derive(Clone, Debug)]
struct Clocked {
    seen: Arc<Mutex<Vec<(uuid::Uuid, SystemTime)>>>,
    events: usize,
    done: Arc<Notify>,
}

impl Clocked {
    fn new(events: u64) -> Self {
        let events = usize::try_from(events).unwrap_or(usize::MAX);
        Self {
            seen: Arc::new(Mutex::new(Vec::with_capacity(events))),
            events,
            done: Arc::default(),
        }
    }

    fn write(&self, file: &std::path::Path) -> Result<()> {
        let file = std::fs::File::create(file).context("write what was seen")?;
        let mut file = std::io::BufWriter::new(file);
        let seen = self.seen.lock().map_err(|_| anyhow::anyhow!("a sink failed"))?;
        for (id, at) in &*seen {
            let micros = at.duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
            writeln!(file, "{id} {micros}")?;
        }
        file.flush()?;
        Ok(())
    }
}

impl Publisher for Clocked {
    async fn publish(&self, batch: &[&Outgoing]) -> Vec<Outcome> {
        let now = SystemTime::now();
        if let Ok(mut seen) = self.seen.lock() {
            seen.extend(batch.iter().map(|entry| (entry.event.event_id, now)));
            if seen.len() >= self.events {
                self.done.notify_one();
            }
        }
        vec![Outcome::Accepted; batch.len()]
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits { entries: 10, bytes: 256 * 1024 }
    }

    fn name(&self) -> &str {
        "clocked"
    }
}
