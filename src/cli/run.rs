//! `outrigger run`: the sidecar.

use super::{Outcome, Output, config_file, control_runtime};
use crate::app;
use crate::config::{self, Environment, Loaded, Problems};
use crate::telemetry::{Events, logging};
use clap::Args;
use std::io;
use std::path::PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Run the sidecar.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Default: $OUTRIGGER_CONFIG, ./outrigger.toml, /etc/outrigger/outrigger.toml.
    #[arg(conflicts_with_all = ["listen", "to", "register", "admin"])]
    config: Option<PathBuf>,
    /// Without a file: where the application calls a service; a port alone is one of localhost. Goes with --to.
    #[arg(long, value_name = "ADDR", requires = "to")]
    listen: Vec<String>,
    /// Without a file: where the service's instances come from, such as consul://127.0.0.1:8500/orders.
    #[arg(long, value_name = "URL", requires = "listen")]
    to: Vec<String>,
    /// Without a file: where the local app is registered, such as
    /// consul://127.0.0.1:8500/web?port=8080&health=/health
    #[arg(long, value_name = "URL")]
    register: Vec<String>,
    /// Without a file: where the admin address listens, or "off". Default: 127.0.0.1:9901.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
}

impl Run {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        let (loaded, file) = match self.load() {
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
        if let Some(file) = file {
            tracing::info!(file = %file.display(), "configuration");
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

    /// The configuration, and the file it comes from.
    fn load(self) -> Result<(Loaded, Option<PathBuf>), String> {
        let env = Environment::Process;
        let told = |problems: Problems| problems.to_string();
        if self.to.is_empty() && self.register.is_empty() {
            if self.admin.is_some() {
                return Err(
                    "--admin goes with --listen and --to, or with --register; a file says [admin] listen"
                        .to_owned(),
                );
            }
            let file = config_file(self.config, &env)?;
            let loaded = config::load(&file, &env).map_err(told)?;
            return Ok((loaded, Some(file)));
        }
        if self.listen.len() != self.to.len() {
            return Err(format!(
                "--listen and --to go in pairs: {} and {} were given",
                self.listen.len(),
                self.to.len()
            ));
        }
        let pairs: Vec<_> = self.listen.into_iter().zip(self.to).collect();
        let loaded = config::from_pairs(&pairs, &self.register, self.admin.as_deref(), &env).map_err(told)?;
        Ok((loaded, None))
    }
}

/// Runs until SIGTERM or SIGINT; a second one ends the process at once. SIGHUP changes nothing.
async fn serve(loaded: Loaded) -> (Outcome, Option<String>) {
    let failed = |error: &dyn std::fmt::Display| (Outcome::Failed, Some(error.to_string()));
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let running = match app::start(loaded.settings, Events::default()) {
        Ok(running) => running,
        Err(error) => return failed(&error),
    };
    signals.end().await;
    tokio::select! {
        () = running.stop() => {
            tracing::info!("stopped");
            (Outcome::Fine, None)
        }
        () = signals.end() => failed(&"stopped at once by a second signal"),
    }
}

/// The signals that mean something here.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one that ends the process.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // By custom it asks for a reload; unheard it would kill.
                _ = self.hang_up.recv() => {
                    tracing::warn!("SIGHUP: reload is not available in this version; restart to change the configuration");
                }
            }
        }
    }
}
