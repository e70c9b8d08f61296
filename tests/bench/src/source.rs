//! Draining a slot, in turns; then the latency.

use crate::clients::{Limits, Reader};
use crate::latency;
use crate::load::{KEYS, PUBLICATION, Source};
use crate::measure::{Cost, measure};
use crate::report::{Line, table};
use anyhow::{Context, Result};
use dsn::Dsn;
use std::process::Command;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many rows a backlog has.
    #[arg(long, default_value_t = 500_000)]
    rows: u32,
    /// How often each client drains each backlog; the medians are printed.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// How long each rate of the latency lasts.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Leave the latency out.
    #[arg(long)]
    no_latency: bool,
    /// Leave pgwire-replication out.
    #[arg(long)]
    no_yardstick: bool,
    /// Over the server's unix socket instead of TCP: the relay alone.
    #[arg(long)]
    unix: bool,
    #[command(flatten)]
    limits: Limits,
}

const CLIENTS: [&str; 3] = ["pg_recvlogical", "relay, null sink", "pgwire-replication, counting"];

pub(crate) async fn run(options: Options) -> Result<()> {
    let source = Source::start().await?;
    let version: String = source.client.query_one("show server_version", &[]).await?.get(0);
    println!(
        "PostgreSQL {version}, {} rows, {} turns; a client's time is from its start to its end",
        options.rows, options.turns
    );
    let single = drain(&source, &options, "single", 1).await?;
    table("1-row transactions", &single);
    let thousand = drain(&source, &options, "thousand", 1000).await?;
    table("1000-row transactions", &thousand);
    let mut p99 = None;
    if !options.no_latency {
        println!("\n| commit to sink, at | reached | p50 ms | p99 ms |\n|--:|--:|--:|--:|");
        for rate in [1000, 5000, 10_000] {
            let reader = Reader::Relay(None, options.limits);
            let late = latency::at(&source, KEYS, rate, options.seconds, 0, reader).await?;
            println!(
                "| {}/s | {:.0}/s | {:.2} | {:.2} |",
                late.rate, late.reached, late.p50, late.p99
            );
            if rate == 5000 {
                p99 = Some(late.p99);
            }
        }
    }
    let ratio = |lines: &[Line]| Some(lines.get(1)?.rows_a_second / lines.first()?.rows_a_second);
    let relay = single.get(1).context("no turns")?;
    let p99 = p99.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"));
    println!(
        "\ndrain: 1-row {:.2}, 1000-row {:.2} of pg_recvlogical; peak {:.0} MiB; cpu {:.2} s; p99 at 5k/s {p99} ms",
        ratio(&single).unwrap_or_default(),
        ratio(&thousand).unwrap_or_default(),
        relay.peak_mib,
        relay.processor.as_secs_f64(),
    );
    Ok(())
}

/// Each client drains the same backlog from a copy of its slot, in turns.
async fn drain(source: &Source, options: &Options, base: &str, in_one: u32) -> Result<Vec<Line>> {
    eprintln!("writing {} rows in {in_one}-row transactions …", options.rows);
    let end = source.backlog(base, options.rows, in_one, KEYS).await?;
    let clients = if options.no_yardstick { 2 } else { CLIENTS.len() };
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); clients];
    for turn in 0..options.turns {
        for (client, costs) in costs.iter_mut().enumerate() {
            let slot = format!("{base}_{turn}_{client}");
            source.copy_slot(base, &slot).await?;
            let command = match client {
                0 => pg_recvlogical(source, &slot, &end)?,
                1 => own("relay", source, &slot, options)?,
                _ => own("pgwire", source, &slot, options)?,
            };
            let cost = tokio::task::spawn_blocking(|| measure(command)).await??;
            eprintln!("turn {}: {}: {cost:.2?}", turn + 1, CLIENTS[client]);
            costs.push(cost);
            source.drop_slot(&slot).await?;
        }
    }
    source.drop_slot(base).await?;
    let lines = CLIENTS.iter().zip(&costs);
    Ok(lines.map(|(name, costs)| Line::new(name, options.rows, costs)).collect())
}

fn pg_recvlogical(source: &Source, slot: &str, end: &str) -> Result<Command> {
    let dsn: Dsn = source.url().parse()?;
    let password = dsn.config().get_password().map(String::from_utf8_lossy).unwrap_or_default();
    let mut command = Command::new("pg_recvlogical");
    command
        .args(["--start", "--no-loop", "--host", "127.0.0.1", "--username", dsn.user()])
        .args(["--port", &source.postgres.port().to_string(), "--dbname", &source.database])
        .args(["--slot", slot, "--endpos", end, "--file", "/dev/null"])
        .args(["--fsync-interval", "0", "--status-interval", "1"])
        .args(["--option", "proto_version=1", "--option", "messages=true"])
        .args(["--option", &format!("publication_names={PUBLICATION}")])
        .env("PGPASSWORD", &*password);
    Ok(command)
}

fn own(client: &str, source: &Source, slot: &str, options: &Options) -> Result<Command> {
    let mut url = source.url();
    if options.unix {
        let folder = source.postgres.socket_dir().display().to_string().replace('/', "%2F");
        url = url.replace("@127.0.0.1", &format!("@{folder}"));
    }
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["client", client, "--slot", slot, "--url", &url])
        .args(["--events", &options.rows.to_string()]);
    Ok(command)
}
