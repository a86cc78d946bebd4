//! The command line: one file per subcommand.

mod check;
mod defaults;
mod demo;
mod endpoints;
mod exec;
mod output;
mod run;
mod setup;
mod wait;

pub use output::Output;

use crate::config::Environment;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A sidecar proxy: discovers the healthy instances of each service, balances, checks and retries.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Each variant is one file of this folder, with its arguments and its `run`.
#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Exec(exec::Exec),
    Wait(wait::Wait),
    Demo(demo::Demo),
    Check(check::Check),
    Endpoints(endpoints::Endpoints),
    Defaults(defaults::Defaults),
}

/// How a subcommand ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Fine,
    /// Exit code 1: it failed while running.
    Failed,
    /// Exit code 2: bad usage or configuration.
    Refused,
    /// That of the app.
    Code(u8),
}

/// Runs the subcommand that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // To stdout for --help and --version, else to stderr; whoever closed it does not want to know.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut output = Output::of_process();
    let outcome = match arguments.command {
        Command::Run(run) => run.run(&mut output),
        Command::Exec(exec) => exec.run(&mut output),
        Command::Wait(wait) => wait.run(&mut output),
        Command::Demo(demo) => demo.run(&mut output),
        Command::Check(check) => check.run(&mut output),
        Command::Endpoints(endpoints) => endpoints.run(&mut output),
        Command::Defaults(defaults) => defaults.run(&mut output),
    };
    match output.finish(outcome) {
        Outcome::Fine => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::from(1),
        Outcome::Refused => ExitCode::from(2),
        Outcome::Code(code) => ExitCode::from(code),
    }
}

/// The configuration file: the one named, else `$OUTRIGGER_CONFIG`, else the first that exists of `./outrigger.toml`
/// and `/etc/outrigger/outrigger.toml`.
///
/// # Errors
/// Where it was looked for.
fn config_file(named: Option<PathBuf>, env: &Environment) -> Result<PathBuf, String> {
    const VARIABLE: &str = "OUTRIGGER_CONFIG";
    const PLACES: [&str; 2] = ["outrigger.toml", "/etc/outrigger/outrigger.toml"];
    if let Some(path) = named.or_else(|| env.get_filled(VARIABLE).map(PathBuf::from)) {
        return Ok(path);
    }
    PLACES.map(PathBuf::from).into_iter().find(|path| path.exists()).ok_or_else(|| {
        format!(
            "no configuration file: none was named, {VARIABLE} is not set, and neither ./{} nor {} exists \
             (outrigger defaults prints one to start with)",
            PLACES[0], PLACES[1]
        )
    })
}

/// The runtime of everything that is not a request; requests have their own threads.
fn control_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    crate::registry::install_provider();
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
