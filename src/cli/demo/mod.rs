//! `outrigger demo`: a whole small world on this machine.

mod board;
mod caller;
mod instance;
mod registry;
mod script;
mod sidecar;
mod world;

use super::{Outcome, Output, control_runtime};
use crate::telemetry::Events;
use board::Board;
use clap::Args;
use registry::Registry;
use script::Script;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use world::World;

/// Show it at work: five small instances, a registry, the sidecar, and trouble.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Use this registry instead of a file, such as consul://127.0.0.1:8500 or etcd://127.0.0.1:2379: the instances
    /// announce themselves there, and leave nothing behind.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// End by itself after this time, such as 30s; otherwise at Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    length: Option<Duration>,
    /// Requests per second that the demo itself sends through the sidecar, 0 to 1000.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1000))]
    rate: u32,
}

/// Where the sidecar and its admin address listen if nobody else does.
const PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9901;
/// Between two looks at the scoreboard.
const TICK: Duration = Duration::from_millis(250);

impl Demo {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        let registry = match &self.to {
            Some(url) => Registry::remote(url),
            None => Registry::file().map_err(|error| error.to_string()),
        };
        let registry = match registry {
            Ok(registry) => registry,
            Err(error) => {
                output.error(error);
                return Outcome::Refused;
            }
        };
        let runtime = match control_runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                output.error(format_args!("cannot start: {error}"));
                return Outcome::Failed;
            }
        };
        let ended = runtime.block_on(self.play(registry, output));
        runtime.shutdown_background();
        match ended {
            Ok(()) => Outcome::Fine,
            Err(error) => {
                output.error(error);
                Outcome::Failed
            }
        }
    }

    async fn play(&self, registry: Registry, output: &mut Output) -> Result<(), String> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        // The terminal's window was closed.
        let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
        let events = Events::default();
        let (_, mut happening) = events.follow();
        let mut world = World::begin(PORT, ADMIN_PORT, registry, events).await?;
        let appeared = tokio::select! {
            appeared = world.appear() => appeared,
            _ = interrupt.recv() => Err("interrupted before the instances had appeared".to_owned()),
            _ = terminate.recv() => Err("terminated before the instances had appeared".to_owned()),
            _ = hangup.recv() => Err("hung up before the instances had appeared".to_owned()),
        };
        if let Err(error) = appeared {
            world.end().await;
            return Err(error);
        }
        world.call(self.rate);
        introduce(&world, output);
        let mut board = Board::new(output.is_terminal());
        let mut script = Script::new(Instant::now());
        let end = self.length.map(|length| Instant::now() + length);
        let mut tick = tokio::time::interval(TICK);
        let mut failed = None;
        'play: loop {
            tokio::select! {
                now = tick.tick() => {
                    while let Ok(event) = happening.try_recv() {
                        board.tell(&world, &event);
                    }
                    while let Some(act) = script.due(now) {
                        match world.perform(act).await {
                            Ok(said) => board.say(said),
                            Err(error) => {
                                failed = Some(error);
                                break 'play;
                            }
                        }
                    }
                    board.show(&world, now, output);
                    if output.is_closed() || end.is_some_and(|end| now >= end) {
                        break;
                    }
                }
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = hangup.recv() => break,
            }
        }
        let calls = world.calls();
        // Whatever happened, nothing is left in somebody's registry.
        world.end().await;
        if let Some(error) = failed {
            return Err(error);
        }
        output.line(format_args!(
            "\n{} calls, {} failed. Everything the demo started is gone; nothing is left behind.",
            calls.made, calls.failed
        ));
        Ok(())
    }
}

fn introduce(world: &World, output: &mut Output) {
    let (port, admin) = (world.port, world.admin);
    for moved in &world.moved {
        output.line(moved);
    }
    let (found, registry) = match &world.registry {
        Registry::File { path, .. } => ("it found in", path.display().to_string()),
        Registry::Remote { url } => ("announce themselves in", url.clone()),
    };
    output.line(format_args!(
        "Outrigger stands at http://localhost:{port}, in front of five instances that {found}\n{registry}.\n\
         Try, in another terminal:\n\n  \
         curl -i http://localhost:{port}/\n  \
         wrk -c64 -d10s http://localhost:{port}/\n  \
         curl -s http://localhost:{admin}/api/services/hello      (metrics: http://localhost:{admin}/metrics)\n\n\
         Instances are now added, removed, slowed and killed. Ctrl-C ends it.\n"
    ));
}
