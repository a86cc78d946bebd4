//! Who gets how much, through the real binary.

mod changes;
mod shares;

use crate::support::client::Client;
use crate::support::{Instance, Sidecar};
use std::net::SocketAddr;
use tokio::task::JoinSet;

/// Instances `a`, `b`, `c` ...
async fn instances(count: usize) -> Vec<Instance> {
    let mut instances = Vec::new();
    for name in ["a", "b", "c", "d", "e"].into_iter().take(count) {
        instances.push(Instance::start(name).await);
    }
    instances
}

fn addrs(instances: &[Instance]) -> Vec<SocketAddr> {
    instances.iter().map(Instance::addr).collect()
}

/// Requests for `path` that each has seen.
async fn counts(instances: &[Instance], path: &str) -> Vec<u64> {
    let mut counts = Vec::new();
    for instance in instances {
        counts.push(instance.count(path).await);
    }
    counts
}

/// So many GETs on each of so many connections at the same time; all must be 200.
async fn ask(sidecar: &Sidecar, service: &str, path: &'static str, connections: usize, each: usize) {
    let addr = sidecar.service(service);
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(async move {
            let mut client = Client::new(addr);
            for _ in 0..each {
                let answer = client.get(path).await.expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client");
    }
}
