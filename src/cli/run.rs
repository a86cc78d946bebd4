//! `outrigger run`: the sidecar.

use super::{Outcome, Output, config_file, control_runtime};
use crate::app;
use crate::config::{self, Environment, Loaded, Problems};
use crate::telemetry::{Events, logging};
use clap::Args;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// Run the sidecar.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Default: $OUTRIGGER_CONFIG, ./outrigger.toml, /etc/outrigger/outrigger.toml.
    #[arg(conflicts_with_all = ["listen", "to", "admin"])]
    config: Option<PathBuf>,
    /// Without a file: where the application calls a service; a port alone is one of localhost. Goes with --to.
    #[arg(long, value_name = "ADDR", requires = "to")]
    listen: Vec<String>,
    /// Without a file: where the service's instances come from, such as consul://127.0.0.1:8500/orders.
    #[arg(long, value_name = "URL", requires = "listen")]
    to: Vec<String>,
    /// Without a file: where the admin address listens, or "off". Default: 127.0.0.1:9901.
    #[arg(long, value_name = "ADDR", requires = "to")]
    admin: Option<String>,
}

impl Run {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                output.error(error);
                return Outcome::Refused;
            }
        };
        if let Err(error) = logging::start(&loaded.settings.log.level, loaded.settings.log.format) {
            output.error(error);
            return Outcome::Refused;
        }
        let runtime = match control_runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                output.error(format_args!("cannot start: {error}"));
                return Outcome::Failed;
            }
        };
        let (outcome, error) = runtime.block_on(serve(loaded));
        if let Some(error) = error {
            output.error(error);
        }
        // What ignores its stop token is not waited for.
        runtime.shutdown_background();
        outcome
    }

    fn load(self) -> Result<Loaded, String> {
        let env = Environment::Process;
        let told = |problems: Problems| problems.to_string();
        if self.to.is_empty() {
            return config::load(&config_file(self.config, &env)?, &env).map_err(told);
        }
        if self.listen.len() != self.to.len() {
            return Err(format!(
                "--listen and --to go in pairs: {} and {} were given",
                self.listen.len(),
                self.to.len()
            ));
        }
        let pairs: Vec<_> = self.listen.into_iter().zip(self.to).collect();
        config::from_pairs(&pairs, self.admin.as_deref(), &env).map_err(told)
    }
}

/// Runs until a signal; a second one ends the process at once.
async fn serve(loaded: Loaded) -> (Outcome, Option<String>) {
    let failed = |error: &dyn std::fmt::Display| (Outcome::Failed, Some(error.to_string()));
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => return failed(&error),
        };
    let running = match app::start(loaded.settings, Events::default()) {
        Ok(running) => running,
        Err(error) => return failed(&error),
    };
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    told().await;
    tokio::select! {
        () = running.stop() => (Outcome::Fine, None),
        () = told() => failed(&"stopped at once by a second signal"),
    }
}
