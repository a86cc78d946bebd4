//! The demo's world: instances, a registry in a file, the sidecar, the application.

use super::caller::{self, Calls};
use super::instance::Instance;
use super::script::Act;
use super::sidecar::Sidecar;
use crate::app::{App, Running};
use crate::cluster::{Cluster, Member};
use crate::rt::Tasks;
use crate::telemetry::Events;
use http::StatusCode;
use std::fmt::Write;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How many instances there are at first.
const INSTANCES: usize = 5;

/// Everything that the demo has started. `end` takes it all away; so does dropping it, without the courtesy.
#[derive(Debug)]
pub(super) struct World {
    pub port: u16,
    pub admin: u16,
    pub registry: PathBuf,
    /// A line for each port that was in use.
    pub moved: Vec<String>,
    instances: Vec<Instance>,
    /// Registered for a while only.
    sixth: Option<Instance>,
    cluster: Arc<Cluster>,
    running: Option<Running>,
    tasks: Tasks,
    calls: Arc<Calls>,
    _folder: Folder,
}

/// What the application has seen so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub made: u64,
    pub failed: u64,
}

impl World {
    /// Starts it; the sidecar takes `port` and `admin_port` if they are free.
    pub async fn begin(port: u16, admin_port: u16, rate: u32) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let folder = Folder::create().map_err(text)?;
        let registry = folder.0.join("endpoints.toml");
        let instances = (1..=INSTANCES)
            .map(|number| Instance::start(format!("hello-{number}")))
            .collect::<Result<Vec<_>, _>>()
            .map_err(text)?;
        write_registry(&registry, instances.iter())?;
        let events = Events::default();
        let Sidecar { running, port, admin, moved } = Sidecar::start(port, admin_port, &registry, &events)?;
        let cluster = running.clusters.first().cloned().ok_or("no service was started")?;
        let tasks = Tasks::new(events);
        let calls = caller::call(&tasks, (Ipv4Addr::LOCALHOST, port).into(), rate);
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
            _folder: folder,
        })
    }

    /// Does it, and says what was done.
    pub async fn perform(&mut self, act: Act) -> Result<String, String> {
        let text = |error: std::io::Error| error.to_string();
        Ok(match act {
            Act::Kill(index) => self.with(index, |instance| {
                instance.kill();
                Ok(format!(
                    "{} is killed without a word: calls go to the others, the check takes it out",
                    instance.name
                ))
            })?,
            Act::Revive(index) => self.with(index, |instance| {
                instance.revive().map_err(text)?;
                Ok(format!("{} is started again: two passing checks bring it back", instance.name))
            })?,
            Act::Slow(index, delay) => self.with(index, |instance| {
                instance.slow(delay);
                Ok(format!("{} now takes {} ms longer", instance.name, delay.as_millis()))
            })?,
            Act::Break(index) => self.with(index, |instance| {
                instance.answer_with(Some(StatusCode::SERVICE_UNAVAILABLE));
                Ok(format!("{} answers 503 to all but its check: each is retried on another", instance.name))
            })?,
            Act::Mend(index) => self.with(index, |instance| {
                instance.slow(Duration::ZERO);
                instance.answer_with(None);
                Ok(format!("{} is well again", instance.name))
            })?,
            Act::Add => {
                let sixth = Instance::start(format!("hello-{}", INSTANCES + 1)).map_err(text)?;
                write_registry(&self.registry, self.instances.iter().chain([&sixth]))?;
                let said = format!("{} is registered", sixth.name);
                self.sixth = Some(sixth);
                said
            }
            Act::Remove => {
                write_registry(&self.registry, self.instances.iter())?;
                let name = format!("hello-{}", INSTANCES + 1);
                if let Some(leaving) = self.sixth.take() {
                    // It leaves the registry first and ends when others have had time to learn.
                    self.tasks.spawn("leave", |_| async move {
                        tokio::time::sleep(Duration::from_secs(2)).await;
                        drop(leaving);
                    });
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

    pub fn is_alive(&self, addr: SocketAddr) -> bool {
        self.instances.iter().chain(&self.sixth).any(|instance| instance.addr == addr && instance.is_alive())
    }

    pub fn calls(&self) -> Seen {
        Seen { made: self.calls.made.get(), failed: self.calls.failed.get() }
    }

    /// Takes everything away in an order that lets what runs finish.
    pub async fn end(mut self) {
        self.tasks.stop(Duration::from_secs(1)).await;
        if let Some(running) = self.running.take() {
            running.stop(App::<std::future::Ready<()>>::Gone).await;
        }
    }

    fn with(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Instance) -> Result<String, String>,
    ) -> Result<String, String> {
        self.instances.get_mut(index).map_or_else(|| Ok(String::new()), act)
    }
}

/// Replaces the registry file in one step, as everybody should who writes such a file.
fn write_registry<'a>(
    path: &std::path::Path,
    instances: impl Iterator<Item = &'a Instance>,
) -> Result<(), String> {
    let mut text = String::from("endpoints = [\n");
    for instance in instances {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {{ addr = \"{}\", id = \"{}\" }},", instance.addr, instance.name);
    }
    text.push_str("]\n");
    let next = path.with_extension("next");
    std::fs::write(&next, text)
        .and_then(|()| std::fs::rename(&next, path))
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn create() -> std::io::Result<Self> {
        // A killed demo leaves its folder, and in a container the next one has the same process id.
        let mut turn = 0;
        loop {
            let name = format!("outrigger-demo-{}-{turn}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => turn += 1,
                Err(error) => return Err(std::io::Error::other(format!("{}: {error}", path.display()))),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays in a temporary place.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_left_behind_is_nobodys_obstacle() {
        let (one, two) = (Folder::create().unwrap(), Folder::create().unwrap());
        let paths = [one.0.clone(), two.0.clone()];
        assert!(paths[0] != paths[1] && paths.iter().all(|path| path.is_dir()), "{paths:?}");
        drop((one, two));
        assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    }
}
