//! `outrigger run`: the sidecar.

use super::setup::Setup;
use super::{Outcome, Output};
use crate::app;
use crate::config::Loaded;
use crate::telemetry::Events;
use clap::Args;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Run the sidecar.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    setup: Setup,
}

impl Run {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        self.setup.run(output, |_| Ok(()), serve)
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
    // Of an app that is not registered nothing is known: it was stopped before us, or will be after.
    let app = app::listening(running.apps().to_vec());
    tokio::select! {
        () = running.stop(app) => {
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
