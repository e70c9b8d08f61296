//! The demo: orders written in Postgres arrive in a read model.

use anyhow::{Context, Result, bail};
use clap::Parser;
use local::latency::measure;
use local::orders::{Workload, Written, write};
use local::read_back::write_and_read;
use local::stack::{READ_MODEL_DATABASE, SHOP_DATABASE, Stack};
use local::verdict::{judge_all, read_your_writes};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::Client;

/// How many of the 500 customers that orders name register sooner or later.
const CUSTOMERS: u32 = 450;

/// Without any progress for this long, something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// The writers wait while more effects than this are to come: MiniStack runs a FIFO
/// queue's function one batch at a time, and searches the whole queue for each.
const MOST_BEHIND: u64 = 1000;

/// Writes orders in a real Postgres and watches them arrive in the read model, through
/// logical replication, SNS, SQS and a Lambda function.
#[derive(Debug, Parser)]
#[command(
    name = "infra/local/demo",
    after_help = "Examples:\n  \
  infra/local/demo                     600 orders, then the verdict\n  \
  infra/local/demo --orders 6000       ten times as many\n  \
  infra/local/demo --seconds 30        whatever 30 seconds give\n  \
  infra/local/demo --keep              leave everything running, to look around\n\n\
Exit codes: 0 the verdict is yes, 1 it is no or a part failed, 2 wrong arguments, 130 interrupted."
)]
struct Arguments {
    /// How many orders to write.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    orders: u64,
    /// Write for this many seconds instead.
    #[arg(long, conflicts_with = "orders")]
    seconds: Option<u64>,
    /// Leave everything running until Ctrl-C, and print how to reach each part.
    #[arg(long)]
    keep: bool,
    /// Decides the random choices of the workload.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

// One thread: the children die with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupted = async {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    tokio::select! {
        done = demo(&arguments) => match done {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => {
                eprintln!("\ndemo: {error:#}");
                ExitCode::from(1)
            }
        },
        () = interrupted => {
            eprintln!("\ninterrupted: everything is stopped and removed");
            ExitCode::from(130)
        }
    }
}

async fn demo(arguments: &Arguments) -> Result<bool> {
    let began = Instant::now();
    let stack =
        Stack::start(|part| eprintln!("{:5.1} s  starting {part}", began.elapsed().as_secs_f64()))
            .await?;
    let (shop, read_model) = (stack.shop().await?, stack.read_model().await?);
    let workload = Workload {
        url: stack.url(SHOP_DATABASE),
        connections: 8,
        orders: if arguments.seconds.is_some() { u64::MAX / 2 } else { arguments.orders },
        customers: CUSTOMERS,
        time: arguments.seconds.map(Duration::from_secs),
        seed: arguments.seed,
        pause: Duration::ZERO,
        most_behind: MOST_BEHIND,
    };
    let amount = match arguments.seconds {
        Some(seconds) => format!("orders for {seconds} s"),
        None => format!("{} orders", arguments.orders),
    };
    eprintln!(
        "{:5.1} s  writing {amount} through 8 connections, one transaction in ten rolled back",
        began.elapsed().as_secs_f64()
    );
    let written = Arc::new(Written::default());
    let writing = tokio::spawn({
        let written = Arc::clone(&written);
        async move { write(&workload, written).await }
    });
    watch(&stack, &read_model, &written, writing).await?;

    let latency = measure(&shop, &read_model).await?;
    let read = write_and_read(&shop, &stack.deployed.orders_api).await?;
    // Each event has two effects: in order_summary and in customer_orders.
    written.committed.fetch_add(3, Ordering::Relaxed);
    written.effects.fetch_add(6, Ordering::Relaxed);
    watch(&stack, &read_model, &written, tokio::spawn(async { Ok(()) })).await?;

    let mut verdict = judge_all(&shop, &read_model, &stack.receiver.calls()).await?;
    verdict.clauses.push(read_your_writes(&read));
    println!("\nan order, asked for right after each commit:");
    for read in &read {
        println!("  {read}");
    }
    println!("\n{verdict}");
    println!(
        "throughput: {:.0} events/s from the first commit to the last effect ({} events)",
        latency.throughput, latency.events
    );
    println!(
        "commit to published: p50 {:.1} ms, p99 {:.1} ms",
        latency.published.0, latency.published.1
    );
    println!(
        "commit to projected: p50 {:.1} ms, p99 {:.1} ms",
        latency.projected.0, latency.projected.1
    );
    if arguments.keep {
        keep(&stack).await;
    }
    let yes = verdict.is_yes();
    drop((shop, read_model));
    if !yes {
        eprintln!("\n{}", stack.logs());
    }
    stack.stop().await?;
    Ok(yes)
}

/// Shows how far it has come, until all that was committed had its effect.
async fn watch(
    stack: &Stack,
    read_model: &Client,
    written: &Written,
    mut writing: tokio::task::JoinHandle<Result<()>>,
) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let (began, mut moved) = (Instant::now(), Instant::now());
    let (mut last, mut shown, mut all_written) = ((0, 0), Instant::now(), false);
    loop {
        if !all_written && writing.is_finished() {
            (&mut writing).await.context("the writers")??;
            all_written = true;
        }
        let committed = written.committed.load(Ordering::Relaxed);
        let sql = "select (select count(*) from relay.inbox) - (select count(*) from relay.effect)";
        let row = read_model.query_one(sql, &[]).await?;
        let projected = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        written.projected.store(projected, Ordering::Relaxed);
        if (committed, projected) != last {
            (last, moved) = ((committed, projected), Instant::now());
        }
        let effects = written.effects.load(Ordering::Relaxed);
        let done = all_written && projected >= effects;
        if done || terminal || shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            let rolled_back = written.rolled_back.load(Ordering::Relaxed);
            let line = format!(
                "{:5.1} s  {committed} events committed, {rolled_back} transactions rolled back, {projected} of {effects} effects",
                began.elapsed().as_secs_f64()
            );
            if terminal {
                eprint!("\r{line}  ");
            } else {
                eprintln!("{line}");
            }
            let _ = std::io::stderr().flush();
        }
        if done {
            if terminal {
                eprintln!();
            }
            return Ok(());
        }
        if moved.elapsed() > PATIENCE {
            bail!(
                "nothing has moved for {PATIENCE:?}: {committed} committed, {projected} effects\n\n{}",
                stack.logs()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn keep(stack: &Stack) {
    let endpoint = stack.endpoint();
    println!("\nEverything is left running until Ctrl-C:");
    println!("  the shop        psql '{}'", stack.url(SHOP_DATABASE));
    println!("  the read model  psql '{}'", stack.url(READ_MODEL_DATABASE));
    println!(
        "  the outbox      psql '{}' -c 'select * from relay.outbox order by position desc limit 5'",
        stack.url(SHOP_DATABASE)
    );
    println!(
        "  the summaries   psql '{}' -c 'select * from order_summary limit 5'",
        stack.url(READ_MODEL_DATABASE)
    );
    println!(
        "  the list        psql '{}' -c 'select * from customer_orders limit 5'",
        stack.url(READ_MODEL_DATABASE)
    );
    println!(
        "  AWS             AWS_ENDPOINT_URL={endpoint} AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local target/python/bin/aws sns list-topics"
    );
    println!(
        "  orders_api      {}/orders/ID, asked with any signature",
        stack.deployed.orders_api.url()
    );
    println!("  the topic       {}", stack.deployed.topic_arn);
    println!("  the queue       {}", stack.deployed.queue_url);
    println!(
        "  the relay       DATABASE_URL='{}' target/debug/relay status",
        stack.url(SHOP_DATABASE)
    );
    println!("  the logs        {}", stack.folder().display());
    std::future::pending::<()>().await;
}
