//! Keeps one task of checks per target, for as long as the target is listed.

use super::rounds::{Ask, Desk, Rounds};
use super::schedule::first_delay;
use super::{CheckSettings, Pace, Probe};
use crate::model::{ServiceName, Target, TargetId};
use crate::rt::Tasks;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Checks the listed targets until the group stops or nobody can publish a list any more.
///
/// Raises and clears [`Flag::Check`](crate::model::Flag::Check), clears
/// [`Flag::Unproven`](crate::model::Flag::Unproven) with the first verdict (raise it before listing a new target), sets
/// the note, and wakes `changed` whenever a bit changed. A redescribed target keeps its schedule, unless its name for
/// TLS is another one. The bits stay as they
/// are when the checks end, so that a new checker with other settings goes on from them; who ends checks for good clears
/// them.
pub fn check(
    tasks: &Tasks,
    service: ServiceName,
    settings: CheckSettings,
    targets: watch::Receiver<Arc<[Arc<Target>]>>,
    changed: Arc<Notify>,
    pace: Arc<Pace>,
    rng: SmallRng,
) {
    let desk = Desk { service, settings, changed, pace, events: tasks.events().clone() };
    check_with(tasks, desk, targets, rng, |settings, target| {
        Probe::of(settings, target.endpoint.tls_server_name().map(str::to_owned))
    });
}

/// The same with any asker.
pub(super) fn check_with<A: Ask>(
    tasks: &Tasks,
    desk: Desk,
    targets: watch::Receiver<Arc<[Arc<Target>]>>,
    rng: SmallRng,
    asker: impl Fn(&CheckSettings, &Target) -> A + Send + Sync + 'static,
) {
    let checker =
        Checker { tasks: tasks.clone(), desk: Arc::new(desk), targets, running: HashMap::new(), rng, asker };
    tasks.spawn("checker", |stop| async move {
        tokio::select! {
            () = checker.run() => {}
            () = stop.cancelled() => {}
        }
    });
}

struct Checker<F> {
    tasks: Tasks,
    desk: Arc<Desk>,
    targets: watch::Receiver<Arc<[Arc<Target>]>>,
    running: HashMap<TargetId, Running>,
    rng: SmallRng,
    asker: F,
}

/// The task of one target's checks; dropping this ends it.
struct Running {
    task: AbortHandle,
    /// What the target was called when it began.
    name: Option<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<A: Ask, F: Fn(&CheckSettings, &Target) -> A> Checker<F> {
    async fn run(mut self) {
        loop {
            let listed = Arc::clone(&self.targets.borrow_and_update());
            self.adopt(&listed);
            if self.targets.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the checks of targets that are gone, begins those of new ones, and anew those of targets that have another
    /// name for TLS now.
    fn adopt(&mut self, listed: &[Arc<Target>]) {
        let ids: HashSet<_> = listed.iter().map(|target| target.id()).collect();
        self.running.retain(|id, _| ids.contains(id));
        for target in listed {
            let id = target.id();
            let name = target.endpoint.tls_server_name();
            if self.running.get(&id).is_some_and(|running| running.name.as_deref() != name) {
                self.running.remove(&id);
            }
        }
        let many = ids.len() - self.running.len();
        let now = Instant::now();
        for target in listed {
            if self.running.contains_key(&target.id()) {
                continue;
            }
            let due = now + first_delay(many, &mut self.rng);
            let mut rounds = Rounds::new(
                Arc::clone(&self.desk),
                (self.asker)(&self.desk.settings, target),
                target.endpoint.addr,
                Arc::clone(&target.history),
                SmallRng::from_rng(&mut self.rng),
            );
            let task = self.tasks.spawn("check", |stop| async move {
                tokio::select! {
                    () = rounds.run(due) => {}
                    () = stop.cancelled() => {}
                }
            });
            let name = target.endpoint.tls_server_name().map(str::to_owned);
            self.running.insert(target.id(), Running { task, name });
        }
    }
}
