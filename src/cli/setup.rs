//! What `run` and `exec` have in common: where the configuration comes from, and a sidecar's surroundings.

use super::{Outcome, Output, config_file, control_runtime};
use crate::config::{self, Environment, Loaded, Problems};
use crate::telemetry::logging;
use clap::Args;
use std::path::PathBuf;

/// A file, or a few addresses and URLs instead of one.
#[derive(Debug, Args)]
pub(super) struct Setup {
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

impl Setup {
    /// Reads the configuration, lets `check` look at it, starts the log, and runs `serve` to its end.
    pub(super) fn run<F>(
        self,
        output: &mut Output,
        check: impl FnOnce(&Loaded) -> Result<(), String>,
        serve: impl FnOnce(Loaded) -> F,
    ) -> Outcome
    where
        F: Future<Output = (Outcome, Option<String>)>,
    {
        let (loaded, file) =
            match self.load().and_then(|(loaded, file)| check(&loaded).map(|()| (loaded, file))) {
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
