//! The admin address: a window on the running process, for probes, scrapers, scripts and people.

mod answer;
mod clusters;
mod control;
mod desk;
mod events;
mod families;
mod fold;
mod health;
mod metrics;
mod registrations;
mod router;
mod routes;
mod server;
mod state;

pub use routes::Port;
pub use server::serve;

use crate::cluster::Cluster;
use crate::registration::Status;
use crate::rt::Stop;
use crate::telemetry::Events;
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;

/// What can be seen through the admin address.
pub struct Window {
    /// In the order in which they are shown.
    pub clusters: Vec<Arc<Cluster>>,
    /// Those that only stand for a port.
    pub entrances: Vec<Arc<Cluster>>,
    /// Those ports and their routes.
    pub ports: Vec<Port>,
    /// Of the local app.
    pub registrations: Vec<Arc<Status>>,
    pub events: Events,
    /// When the process began.
    pub started: Instant,
    /// Cancelled when the process begins to stop: from then on it is not ready, while this address still answers.
    pub stopping: Stop,
    /// Client connections now.
    pub connections: Arc<dyn Fn() -> usize + Send + Sync>,
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("clusters", &self.clusters.len()).finish_non_exhaustive()
    }
}
