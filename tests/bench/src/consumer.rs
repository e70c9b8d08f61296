//! A projection by batch size, in each of its ways, in turns; then the function's start and size.

use crate::cold_start;
use crate::projection::{Message, Projection, TABLES, Way};
use crate::report::median;
use anyhow::{Context as _, Result};
use consumer::Mode;
use local::postgres::Postgres;
use relay::migrate::{Side, migrate};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Throughput by batch size, cold start, size.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each line is measured, in turns; the medians are printed.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// How long each measurement lasts.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// How often the function is started; the median is printed.
    #[arg(long, default_value_t = 20)]
    starts: usize,
    /// The Lambda function `order_summary`, as it is deployed.
    #[arg(long, value_name = "BINARY")]
    function: PathBuf,
}

const BATCHES: [usize; 3] = [1, 10, 100];

/// How many orders the events are about.
const ORDERS: usize = 1000;

/// Events a second, one of each turn.
struct Line {
    batch: usize,
    way: Way,
    rates: Vec<f64>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    // A commit waits for the disk, as it does where it counts.
    let settings = [("fsync", "on"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];
    let postgres = Postgres::start(&settings).await?;
    let database = postgres.create_database().await?;
    let mut client = postgres.connect(&database).await?;
    migrate(&mut client, Side::ReadModel).await.context("make the inbox")?;
    client.batch_execute(TABLES).await?;
    let version: String = client.query_one("show server_version", &[]).await?.get(0);
    println!("PostgreSQL {version}, {ORDERS} orders, {} turns", options.turns);

    let mut lines = Vec::new();
    for batch in BATCHES {
        lines.extend(Way::ALL.map(|way| Line { batch, way, rates: Vec::new() }));
    }
    let period = Duration::from_secs_f64(options.seconds);
    let mut events = Events::default();
    for _ in 0..options.turns {
        for line in &mut lines {
            let rate = rate(line, period, &mut events, &postgres, &database).await;
            line.rates.push(rate.with_context(|| format!("{:?}", line.way))?);
        }
    }
    let start = cold_start::measure(&options.function, options.starts, &postgres).await?;
    print(&lines);
    println!(
        "\ncold start: {} starts, median {:.1} ms, fastest {:.1}, slowest {:.1}",
        options.starts, start.median, start.fastest, start.slowest
    );
    let zip = cold_start::zipped(&options.function)?;
    println!(
        "\nconsumer: batch 10 at {} of hand-written, {} times one-by-one; cold start {:.0} ms; zip {zip:.1} MB",
        or_dash(ratio(&lines, 10, Way::ByHand)),
        or_dash(ratio(&lines, 10, Way::OneByOne)),
        start.median,
    );
    Ok(())
}

/// Delivers for so long, after a first delivery that is not counted.
async fn rate(
    line: &Line,
    period: Duration,
    events: &mut Events,
    postgres: &Postgres,
    database: &str,
) -> Result<f64> {
    let mut projection = Projection::start(line.way, postgres, database).await?;
    events.of_new_orders();
    projection.deliver(events.take(line.batch)).await?;
    let (mut spent, mut delivered) = (Duration::ZERO, 0_u32);
    while spent < period {
        let messages = events.take(line.batch);
        let began = Instant::now();
        projection.deliver(messages).await?;
        spent += began.elapsed();
        delivered += u32::try_from(line.batch)?;
    }
    Ok(f64::from(delivered) / spent.as_secs_f64())
}

/// Events of orders in turn, each order's versions from 1.
#[derive(Default)]
struct Events {
    orders: u32,
    made: usize,
}

impl Events {
    fn of_new_orders(&mut self) {
        self.orders += 1;
        self.made = 0;
    }

    fn take(&mut self, count: usize) -> Vec<Message> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Message {
        let (order, version) = (self.made % ORDERS, self.made / ORDERS + 1);
        self.made += 1;
        let id = Uuid::now_v7().to_string();
        let body = format!(
            r#"{{"event_id":"{id}","event_type":"order.changed","event_version":"1.0","timestamp":"2026-01-15T10:30:00.000Z","source":"bench","aggregate_type":"order","aggregate_id":"order-{}-{order}","aggregate_version":{version},"correlation_id":"{id}","causation_id":null,"data":{{"status":"paid","total":{},"note":"{}"}},"metadata":{{"user_id":"u-4711"}},"position":null}}"#,
            self.orders,
            version * 100,
            "a note on the order ".repeat(12),
        );
        Message { id, body }
    }
}

fn ratio(lines: &[Line], batch: usize, to: Way) -> Option<f64> {
    let rate = |way| {
        let line = lines.iter().find(|line| line.batch == batch && line.way == way)?;
        median(line.rates.iter().copied())
    };
    Some(rate(Way::Consumer(Mode::Versioned))? / rate(to)?)
}

fn or_dash(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn print(lines: &[Line]) {
    println!("\n| batch | way | events/s | of hand-written | times one-by-one |");
    println!("|--:|---|--:|--:|--:|");
    for line in lines {
        let rate = |way: Way| {
            let same = lines.iter().find(|other| other.batch == line.batch && other.way == way)?;
            median(same.rates.iter().copied())
        };
        let own = rate(line.way);
        let of = |way| or_dash(own.zip(rate(way)).map(|(own, other)| own / other));
        println!(
            "| {} | {} | {:.0} | {} | {} |",
            line.batch,
            title(line.way),
            own.unwrap_or_default(),
            of(Way::ByHand),
            of(Way::OneByOne)
        );
    }
}

fn title(way: Way) -> &'static str {
    match way {
        Way::ByHand => "hand-written, no inbox",
        Way::Consumer(Mode::Once) => "consumer, `Once`",
        Way::Consumer(_) => "consumer, `Versioned`",
        Way::OneByOne => "one by one, with an inbox",
    }
}
