//! The demo's world: instances, a registry, the sidecar, the application.

use super::caller::{self, Calls};
use super::instance::Instance;
use super::registry::Registry;
use super::script::Act;
use super::sidecar::Sidecar;
use crate::app::{App, Running};
use crate::cluster::{Cluster, Member};
use crate::rt::Tasks;
use crate::telemetry::Events;
use http::StatusCode;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How many instances there are at first.
const INSTANCES: usize = 5;

/// For the instances to appear in the registry, and from there in the sidecar.
const APPEAR: Duration = Duration::from_secs(15);

/// Everything that the demo has started. `end` takes it all away; so does dropping it, without the courtesy.
#[derive(Debug)]
pub(super) struct World {
    pub port: u16,
    pub admin: u16,
    pub registry: Registry,
    /// A line for each port that was in use.
    pub moved: Vec<String>,
    instances: Vec<Instance>,
    /// There for a while only.
    sixth: Option<Instance>,
    cluster: Arc<Cluster>,
    running: Option<Running>,
    tasks: Tasks,
    calls: Arc<Calls>,
    events: Events,
}

/// What the application has seen so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub made: u64,
    pub failed: u64,
}

impl World {
    /// Starts it; the sidecar takes `port` and `admin_port` if they are free. What happens is told by `events`.
    pub async fn begin(
        port: u16,
        admin_port: u16,
        registry: Registry,
        events: Events,
    ) -> Result<Self, String> {
        let instances = (1..=INSTANCES)
            .map(|number| Instance::start(format!("hello-{number}"), &registry, &events))
            .collect::<Result<Vec<_>, _>>()?;
        registry.list(instances.iter())?;
        let Sidecar { running, port, admin, moved } =
            match Sidecar::start(port, admin_port, &registry.source(), &events) {
                Ok(sidecar) => sidecar,
                Err(error) => {
                    leave(instances).await;
                    return Err(error);
                }
            };
        let cluster = running.clusters.first().cloned().ok_or("no service was started")?;
        let tasks = Tasks::new(events.clone());
        let calls = Arc::default();
        Ok(Self {
            port,
            admin,
            registry,
            moved,
            instances,
            sixth: None,
            cluster,
            running: Some(running),
            tasks,
            calls,
            events,
        })
    }

    /// Has the application call the sidecar so often a second.
    pub fn call(&mut self, rate: u32) {
        self.calls = caller::call(&self.tasks, (Ipv4Addr::LOCALHOST, self.port).into(), rate);
    }

    /// Waits until the sidecar knows all instances.
    pub async fn appear(&self) -> Result<(), String> {
        let begun = Instant::now();
        while self.cluster.usable() < INSTANCES {
            if begun.elapsed() >= APPEAR {
                let source = self.cluster.sources.first().map(|source| source.view(Instant::now()));
                let why = source.and_then(|source| source.last_error).map(|error| format!(": {error}"));
                return Err(format!(
                    "{}: only {} of {INSTANCES} instances appeared within {} s{}",
                    self.registry.source(),
                    self.cluster.usable(),
                    APPEAR.as_secs(),
                    why.unwrap_or_default(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Does it, and says what was done.
    pub async fn perform(&mut self, act: Act) -> Result<String, String> {
        let Self { registry, events, instances, .. } = self;
        let mut with = |index: usize, act: &mut dyn FnMut(&mut Instance) -> Result<String, String>| {
            instances.get_mut(index).map_or_else(|| Ok(String::new()), act)
        };
        Ok(match act {
            Act::Kill(index) => with(index, &mut |instance| {
                instance.kill();
                Ok(format!(
                    "{} is killed without a word: calls go to the others, the check takes it out",
                    instance.name
                ))
            })?,
            Act::Revive(index) => with(index, &mut |instance| {
                instance.revive(registry, events)?;
                Ok(format!("{} is started again: two passing checks bring it back", instance.name))
            })?,
            Act::Slow(index, delay) => with(index, &mut |instance| {
                instance.slow(delay);
                Ok(format!("{} now takes {} ms longer", instance.name, delay.as_millis()))
            })?,
            Act::Break(index) => with(index, &mut |instance| {
                instance.answer_with(Some(StatusCode::SERVICE_UNAVAILABLE));
                Ok(format!("{} answers 503 to all but its check: each is retried on another", instance.name))
            })?,
            Act::Mend(index) => with(index, &mut |instance| {
                instance.slow(Duration::ZERO);
                instance.answer_with(None);
                Ok(format!("{} is well again", instance.name))
            })?,
            Act::Add => {
                let sixth =
                    Instance::start(format!("hello-{}", INSTANCES + 1), &self.registry, &self.events)?;
                self.registry.list(self.instances.iter().chain([&sixth]))?;
                let said = format!("{} starts and is registered", sixth.name);
                self.sixth = Some(sixth);
                said
            }
            Act::Remove => {
                self.registry.list(self.instances.iter())?;
                let name = format!("hello-{}", INSTANCES + 1);
                if let Some(leaving) = self.sixth.take() {
                    // It leaves the registry first and ends when others have had time to learn.
                    tokio::task::spawn_blocking(move || leaving.leave());
                }
                format!("{name} leaves the registry, and ends two seconds later")
            }
        })
    }

    /// The instance that listens there.
    pub fn name_of(&self, addr: SocketAddr) -> &str {
        let found = self.instances.iter().chain(&self.sixth).find(|instance| instance.addr == addr);
        found.map_or("hello-6", |instance| &instance.name)
    }

    /// The members of the cluster, by their instances' names.
    pub fn members(&self) -> Vec<Member> {
        let mut members = self.cluster.snapshot().members.to_vec();
        members
            .sort_by(|a, b| self.name_of(a.target.endpoint.addr).cmp(self.name_of(b.target.endpoint.addr)));
        members
    }

    /// Whether the instance there lives; nothing if it is leaving.
    pub fn is_alive(&self, addr: SocketAddr) -> Option<bool> {
        let mut all = self.instances.iter().chain(&self.sixth);
        all.find(|instance| instance.addr == addr).map(Instance::is_alive)
    }

    pub fn calls(&self) -> Seen {
        Seen { made: self.calls.made.get(), failed: self.calls.failed.get() }
    }

    /// Takes everything away in an order that lets what runs finish; who was killed comes back once more, to leave
    /// nothing in the registry.
    pub async fn end(mut self) {
        self.tasks.stop(Duration::from_secs(1)).await;
        if let Some(running) = self.running.take() {
            running.stop(App::Gone).await;
        }
        if let Registry::Remote { .. } = self.registry {
            let mut dead = false;
            for instance in self.instances.iter_mut().filter(|instance| !instance.is_alive()) {
                dead |= instance.revive(&self.registry, &self.events).is_ok();
            }
            if dead {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            leave(self.instances.drain(..).chain(self.sixth.take())).await;
        }
    }
}

/// All at once, out of the registry first.
async fn leave(instances: impl IntoIterator<Item = Instance>) {
    let leaving: Vec<_> =
        instances.into_iter().map(|instance| tokio::task::spawn_blocking(move || instance.leave())).collect();
    for leave in leaving {
        // Whatever came of it, it is over.
        let _ = leave.await;
    }
}
