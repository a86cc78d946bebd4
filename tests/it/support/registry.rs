//! A registry of either kind behind one face, so that one test body holds for both.

use super::consul::ConsulAgent;
use super::etcd::{self, Cluster};
use super::{Instance, Sidecar};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;

/// A running registry. Killed when dropped.
#[derive(Debug)]
pub enum Registry {
    Consul(ConsulAgent),
    Etcd(Cluster),
}

impl Registry {
    /// An agent whose memory dies with it.
    pub async fn consul() -> Self {
        Self::Consul(ConsulAgent::dev().await)
    }

    /// An agent that remembers.
    pub async fn consul_with_data() -> Self {
        Self::Consul(ConsulAgent::with_data().await)
    }

    /// One member of `etcd` (3.4) or `etcd35`.
    pub async fn etcd(binary: &'static str) -> Self {
        Self::Etcd(Cluster::start(binary, 1).await)
    }

    /// What `from` says for a service.
    pub fn source(&self, service: &str) -> String {
        match self {
            Self::Consul(agent) => format!("consul://127.0.0.1:{}/{service}", agent.port()),
            Self::Etcd(cluster) => format!("etcd://{}/services/{service}/", cluster.addr(0)),
        }
    }

    /// What the API calls an instance that was registered as `id`.
    pub fn instance(&self, service: &str, id: &str) -> String {
        match self {
            Self::Consul(_) => id.to_owned(),
            Self::Etcd(_) => key(service, id),
        }
    }

    /// Registers an instance, or changes it; returns with the registry's own answer.
    pub async fn register(&self, service: &str, id: &str, addr: SocketAddr, weight: u16) {
        match self {
            Self::Consul(agent) => agent.register(&consul_entry(service, id, addr, weight)).await,
            Self::Etcd(cluster) => {
                etcd::put(&mut cluster.client(), &key(service, id), etcd_value(addr, weight)).await;
            }
        }
    }

    /// Registers running instances under their own names, with weight 1.
    pub async fn register_all(&self, service: &str, instances: &[Instance]) {
        for instance in instances {
            self.register(service, instance.name(), instance.addr(), 1).await;
        }
    }

    /// Takes an instance away; returns with the registry's own answer.
    pub async fn deregister(&self, service: &str, id: &str) {
        match self {
            Self::Consul(agent) => agent.deregister(id).await,
            Self::Etcd(cluster) => {
                etcd::delete(&mut cluster.client(), &key(service, id)).await;
            }
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        match self {
            Self::Consul(agent) => agent.kill(),
            Self::Etcd(cluster) => cluster.kill_all(),
        }
    }

    /// Starts it again with what it remembers, and waits until it answers.
    pub async fn restart(&mut self) {
        match self {
            Self::Consul(agent) => agent.restart().await,
            Self::Etcd(cluster) => cluster.restart_all().await,
        }
    }

    /// Starts it again with nothing. A Consul agent must be one without data.
    pub async fn restart_empty(&mut self) {
        if let Self::Etcd(cluster) = self {
            cluster.kill_all();
            cluster.wipe(0);
        }
        self.restart().await;
    }

    /// Requests that it has been sent since it was first started (Consul) or last started (etcd).
    pub async fn requests(&self) -> u64 {
        match self {
            Self::Consul(agent) => agent.requests(),
            Self::Etcd(cluster) => cluster.requests().await,
        }
    }
}

/// Three running instances: `web-1`, `web-2`, `web-3`.
pub async fn three() -> [Instance; 3] {
    let (one, two, three) =
        tokio::join!(Instance::start("web-1"), Instance::start("web-2"), Instance::start("web-3"));
    [one, two, three]
}

/// The states of a service's endpoints without their addresses.
pub async fn states(sidecar: &Sidecar, service: &str) -> Vec<String> {
    sidecar.states(service).await.into_iter().map(|(_, state)| state).collect()
}

/// The first source of a service, as the API tells it.
pub async fn source(sidecar: &Sidecar, service: &str) -> serde_json::Value {
    sidecar.api(&format!("/api/services/{service}")).await["sources"][0].take()
}

/// How many events of this kind there were.
pub async fn events(sidecar: &Sidecar, kind: &str) -> usize {
    let events = sidecar.api("/api/events").await;
    events.as_array().expect("events").iter().filter(|event| event["kind"] == kind).count()
}

/// Writes a file that a configuration names.
pub fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("a file");
}

pub fn key(service: &str, id: &str) -> String {
    format!("/services/{service}/{id}")
}

pub fn consul_entry(service: &str, id: &str, addr: SocketAddr, weight: u16) -> serde_json::Value {
    json!({
        "Name": service, "ID": id, "Address": addr.ip().to_string(), "Port": addr.port(),
        "Weights": {"Passing": weight, "Warning": 1},
    })
}

/// The shape of etcd's own Go naming package.
pub fn etcd_value(addr: SocketAddr, weight: u16) -> String {
    json!({"Op": 0, "Addr": addr.to_string(), "Metadata": {"weight": weight}}).to_string()
}
