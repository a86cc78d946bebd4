//! `outrigger exec`: the app as a child, with the sidecar ready before it and gone after it.

mod child;
mod variables;

use super::setup::Setup;
use super::{Outcome, Output};
use crate::app::{self, App, Leaving, Running};
use crate::config::Loaded;
use crate::telemetry::Events;
use child::{Child, Ended, OpenFiles, Signals, Urge};
use clap::Args;
use std::ffi::OsString;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Wrap the app: the sidecar is ready first and gone last, signals are passed on, the app's exit code is kept.
#[derive(Debug, Args)]
#[command(override_usage = "outrigger exec [OPTIONS] [CONFIG] -- APP [ARGS]...")]
pub(super) struct Exec {
    #[command(flatten)]
    setup: Setup,
    /// How long the app waits until every service has a usable instance.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    ready_timeout: Duration,
    /// Start the app after that time all the same.
    #[arg(long)]
    start_anyway: bool,
    /// The app and its arguments. It finds OUTRIGGER_<SERVICE>_URL and OUTRIGGER_ADMIN_URL in its environment.
    #[arg(last = true, required = true, value_name = "APP")]
    command: Vec<OsString>,
}

/// Between two looks whether services are ready.
const LOOK: Duration = Duration::from_millis(50);

/// The conventions of shells: 128 and the signal's number; what cannot be started.
const BY_SIGNAL: i32 = 128;

impl Exec {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        let Self { setup, ready_timeout, start_anyway, command } = self;
        let wrapped = Wrapped { ready_timeout, start_anyway, command };
        setup.run(
            output,
            |loaded| variables::of(&loaded.settings).map(|_| ()),
            |loaded| wrapped.serve(loaded),
        )
    }
}

/// The app, not started yet.
struct Wrapped {
    ready_timeout: Duration,
    start_anyway: bool,
    command: Vec<OsString>,
}

impl Wrapped {
    async fn serve(self, loaded: Loaded) -> (Outcome, Option<String>) {
        let failed = |error: &dyn std::fmt::Display| (Outcome::Failed, Some(error.to_string()));
        let variables = match variables::of(&loaded.settings) {
            Ok(variables) => variables,
            Err(error) => return (Outcome::Refused, Some(error)),
        };
        // Before anything else: a signal that comes early must not kill us.
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return failed(&error),
        };
        let files = OpenFiles::now();
        let running = match app::start(loaded.settings, Events::default()) {
            Ok(running) => running,
            Err(error) => return failed(&error),
        };
        let ready = tokio::select! {
            ready = self.ready(&running) => ready,
            number = signals.end() => {
                stop(running, &mut signals).await;
                return (Outcome::Code(code(BY_SIGNAL + number)), None);
            }
        };
        if let Err(missing) = ready {
            stop(running, &mut signals).await;
            return failed(&missing);
        }
        let mut child = match Child::start(&self.command, &variables, files) {
            Ok(child) => child,
            Err((code, error)) => {
                stop(running, &mut signals).await;
                return (Outcome::Code(code), Some(error));
            }
        };
        let urge = loop {
            match signals.next(&mut child).await {
                Urge::Ended(ended) => {
                    stop(running, &mut signals).await;
                    return (Outcome::Code(ended.code()), None);
                }
                Urge::Pass(number) => child.process().signal(number),
                Urge::End(number) => break number,
            }
        };
        self.end(running, child, signals, urge).await
    }

    /// Leaves the registries, and only then tells the app; a second signal ends both at once.
    async fn end(
        self,
        running: Running,
        mut child: Child,
        mut signals: Signals,
        number: i32,
    ) -> (Outcome, Option<String>) {
        let (process, tell) = (child.process(), !signals.came_by_terminal(number));
        let (end, ended) = watch::channel(None::<Ended>);
        let mut gone = ended.clone();
        let leaving = Leaving {
            ask: Box::new(move || {
                if tell {
                    process.signal(number);
                }
            }),
            gone: Box::pin(async move {
                // The other end is held until the stop is over.
                let _ = gone.wait_for(Option::is_some).await;
            }),
            end: Some(Box::new(move || process.kill())),
        };
        let signals = async {
            loop {
                match signals.next(&mut child).await {
                    Urge::Ended(how) => {
                        end.send_replace(Some(how));
                        break signals.end().await;
                    }
                    Urge::Pass(number) => process.signal(number),
                    Urge::End(number) => break number,
                }
            }
        };
        tokio::select! {
            () = running.stop(App::There(leaving)) => {}
            _ = signals => {
                tracing::warn!("stopped at once by a second signal");
                // Of an app that has ended there is only its code left.
                if ended.borrow().is_none() {
                    process.kill();
                }
            }
        }
        let how = *ended.borrow();
        (Outcome::Code(how.map_or(code(BY_SIGNAL + Ended::KILL), Ended::code)), None)
    }

    /// Waits until every service has a usable instance, and says which are waited for.
    async fn ready(&self, running: &Running) -> Result<(), String> {
        let begun = Instant::now();
        let mut told = Vec::new();
        loop {
            let missing: Vec<_> = running
                .clusters
                .iter()
                .filter(|cluster| cluster.usable() == 0)
                .map(|cluster| cluster.name().to_string())
                .collect();
            if missing.is_empty() {
                tracing::info!("ready: the app is started");
                return Ok(());
            }
            let names = missing.join(", ");
            if begun.elapsed() >= self.ready_timeout {
                let time = humantime::format_duration(self.ready_timeout);
                let text = format!("no usable instance after {time}: {names}");
                if self.start_anyway {
                    tracing::warn!("{text}; the app is started all the same");
                    return Ok(());
                }
                return Err(format!("{text}. The app was not started (--ready-timeout, --start-anyway)."));
            }
            if told != missing {
                tracing::info!(services = names, "waiting for usable instances");
                told = missing;
            }
            sleep(LOOK).await;
        }
    }
}

/// Stops without an app to wait for; a signal ends that at once.
async fn stop(running: Running, signals: &mut Signals) {
    tokio::select! {
        () = running.stop(App::Gone) => {}
        _ = signals.end() => tracing::warn!("stopped at once by a second signal"),
    }
}

fn code(number: i32) -> u8 {
    u8::try_from(number).unwrap_or(1)
}
