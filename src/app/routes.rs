//! Ports that several services share: each has a cluster that stands for it where no service does, and its routes.

use crate::admin::Port;
use crate::cluster::{Cluster, ClusterSettings};
use crate::config::{ListenerSettings, Place};
use crate::proxy::Table;
use std::sync::Arc;
use tokio::time::Instant;

/// In the order of the settings. Requests without a route, and those that cannot be read, count as of the port.
pub(super) fn build(
    listeners: Vec<ListenerSettings>,
    clusters: &[Arc<Cluster>],
    workers: usize,
) -> Vec<(Arc<Cluster>, Arc<Table>)> {
    let built = listeners.into_iter().map(|listener| {
        let places: Vec<_> = listener.places.iter().filter_map(|place| find(place, clusters)).collect();
        let mut settings = ClusterSettings::new(listener.name);
        settings.proxy_protocol = listener.proxy_protocol;
        // Whoever stands still does so on a connection that all of them share.
        if let Some(idle) = places.iter().map(|(cluster, _)| cluster.settings.timeouts.idle).max() {
            settings.timeouts.idle = idle;
        }
        let port = Cluster::new(settings, Vec::new(), workers, Instant::now());
        (port, Table::new(listener.routes, places))
    });
    built.collect()
}

/// As the admin address shows it.
pub(super) fn port(listener: &ListenerSettings) -> Port {
    let places = listener.places.iter().map(|place| (place.service.clone(), place.subset.clone()));
    Port {
        name: listener.name.clone(),
        listen: listener.listen.clone(),
        routes: listener.routes.clone(),
        places: places.collect(),
    }
}

/// The configuration has made sure that there is one.
fn find(place: &Place, clusters: &[Arc<Cluster>]) -> Option<(Arc<Cluster>, Option<usize>)> {
    let cluster = clusters.iter().find(|cluster| *cluster.name() == place.service)?;
    let subset = cluster.settings.subsets.iter().position(|subset| *subset == place.subset);
    Some((Arc::clone(cluster), subset))
}
