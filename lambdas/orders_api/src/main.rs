//! The query service of `order_summary`: orders over HTTP, as fresh as the caller asks.
//!
//! One program, two hosts: a Lambda function behind a URL where Lambda starts it, and else a
//! server of its own.

mod answer;
mod function;
mod orders;
mod server;
mod service;

use anyhow::Context;
use clap::Parser;
use consumer::{Pauses, ReadModel};
use dsn::Dsn;
use orders::Orders;
use service::Service;
use std::net::SocketAddr;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  READ_MODEL_URL=postgres://orders_api@db.example.com/shop orders_api
  LISTEN=0.0.0.0:8080 WAIT=500ms READ_MODEL_URL=postgres://… orders_api

  curl localhost:8080/orders/ord_1                            the order as it is
  curl 'localhost:8080/orders/ord_1?min_version=5'            at version 5 or later, or 504
  curl 'localhost:8080/orders/ord_1?min_version=5&stale=true' the same, or as it is with x-stale: true
  curl 'localhost:8080/customers/c_1/orders?limit=10'         a customer's orders, the newest first
  curl localhost:8080/healthz                                 200 while the read model answers

READ_MODEL_POOLER=transaction where pgbouncer in transaction mode or RDS Proxy stands before the read model.
On Lambda it is a function behind a URL: the same variables, without LISTEN.";

/// Orders over HTTP, read from the read model that the function order_summary keeps.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The read model's connection string; it must name one server, so that what was waited for is what is read.
    #[arg(long, env = "READ_MODEL_URL", hide_env_values = true)]
    // Parsed later: an error of clap's would quote it, password and all.
    read_model_url: String,
    /// Where to listen; HTTP without TLS, so another address than loopback is for a network of one's own.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How long a request waits for the version that it asks for.
    #[arg(long, env = "WAIT", default_value = "2s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    consumer::host::start_logging();
    // Before anything can be asked: a signal that comes while connecting must count.
    let stop = server::Stop::on_signals()?;
    let dsn: Dsn = arguments.read_model_url.parse().context("READ_MODEL_URL cannot be used")?;
    let dsn = if function::is_ours() { consumer::host::lambda::login(dsn)? } else { dsn };
    let pauses = Pauses::default();
    let read_model = match consumer::host::through_a_pool()? {
        true => ReadModel::connect_through_a_pool(&dsn, pauses).await,
        false => ReadModel::connect_with(&dsn, pauses).await,
    };
    let read_model = read_model.with_context(|| format!("cannot use the read model {dsn}"))?;
    let service = Service { read_model, orders: Orders::new(dsn), wait: arguments.wait };
    let (routes, wait) = (service::routes(service), arguments.wait);
    if function::is_ours() {
        function::run(routes).await
    } else {
        server::run(routes, arguments.listen, wait, stop).await
    }
}
