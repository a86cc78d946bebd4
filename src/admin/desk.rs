//! What every answer of the admin address is made from.

use super::Window;
use super::fold::Fold;
use crate::cluster::{Cluster, Snapshot};
use crate::discovery::StatusView;
use crate::rt::Stop;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How many may follow the events at once.
pub(super) const FOLLOWERS: usize = 32;

/// The window, and what this address itself remembers.
#[derive(Debug)]
pub(super) struct Desk {
    pub window: Arc<Window>,
    /// `window.started` by the wall clock, read once: what is derived from it does not jitter.
    pub started: SystemTime,
    /// Ends the streams that follow events.
    pub stop: Stop,
    pub followers: Arc<Semaphore>,
    /// By cluster; held while one answer to `/metrics` is put together, never across an await.
    pub folds: Mutex<Vec<Fold>>,
}

/// One cluster as of one moment.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub cluster: &'a Cluster,
    pub snapshot: Arc<Snapshot>,
    /// In their order.
    pub sources: Vec<StatusView>,
}

impl Desk {
    pub fn new(window: Arc<Window>, stop: Stop) -> Self {
        let age = Instant::now().saturating_duration_since(window.started);
        Self {
            started: SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH),
            stop,
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            folds: Mutex::new(window.clusters.iter().map(|_| Fold::default()).collect()),
            window,
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.window.stopping.is_cancelled() || self.stop.is_cancelled()
    }

    /// A moment of this process by the wall clock.
    pub fn wall(&self, at: Instant) -> SystemTime {
        let started = self.window.started;
        let moved = if at >= started {
            self.started.checked_add(at.saturating_duration_since(started))
        } else {
            self.started.checked_sub(started.saturating_duration_since(at))
        };
        moved.unwrap_or(self.started)
    }

    pub fn clusters(&self, now: Instant) -> impl Iterator<Item = Seen<'_>> {
        self.window.clusters.iter().map(move |cluster| Seen::new(cluster, now))
    }
}

impl<'a> Seen<'a> {
    pub fn new(cluster: &'a Cluster, now: Instant) -> Self {
        Self {
            cluster,
            snapshot: cluster.snapshot(),
            sources: cluster.sources.iter().map(|source| source.view(now)).collect(),
        }
    }

    pub fn name(&self) -> &'a str {
        self.cluster.name().as_str()
    }
}
