//! `relay new`: a function folder that builds, passes its test and stands in the template.
//!
//! Knows: what is asked for, and what is told. Must not know: what stands in a file.

mod edit;
mod event_type;
mod name;
mod scaffold;
mod workspace;
mod write;

use crate::out;
use clap::{Args, Subcommand, ValueEnum};
use event_type::EventTypes;
use name::Name;
use scaffold::Scaffold;
use std::path::PathBuf;
use workspace::Workspace;

#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// A projection: a Lambda function that keeps a table of the read model.
    Projection(Projection),
}

#[derive(Debug, Args)]
#[command(
    after_help = "It writes lambdas/NAME, makes it a member of the workspace in Cargo.toml, and gives it a queue \
with a dead-letter queue, a subscription, a function and their permissions in infra/template.yaml. All of \
it is written, or nothing. It needs a checkout of Relay, or a fork of it.\n\n\
Examples:\n  \
  relay new projection paid_orders\n  \
  relay new projection shipments --events order.shipped,parcel.returned\n  \
  relay new projection prices --mode latest --events product.priced\n  \
  relay new projection mails --mode once --dry-run"
)]
pub(crate) struct Projection {
    /// Its name, and that of its table: words of a-z and 0-9 with _ between them.
    name: Name,
    /// The types of the events that it is made of, the first of an aggregate's life first.
    #[arg(long, value_name = "TYPE,TYPE", default_value = "order.created,order.paid")]
    events: EventTypes,
    /// How new events are told from old ones.
    #[arg(long, value_enum, default_value = "versioned")]
    mode: Mode,
    /// The workspace; without it, the one of this folder.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Print what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `consumer::Mode`, as the author names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Mode {
    /// A row that each event changes a little: each event once, in the order of its aggregate.
    Versioned,
    /// A row that each event writes whole: the last one wins.
    Latest,
    /// A row for each event, or a count: each event once, in whatever order.
    Once,
}

pub(crate) fn run(what: What) -> anyhow::Result<()> {
    let What::Projection(Projection { name, events, mode, dir, dry_run }) = what;
    let workspace = Workspace::find(dir.as_deref())?;
    let scaffold = Scaffold { name: &name, events: &events, mode };
    let plan = workspace.with(&scaffold)?;
    if dry_run {
        out::text(&plan.shown());
        return Ok(());
    }
    plan.write()?;
    out::text(&plan.told());
    out::text(&next_steps(&name));
    Ok(())
}

fn next_steps(name: &Name) -> String {
    let (snake, pascal) = (name.snake(), name.pascal());
    format!(
        "
Next:
  cargo test -p {snake}
      its test, on a real Postgres (infra/local/setup installs one); Cargo.lock gets the new member
  $EDITOR lambdas/{snake}/src/lib.rs
      what the events do; {snake}.sql has the table, tests/{snake}.rs what must stand in it
  psql \"$READ_MODEL_URL\" -f lambdas/{snake}/{snake}.sql
  cargo lambda build --release --arm64 -p {snake} --bin {snake} --output-format zip
  aws s3 cp target/lambda/{snake}/bootstrap.zip s3://YOUR-BUCKET/{snake}.zip
      then deploy infra/template.yaml as before, with {pascal}CodeKey={snake}.zip too"
    )
}
