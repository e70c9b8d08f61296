//! A projection by batch size, in each of its ways, in turns; then the function's start and size.

use crate::cold_start;
use crate::network;
use crate::projection::{Message, Projection, TABLES, Way};
use crate::report::median;
use anyhow::{Context as _, Result};
use consumer::Mode;
use dsn::Dsn;
use local::postgres::Postgres;
use relay::migrate::{Side, migrate};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Throughput by batch size, cold start, size.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each line is measured, in turns; the medians are printed.
    #[arg(long, default_value_t = 20)]
    turns: usize,
    /// How many events each line gets in each turn.
    #[arg(long, default_value_t = 1000)]
    events: usize,
    /// Only batches of these sizes.
    #[arg(long = "batch", value_name = "SIZE", default_values_t = BATCHES)]
    batches: Vec<usize>,
    /// A network before the server that takes so long for a round trip; without it, loopback.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    round_trip: u64,
    /// How often the function is started; the median is printed.
    #[arg(long, default_value_t = 20)]
    starts: usize,
    /// The Lambda function `order_summary`, as it is deployed.
    #[arg(long, value_name = "BINARY")]
    function: PathBuf,
}

const BATCHES: [usize; 3] = [1, 10, 100];

/// How many events each order has, one in each round through the orders of a turn.
const VERSIONS: usize = 5;

/// Deliveries before the first turn, not counted: the server has made its plans for good after
/// five runs of a statement.
const WARM_UP: usize = 10;

/// One way with one size of batch, connected as a warm function is, and what it reached.
struct Line {
    batch: usize,
    way: Way,
    projection: Projection,
    /// Events a second, one of each turn.
    rates: Vec<f64>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    // A commit waits for the disk, as it does where it counts.
    let settings = [("fsync", "on"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];
    let postgres = Postgres::start(&settings).await?;
    let database = postgres.create_database().await?;
    let client = postgres.connect(&database).await?;
    migrate(&client, Side::ReadModel).await.context("make the inbox")?;
    client.batch_execute(TABLES).await?;
    let version: String = client.query_one("show server_version", &[]).await?.get(0);
    println!("PostgreSQL {version}, {} turns of {} events", options.turns, options.events);

    let url = behind_a_network(&postgres, &database, Duration::from_micros(options.round_trip))?;
    let lines = measure(&options, &url).await?;
    let start = cold_start::measure(&options.function, options.starts, &postgres).await?;
    print(&lines);
    println!(
        "\ncold start: {} starts, median {:.1} ms, fastest {:.1}, slowest {:.1}",
        options.starts, start.median, start.fastest, start.slowest
    );
    let zip = cold_start::zipped(&options.function)?;
    println!(
        "\nconsumer: batch 10 at {} of hand-written, {} times one-by-one; cold start {:.0} ms; zip {zip:.1} MB",
        or_dash(versioned(&lines, 10, Way::ByHand)),
        or_dash(versioned(&lines, 10, Way::OneByOne)),
        start.median,
    );
    Ok(())
}

/// The way to the database, with a network on it if one was asked for.
fn behind_a_network(postgres: &Postgres, database: &str, round_trip: Duration) -> Result<Dsn> {
    let url = postgres.url(database);
    if round_trip.is_zero() {
        return Ok(url.parse()?);
    }
    println!("a network with round trips of {round_trip:?} before the server");
    let port = network::before(postgres.port(), round_trip / 2)?;
    Ok(url.replace(&format!(":{}/", postgres.port()), &format!(":{port}/")).parse()?)
}

/// Each line in turns, there and back, so that a machine that grows slower or faster meanwhile
/// does so for all of them.
async fn measure(options: &Options, url: &Dsn) -> Result<Vec<Line>> {
    let mut events = Events::default();
    let mut lines = Vec::new();
    for &batch in &options.batches {
        for way in Way::ALL {
            let projection = Projection::start(way, url).await?;
            let mut line = Line { batch, way, projection, rates: Vec::new() };
            deliver(&mut line, batch * WARM_UP, &mut events).await?;
            lines.push(line);
        }
    }
    for turn in 0..options.turns {
        let there = turn % 2 == 0;
        for at in 0..lines.len() {
            let at = if there { at } else { lines.len() - 1 - at };
            let Some(line) = lines.get_mut(at) else { continue };
            let spent = deliver(line, options.events, &mut events).await;
            let spent = spent.with_context(|| format!("{:?}", line.way))?;
            #[expect(clippy::cast_precision_loss, reason = "a figure to print")]
            line.rates.push(options.events as f64 / spent.as_secs_f64());
        }
    }
    Ok(lines)
}

/// Delivers so many events of new orders, and says how long that took.
async fn deliver(line: &mut Line, count: usize, events: &mut Events) -> Result<Duration> {
    events.of_new_orders(count.div_ceil(VERSIONS));
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let messages = events.take(line.batch.min(left));
        left -= messages.len();
        let began = Instant::now();
        line.projection.deliver(messages).await?;
        spent += began.elapsed();
    }
    Ok(spent)
}

/// Events of orders in turn, each order's versions from 1.
#[derive(Default)]
struct Events {
    turn: u32,
    orders: usize,
    made: usize,
}

impl Events {
    fn of_new_orders(&mut self, orders: usize) {
        *self = Self { turn: self.turn + 1, orders, made: 0 };
    }

    fn take(&mut self, count: usize) -> Vec<Message> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Message {
        let (order, version) = (self.made % self.orders, self.made / self.orders + 1);
        self.made += 1;
        let id = Uuid::now_v7().to_string();
        let body = format!(
            r#"{{"event_id":"{id}","event_type":"order.changed","event_version":"1.0","timestamp":"2026-01-15T10:30:00.000Z","source":"bench","aggregate_type":"order","aggregate_id":"order-{}-{order}","aggregate_version":{version},"correlation_id":"{id}","causation_id":null,"data":{{"status":"paid","total":{},"note":"{}"}},"metadata":{{"user_id":"u-4711"}},"position":null}}"#,
            self.turn,
            version * 100,
            "a note on the order ".repeat(12),
        );
        Message { id, body }
    }
}

fn find(lines: &[Line], batch: usize, way: Way) -> Option<&Line> {
    lines.iter().find(|line| line.batch == batch && line.way == way)
}

/// How much faster one is than the other: the median of their turns, each against its neighbour.
fn ratio(line: &Line, to: &Line) -> Option<f64> {
    median(line.rates.iter().zip(&to.rates).map(|(own, other)| own / other))
}

fn versioned(lines: &[Line], batch: usize, to: Way) -> Option<f64> {
    ratio(find(lines, batch, Way::Consumer(Mode::Versioned))?, find(lines, batch, to)?)
}

fn or_dash(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn print(lines: &[Line]) {
    println!("\n| batch | way | events/s | of hand-written | times one-by-one |");
    println!("|--:|---|--:|--:|--:|");
    for line in lines {
        let of = |way| or_dash(find(lines, line.batch, way).and_then(|to| ratio(line, to)));
        println!(
            "| {} | {} | {:.0} | {} | {} |",
            line.batch,
            title(line.way),
            median(line.rates.iter().copied()).unwrap_or_default(),
            of(Way::ByHand),
            of(Way::OneByOne)
        );
    }
}

fn title(way: Way) -> &'static str {
    match way {
        Way::ByHand => "hand-written, no inbox",
        Way::Pipelined => "the same, its statements sent together",
        Way::Consumer(Mode::Once) => "consumer, `Once`",
        Way::Consumer(_) => "consumer, `Versioned`",
        Way::OneByOne => "one by one, with an inbox",
    }
}
