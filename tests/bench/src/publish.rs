//! Publishing a backlog to a canned server, beside the bare SDK; then the latency.

use crate::broker::Broker;
use crate::canned::Canned;
use crate::clients::{Limits, Reader};
use crate::debezium::Debezium;
use crate::latency::{self, Latency};
use crate::load::{KEYS, Source};
use crate::measure::Cost;
use crate::report::{median, mib, microseconds};
use anyhow::Result;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// With few rows, one turn and a second it takes 5 minutes on 2 loaded cores; all of it some 10,
/// which is not timed. `--only 'sns * 10000'` is much shorter.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many rows a backlog has at most; with few keys it has what takes about 3 seconds.
    #[arg(long, default_value_t = 120_000)]
    rows: u32,
    /// How often each drain to SNS with 10,000 keys is repeated, in turns with the bare SDK; the
    /// medians are printed. The other drains are done once.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// How long each measurement of the latency lasts.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Only the lines whose name matches, such as 'sns 15ms 10000' or 'sqs * 100': a broker
    /// (sns, fifo, sqs), a latency (0ms, 5ms, 15ms, 50ms), a number of keys (10000, 100, 1).
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Leave the latency out.
    #[arg(long)]
    no_latency: bool,
    /// Debezium's embedded engine too, which counts the events and sends none: the folder with
    /// its jars (`tests/bench/publish --debezium` sets it up).
    #[arg(long, value_name = "JARS", requires = "debezium_classes")]
    debezium_jars: Option<PathBuf>,
    /// The folder with the compiled debezium/Count.java.
    #[arg(long, value_name = "FOLDER")]
    debezium_classes: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

impl Options {
    fn debezium(&self) -> Option<Debezium> {
        let (jars, classes) = self.debezium_jars.clone().zip(self.debezium_classes.clone())?;
        Some(Debezium { jars, classes })
    }
}

/// The latencies of the canned server, in milliseconds.
const LATENCIES: [u32; 4] = [0, 5, 15, 50];

/// The pace of the latency, where the drain is at least twice as fast.
const PACE: u32 = 5000;

/// The second in which the relay finds out how many requests at once are of use; not counted.
const START: u32 = 1;

/// How many seconds Java is given to compile what it runs often, before its latency counts.
const WARM_UP: u32 = 12;

/// What one line of the table is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Case {
    broker: Broker,
    latency: u32,
    keys: u32,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}ms {}", self.broker.word(), self.latency, self.keys)
    }
}

impl Case {
    fn is_wanted(self, pattern: Option<&str>) -> bool {
        let name = self.to_string();
        let Some(pattern) = pattern else {
            return true;
        };
        let words = pattern.split_whitespace().zip(name.split(' '));
        words.into_iter().all(|(wanted, found)| wanted == "*" || wanted == found)
    }

    /// A key waits for its answer, so few keys and a slow broker are drained slowly.
    fn rows(self, most: u32) -> u32 {
        let round_trip = f64::from(self.latency).max(0.3) / 1000.0;
        let three_seconds = f64::from(self.keys) / round_trip * 3.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let rows = three_seconds.clamp(1.0, f64::from(most)) as u32;
        rows
    }

    /// How many events of different keys fill a request.
    fn entries(self) -> u32 {
        self.keys.min(10)
    }

    /// As many requests of the bare SDK as the keys allow, and more are of no use.
    fn in_flight(self) -> u32 {
        let useful = match self.latency {
            0 => 16,
            latency => 64 + 8 * latency,
        };
        useful.min(self.keys / self.entries())
    }
}

/// What was measured for one line.
#[derive(Debug)]
struct Line {
    case: Case,
    rate: f64,
    /// Of an event, in the relay and in the bare SDK and the null sink together.
    processor: Duration,
    ceiling: Duration,
    entries_a_request: f64,
    sdk_rate: f64,
    peak: u64,
    latency: Option<Latency>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let source = Source::start().await?;
    let version: String = source.client.query_one("show server_version", &[]).await?.get(0);
    println!(
        "PostgreSQL {version}, 1-row transactions, backlogs of up to {} rows, {} turns for SNS with {KEYS} keys",
        options.rows, options.turns
    );
    let mut lines = Vec::new();
    for keys in [KEYS, 100, 1] {
        let all = LATENCIES.into_iter().flat_map(|latency| {
            Broker::ALL.into_iter().map(move |broker| Case { broker, latency, keys })
        });
        let wanted: Vec<_> = all.filter(|c| c.is_wanted(options.only.as_deref())).collect();
        if !wanted.is_empty() {
            with_keys(&source, &options, &wanted, &mut lines).await?;
        }
    }
    let debezium = match options.debezium() {
        Some(debezium) => Some(beside(&source, &options, &debezium).await?),
        None => None,
    };
    print(&lines);
    if let Some(beside) = debezium {
        println!("{beside}");
    }
    print_last(&lines);
    Ok(())
}

/// Debezium on the same backlog, once: the first seconds of it are Java's own.
async fn beside(source: &Source, options: &Options, debezium: &Debezium) -> Result<String> {
    let reader = Reader::Debezium(debezium);
    let backlog = Backlog::write(source, KEYS, options.rows).await?;
    let (cost, _) = backlog.drain(reader).await?;
    backlog.drop().await?;
    let rate = f64::from(options.rows) / cost.wall.as_secs_f64();
    let processor = microseconds(per_event(Some(cost.processor), options.rows));
    let mut lines = String::new();
    let (mut at, mut peak) = ([1000, PACE].as_slice(), cost.peak);
    if options.no_latency {
        at = &[];
    }
    for pace in at {
        let late = latency::at(source, KEYS, *pace, options.seconds, WARM_UP, reader).await?;
        peak = peak.max(late.peak);
        let _ = write!(lines, "; at {pace}/s p50 {:.2} ms, p99 {:.2} ms", late.p50, late.p99);
    }
    Ok(format!(
        "\nDebezium with the Outbox Event Router, which sends nothing: {rate:.0} events/s, {processor} µs of processor an event, peak {} MiB{lines}",
        mib(peak)
    ))
}

/// The lines of one number of keys: the null sink first, then line by line.
async fn with_keys(
    source: &Source,
    options: &Options,
    cases: &[Case],
    lines: &mut Vec<Line>,
) -> Result<()> {
    let Some(first) = cases.first() else {
        return Ok(());
    };
    let fast = Case { latency: 0, ..*first };
    let mut backlog = Backlog::write(source, fast.keys, fast.rows(options.rows)).await?;
    let mut null = Vec::new();
    for _ in 0..options.turns {
        null.push(backlog.drain(Reader::Relay(None, options.limits)).await?.0);
    }
    let null = per_event(median(null.iter().map(|c| c.processor)), backlog.rows);
    eprintln!("{} keys: null sink: {} µs of processor an event", fast.keys, microseconds(null));
    for case in cases {
        let rows = case.rows(options.rows);
        if rows != backlog.rows {
            backlog.drop().await?;
            backlog = Backlog::write(source, case.keys, rows).await?;
        }
        let canned = Canned::start(case.latency)?;
        let mut line = drain(&backlog, options, *case, &canned, null).await?;
        if !options.no_latency {
            let to = Some((case.broker, &canned));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
            let pace = PACE.min((line.rate / 2.0) as u32).max(1);
            let reader = Reader::Relay(to, options.limits);
            let latency =
                latency::at(source, case.keys, pace, options.seconds, START, reader).await?;
            line.peak = line.peak.max(latency.peak);
            line.latency = Some(latency);
        }
        eprintln!("{}", line.row());
        lines.push(line);
    }
    backlog.drop().await
}

/// The relay and the bare SDK in turns.
async fn drain(
    backlog: &Backlog<'_>,
    options: &Options,
    case: Case,
    canned: &Canned,
    null: Duration,
) -> Result<Line> {
    let headline = case.broker == Broker::Sns && case.keys == KEYS;
    let (mut relay, mut sdk) = (Vec::new(), Vec::new());
    let mut requests = 0;
    for _ in 0..if headline { options.turns } else { 1 } {
        let to = Some((case.broker, canned));
        let (cost, sent) = backlog.drain(Reader::Relay(to, options.limits)).await?;
        requests = sent.max(1);
        relay.push(cost);
        sdk.push(bare_sdk(case, canned, backlog.rows).await?);
    }
    let rate = |costs: &[Cost]| {
        let wall = median(costs.iter().map(|c| c.wall)).unwrap_or_default();
        f64::from(backlog.rows) / wall.as_secs_f64()
    };
    let processor =
        |costs: &[Cost]| per_event(median(costs.iter().map(|c| c.processor)), backlog.rows);
    #[expect(clippy::cast_precision_loss, reason = "a figure to print")]
    let entries_a_request = f64::from(backlog.rows) / requests as f64;
    Ok(Line {
        case,
        rate: rate(&relay),
        processor: processor(&relay),
        ceiling: processor(&sdk) + null,
        entries_a_request,
        sdk_rate: rate(&sdk),
        peak: relay.iter().map(|c| c.peak).max().unwrap_or_default(),
        latency: None,
    })
}

fn per_event(processor: Option<Duration>, events: u32) -> Duration {
    processor.unwrap_or_default() / events.max(1)
}

/// The same batches without the relay; fewer of them where many tell no more.
async fn bare_sdk(case: Case, canned: &Canned, rows: u32) -> Result<Cost> {
    let mut command = Command::new(std::env::current_exe()?);
    local::ministack::point_at(&mut command, &canned.endpoint);
    command
        .args(["client", "sdk", case.broker.word(), "--endpoint", &canned.endpoint])
        .args(["--entries", &case.entries().to_string()])
        .args(["--in-flight", &case.in_flight().to_string()])
        .args(["--events", &rows.to_string()]);
    Ok(tokio::task::spawn_blocking(|| Cost::of(command)).await??.0)
}

/// Rows behind a slot, of which each drain gets a copy.
struct Backlog<'a> {
    source: &'a Source,
    rows: u32,
}

impl<'a> Backlog<'a> {
    const SLOT: &'static str = "backlog";

    async fn write(source: &'a Source, keys: u32, rows: u32) -> Result<Self> {
        eprintln!("writing {rows} rows with {keys} keys …");
        source.backlog(Self::SLOT, rows, 1, keys).await?;
        Ok(Self { source, rows })
    }

    async fn drain(&self, reader: Reader<'_>) -> Result<(Cost, u64)> {
        const COPY: &str = "drained";
        self.source.copy_slot(Self::SLOT, COPY).await?;
        let command = reader.command(&self.source.url(), COPY, self.rows, None)?;
        let cost = tokio::task::spawn_blocking(|| Cost::of(command)).await??;
        self.source.drop_slot(COPY).await?;
        Ok(cost)
    }

    async fn drop(self) -> Result<()> {
        self.source.drop_slot(Self::SLOT).await
    }
}

impl Line {
    fn of_ceiling(&self) -> f64 {
        self.processor.as_secs_f64() / self.ceiling.as_secs_f64()
    }

    fn row(&self) -> String {
        let Case { broker, latency, keys } = self.case;
        let late = self.latency.map_or_else(
            || "- | - | -".to_owned(),
            |late| format!("{}/s | {:.2} | {:.2}", late.rate, late.p50, late.p99),
        );
        format!(
            "| {} | {latency} ms | {keys} | {:.0} | {:.1} | {} | {} | {:.2} | {:.0} | {late} | {} |",
            broker.title(),
            self.rate,
            self.entries_a_request,
            microseconds(self.processor),
            microseconds(self.ceiling),
            self.of_ceiling(),
            self.sdk_rate,
            mib(self.peak)
        )
    }
}

fn print(lines: &[Line]) {
    println!(
        "\n| to | answers in | keys | events/s | entries a request | CPU µs/event | SDK + null sink | ratio | SDK events/s | latency at | p50 ms | p99 ms | peak MiB |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for line in lines {
        println!("{}", line.row());
    }
}

fn print_last(lines: &[Line]) {
    let sns = |latency| {
        let case = Case { broker: Broker::Sns, latency, keys: KEYS };
        lines.iter().find(|line| line.case == case)
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rate = |latency| or_dash(sns(latency).map(|line| format!("{:.0}", line.rate)));
    let worst = [0, 15].into_iter().filter_map(|l| Some(sns(l)?.of_ceiling())).reduce(f64::max);
    let p99 = sns(0).and_then(|line| line.latency).filter(|late| late.rate == PACE);
    println!(
        "\npublish: SNS at 0 ms {}/s, at 15 ms {}/s; cpu {} of ceiling; p99 at 5k/s {} ms; peak {} MiB",
        rate(0),
        rate(15),
        or_dash(worst.map(|ratio| format!("{ratio:.2}"))),
        or_dash(p99.map(|late| format!("{:.2}", late.p99))),
        or_dash(lines.iter().map(|line| line.peak).max().map(mib)),
    );
}
