//! The `relay` program: arguments to commands, commands to exit codes.

mod commands;

use anyhow::Context;
use clap::{Parser, Subcommand};
use relay::config::Config;
use std::path::PathBuf;
use std::process::ExitCode;

/// Publishes committed Postgres changes to SNS and SQS, in order and without loss.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Two variables are enough: DATABASE_URL and RELAY_TOPIC_ARN.\n\n\
Examples:\n  \
  relay init                          make the outbox, the publication and the slot\n  \
  relay check                         try each precondition, and say how to mend what fails\n  \
  relay run                           publish until SIGTERM\n  \
  relay status                        is it flowing, and if not, why\n  \
  relay --config relay.toml run       the same, from a file\n\n\
Exit codes: 0 all is well, 1 it is not, 2 wrong arguments or configuration."
)]
struct Arguments {
    /// The configuration; without it, relay.toml here if there is one, and variables.
    #[arg(long, global = true, env = "RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged, such as info, debug or relay=debug,warn.
    #[arg(long, global = true, env = "RELAY_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How it is logged.
    #[arg(long, global = true, env = "RELAY_LOG_FORMAT", default_value = "text", value_enum)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make what the relay needs in the database: tables, publication, slot. Safe to repeat.
    Init(commands::init::Arguments),
    /// Publish until SIGTERM or Ctrl-C, then finish what is on its way.
    Run,
    /// Try each precondition in turn, and say how to mend what fails.
    Check(commands::check::Arguments),
    /// Say whether events flow, and if not, why and what to do.
    Status,
    /// List, show, redrive or drop the events that could not be sent.
    #[command(subcommand)]
    DeadLetters(commands::dead_letters::Verb),
    /// List, show, replay or drop the events that projections refused, in READ_MODEL_URL.
    #[command(subcommand)]
    Parked(commands::parked::Verb),
    /// Drop the slot, and the publication, when this relay is given up.
    Drop(commands::drop::Arguments),
    /// Write a new function that builds, passes its test and stands in the template.
    #[command(subcommand)]
    New(commands::new::What),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(&arguments);
    if let Command::Completions { shell } = arguments.command {
        let mut command = <Arguments as clap::CommandFactory>::command();
        clap_complete::generate(shell, &mut command, "relay", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    // It has nothing to do with what the relay is configured for.
    if let Command::New(what) = arguments.command {
        return match commands::new::run(what) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        };
    }
    let config = match configuration(arguments.config) {
        Ok(config) => config,
        Err(error) => return fail(&error, 2),
    };
    // One thread: it waits on the socket itself, where a pool would wake a second one for each read.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime.context("cannot start the runtime") {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let done = runtime.block_on(async {
        match arguments.command {
            Command::Init(arguments) => commands::init::run(&config, arguments).await,
            Command::Run => commands::run::run(&config).await,
            Command::Check(arguments) => commands::check::run(&config, arguments).await,
            Command::Status => commands::status::run(&config).await,
            Command::DeadLetters(verb) => commands::dead_letters::run(&config, verb).await,
            Command::Parked(verb) => commands::parked::run(verb).await,
            Command::Drop(arguments) => commands::drop::run(&config, arguments).await,
            Command::New(_) | Command::Completions { .. } => Ok(true),
        }
    });
    runtime.shutdown_background();
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let wrong_configuration = error.downcast_ref::<relay::config::ConfigError>().is_some()
                || error.downcast_ref::<dsn::Error>().is_some_and(dsn::Error::is_configuration);
            fail(&error, if wrong_configuration { 2 } else { 1 })
        }
    }
}

fn configuration(path: Option<PathBuf>) -> anyhow::Result<Config> {
    const DEFAULT: &str = "relay.toml";
    let file = match &path {
        Some(path) => std::fs::read_to_string(path).map_err(|source| {
            relay::config::ConfigError::File { path: path.display().to_string(), source }
        })?,
        None => match std::fs::read_to_string(DEFAULT) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(
                    relay::config::ConfigError::File { path: DEFAULT.to_owned(), source }.into()
                );
            }
            read => read.unwrap_or_default(),
        },
    };
    let named = path.unwrap_or_else(|| DEFAULT.into());
    Config::from_sources(&file, std::env::vars())
        .with_context(|| format!("the configuration ({}) cannot be used", named.display()))
}

fn start_logging(arguments: &Arguments) {
    let filter =
        tracing_subscriber::EnvFilter::new(format!("{},refinery_core=warn", arguments.log));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => {
            log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
        }
        LogFormat::Json => log.json().init(),
    }
}

/// Prints the chain of causes, a line each.
fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("relay: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    ExitCode::from(code)
}
