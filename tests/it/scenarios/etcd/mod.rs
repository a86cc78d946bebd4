//! etcd as a source on its bad days: scenarios 30 to 44, each on etcd 3.4 and on 3.5.

mod access;
mod fake;
mod history;
mod keys;
mod leases;
mod many;
mod members;
mod silence;
mod wire;

use super::{Bounds, Scenario};
use crate::support::etcd::{Cluster, request};
use crate::support::registry::{key, source, states, three};
use crate::support::{Instance, Sidecar, client};
use outrigger::registry::etcd::{EtcdClient, EtcdSettings};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Generous: what must be fast is measured by the scenarios.
const SOON: Duration = Duration::from_secs(20);

/// Three instances of `web` in a cluster, and a sidecar that knows them.
#[derive(Debug)]
struct Stage {
    binary: &'static str,
    cluster: Cluster,
    instances: [Instance; 3],
    sidecar: Sidecar,
    /// Where the sidecar believes etcd's members to be.
    ports: Vec<u16>,
}

impl Stage {
    /// So many members; the sidecar is given all of them.
    async fn of(binary: &'static str, members: usize, rules: &str) -> Self {
        let cluster = Cluster::start(binary, members).await;
        let members: Vec<_> = (0..members).map(|member| cluster.addr(member)).collect();
        Self::over(binary, cluster, &members, rules).await
    }

    /// The sidecar is given these addresses, of members or of wires to them; `rules` are more lines of `[service.web]`, and
    /// further tables.
    async fn over(binary: &'static str, cluster: Cluster, members: &[SocketAddr], rules: &str) -> Self {
        let instances = three().await;
        for instance in &instances {
            put(&cluster, 0, instance.name(), &instance.addr().to_string()).await;
        }
        let list: Vec<_> = members.iter().map(ToString::to_string).collect();
        let from = format!("etcd://{}/services/web/", list.join(","));
        let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{from}\"\n{rules}")).await;
        let ports = members.iter().map(SocketAddr::port).collect();
        Self { binary, cluster, instances, sidecar, ports }
    }

    /// A story whose changes, and whose questions about them, are work by themselves: CPU is judged while the source
    /// fails.
    fn scenario(&self, number: u8, title: &str) -> Scenario {
        let bounds = Bounds::etcd(self.ports.iter().copied()).busy();
        Scenario::begin(number, title, version(self.binary), &self.sidecar, bounds)
    }

    /// The source, as the API tells it.
    async fn source(&self) -> Value {
        source(&self.sidecar, "web").await
    }

    async fn errors(&self) -> u64 {
        self.source().await["errors"].as_u64().expect("a count")
    }

    /// The states of all endpoints; those that only finish what runs at them are gone already.
    async fn states(&self) -> Vec<String> {
        states(&self.sidecar, "web").await.into_iter().filter(|state| state != "draining").collect()
    }

    /// `Some` once all that is known is usable, and so many.
    async fn usable(&self, count: usize) -> Option<()> {
        let states = self.states().await;
        (states.len() == count && states.iter().all(|state| state == "usable")).then_some(())
    }

    /// `Some` once the source's last error has this in it.
    async fn says(&self, text: &str) -> Option<()> {
        self.source().await["last_error"].as_str().filter(|error| error.contains(text)).map(drop)
    }

    async fn is(&self, state: &str) -> Option<()> {
        (self.source().await["state"] == state).then_some(())
    }

    /// Another instance, registered by way of a member.
    async fn another(&self, name: &str, member: usize) -> Instance {
        let instance = Instance::start(name).await;
        put(&self.cluster, member, name, &instance.addr().to_string()).await;
        instance
    }
}

fn version(binary: &str) -> &'static str {
    if binary == "etcd35" { "etcd 3.5" } else { "etcd 3.4" }
}

/// Writes by way of a member, as soon as the cluster lets it.
async fn put(cluster: &Cluster, member: usize, id: &str, value: &str) {
    let started = Instant::now();
    // A write that an election has swallowed is given up early.
    let settings = EtcdSettings {
        request_timeout: Duration::from_secs(1),
        ..EtcdSettings::new(vec![cluster.url(member)])
    };
    let mut etcd = EtcdClient::new(settings);
    while let Err(error) = etcd.put(request(&key("web", id), value)).await {
        assert!(started.elapsed() < Duration::from_secs(30), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn delete(cluster: &Cluster, member: usize, id: &str) {
    crate::support::etcd::delete(&mut cluster.client_of(member), &key("web", id)).await;
}

/// Which member leads.
fn leader(cluster: &Cluster, members: usize) -> usize {
    let leads = |member: &usize| {
        let url = cluster.url(*member).to_string();
        let url = url.trim_end_matches('/');
        let told = cluster.ctl(&[&format!("--endpoints={url}"), "endpoint", "status"]);
        // Endpoint, id, version, size, whether it leads; it tells of the first member too.
        told.lines().any(|line| line.starts_with(url) && line.split(", ").nth(4) == Some("true"))
    };
    (0..members).find(leads).expect("a leader")
}

/// Writes many keys, 100 a transaction, each with one revision; values are base64 in etcd's gateway.
async fn put_many(addr: SocketAddr, keys: &[(String, String)], lease: i64) {
    for some in keys.chunks(100) {
        let put = |(key, value): &(String, String)| {
            let put = json!({"key": base64(key), "value": base64(value), "lease": lease.to_string()});
            json!({ "requestPut": put })
        };
        let body = json!({"success": some.iter().map(put).collect::<Vec<_>>()}).to_string();
        let request = http::Request::post("/v3/kv/txn").body(client::full(body)).expect("a request");
        let answer = client::request(addr, request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut coded = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            coded.push(if digit <= three.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    coded
}

#[test]
fn base64_is_that_of_rfc_4648() {
    for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(text), coded);
    }
}
