//! The `relay` program: arguments to commands, commands to exit codes.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod commands;
mod logging;
mod out;

use anyhow::Context;
use clap::{Parser, Subcommand};
use relay::config::Config;
use std::ffi::OsString;
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
    config: Option<OsString>,
    /// What is logged, such as info, debug or relay=debug,warn.
    #[arg(long, global = true, env = "RELAY_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How it is logged.
    #[arg(long, global = true, env = "RELAY_LOG_FORMAT", default_value = "text", value_enum)]
    log_format: logging::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make what the relay needs in the database: tables, publication, slot. Safe to repeat.
    Init(commands::init::Arguments),
    /// Publish until SIGTERM or Ctrl-C, then finish what is on its way.
    #[command(after_help = "Examples:\n  \
  relay run\n  \
  relay --config relay.toml --log-format json run\n\n\
Exit codes: 0 stopped with everything sent that was read, 1 it could not start or go on, or the grace\n\
was over before all was sent, 2 wrong arguments or configuration.")]
    Run,
    /// Try each precondition in turn, and say how to mend what fails.
    Check(commands::check::Arguments),
    /// Say whether events flow, and if not, why and what to do.
    Status(commands::status::Arguments),
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
    #[command(after_help = "Example:\n  relay completions bash > /etc/bash_completion.d/relay")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = logging::start(&arguments.log, arguments.log_format) {
        return fail(&error.into(), 2);
    }
    let code = run(arguments);
    match out::failure() {
        Some(error) => {
            out::error(&format!("relay: cannot write to standard output: {error}"));
            ExitCode::from(1)
        }
        None => code,
    }
}

fn run(arguments: Arguments) -> ExitCode {
    if let Command::Completions { shell } = arguments.command {
        let mut command = <Arguments as clap::CommandFactory>::command();
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, "relay", &mut script);
        out::text(&String::from_utf8_lossy(&script));
        return ExitCode::SUCCESS;
    }
    // It has nothing to do with what the relay is configured for.
    if let Command::New(what) = arguments.command {
        return match commands::new::run(what) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        };
    }
    let config = match configuration(arguments.config.map(PathBuf::from)) {
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
            Command::Status(arguments) => commands::status::run(&config, arguments).await,
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
            let wrong = error.chain().any(|cause| {
                cause.is::<commands::Usage>()
                    || cause.is::<relay::config::ConfigError>()
                    || cause.downcast_ref().is_some_and(dsn::Error::is_configuration)
            });
            fail(&error, if wrong { 2 } else { 1 })
        }
    }
}

fn configuration(path: Option<PathBuf>) -> anyhow::Result<Config> {
    const DEFAULT: &str = "relay.toml";
    // An empty RELAY_CONFIG counts as not set.
    let path = path.filter(|path| !path.as_os_str().is_empty());
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
    Config::from_system(&file, std::env::vars_os()).map_err(|error| {
        let is_in_file = error.is_in_file();
        let error = anyhow::Error::new(error);
        // An error of a variable has nothing to do with a file that may not even be there.
        if is_in_file {
            error.context(format!("the configuration file {} cannot be used", named.display()))
        } else {
            error
        }
    })
}

/// Prints the chain of causes, a line each.
fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let mut printed = error.to_string();
    // A cure stands in a line of its own.
    for (at, line) in printed.lines().enumerate() {
        out::error(&if at == 0 { format!("relay: {line}") } else { line.to_owned() });
    }
    let causes = error.chain().nth(1).map(dsn::causes).unwrap_or_default();
    if !causes.is_empty() && !printed.contains(&causes) {
        printed.push_str(&causes);
        out::error(&format!("  because: {causes}"));
    }
    ExitCode::from(code)
}
