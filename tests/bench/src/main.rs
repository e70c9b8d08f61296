//! Benchmarks: the relay beside others, in turns, in one run.

mod broker;
mod canned;
mod clients;
mod cold_start;
mod consumer;
mod debezium;
mod latency;
mod load;
mod measure;
mod network;
mod projection;
mod publish;
mod report;
mod sdk;
mod sink;
mod source;

use clap::{Parser, Subcommand};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How fast the relay is, as a ratio to others in the same run.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drain a backlog from a slot, and the latency from commit to the sink.
    Source(source::Options),
    /// Publish a backlog to a canned server, beside the bare SDK; the latency from commit to accepted.
    Publish(publish::Options),
    /// Projections: with the consumer and by hand, by batch size; the Lambda function's cold start.
    Consumer(consumer::Options),
    /// One of the clients, in a process of its own so that it can be measured.
    #[command(hide = true, subcommand)]
    Client(clients::Client),
}

fn main() -> anyhow::Result<()> {
    // One thread, as the relay has it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Arguments::parse().command {
        Command::Source(options) => runtime.block_on(source::run(options)),
        Command::Publish(options) => runtime.block_on(publish::run(options)),
        Command::Consumer(options) => runtime.block_on(consumer::run(options)),
        Command::Client(options) => runtime.block_on(clients::run(options)),
    }
}
