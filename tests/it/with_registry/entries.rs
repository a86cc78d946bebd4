//! What stands in a registry: nonsense, a great deal, another address family.

use crate::support::registry::{consul_entry, etcd_value, events, key, source};
use crate::support::{Instance, Registry, Sidecar, eventually, free_port};
use outrigger::registry::etcd::PutRequest;
use serde_json::json;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);

fn config(registry: &Registry) -> String {
    format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"))
}

pub async fn nonsense_is_skipped_counted_and_told_once(registry: Registry) {
    let good = Instance::start("good").await;
    registry.register("web", "good", good.addr(), 1).await;
    let absurd = absurd_entries(&registry).await;
    let sidecar = Sidecar::start(&config(&registry)).await;
    assert_eq!(sidecar.states("web").await, [(good.addr().to_string(), "usable".to_owned())]);
    assert_eq!(sidecar.get("web", "/").await.instance(), "good");
    let told = async || {
        let metric = sidecar.metric("outrigger_source_entries_skipped{service=\"web\"}").await;
        let source = source(&sidecar, "web").await;
        (metric, source["skipped"].as_u64().unwrap(), events(&sidecar, "entry_skipped").await)
    };
    assert_eq!(told().await, (absurd as f64, absurd as u64, absurd));

    // Another change tells nothing again.
    let second = Instance::start("second").await;
    registry.register("web", "second", second.addr(), 1).await;
    eventually("two instances", SOON, async || (sidecar.states("web").await.len() == 2).then_some(())).await;
    assert_eq!(told().await, (absurd as f64, absurd as u64, absurd));
    assert_eq!(source(&sidecar, "web").await["state"], "live");
}

/// Puts what nobody can use beside what is good; how many.
async fn absurd_entries(registry: &Registry) -> usize {
    match registry {
        Registry::Consul(agent) => {
            for (id, port) in [("minus", -1), ("zero", 0), ("huge", 70_000)] {
                agent.register(&json!({"Name": "web", "ID": id, "Port": port})).await;
            }
            for (id, address) in [("text", "not an ip"), ("socket", "127.0.0.1:80"), ("brackets", "[::1]")] {
                agent.register(&json!({"Name": "web", "ID": id, "Port": 80, "Address": address})).await;
            }
            6
        }
        Registry::Etcd(cluster) => {
            let mut client = cluster.client();
            let values: [&[u8]; 8] = [
                b"",
                b"nonsense",
                b"\xff\xfe",
                b"127.0.0.1:0",
                b"127.0.0.1:70000",
                b"{\"Op\":0,\"Addr\":",
                b"{\"host\":\"0.0.0.0\",\"port\":80}",
                b"{\"weight\":7}",
            ];
            for (n, value) in values.iter().enumerate() {
                crate::support::etcd::put(&mut client, &key("web", &format!("bad-{n}")), value).await;
            }
            // A neighbour with a longer name is somebody else.
            crate::support::etcd::put(&mut client, "/services/web2/x", "127.0.0.1:1").await;
            values.len()
        }
    }
}

/// Nearly all of them refuse connections; those that do not are heavy enough to be found.
pub async fn ten_thousand_entries_are_served_from(registry: Registry) {
    const MANY: u16 = 10_000;
    let port = free_port();
    let (good, second) = tokio::join!(
        Instance::at("good", (Ipv4Addr::LOCALHOST, port).into(), &[]),
        Instance::start("second")
    );
    let addr = |n: u16| SocketAddr::from(([127, 1, (n >> 8) as u8, (n & 255) as u8], port));
    match &registry {
        Registry::Consul(agent) => {
            // On a node of its own: the agent repairs what it does not know of its own node.
            agent.put("/v1/catalog/register", json!({"Node": "n2", "Address": "127.0.0.2"})).await;
            let all: Vec<_> = (0..MANY - 2).collect();
            for some in all.chunks(64) {
                let put = |n: &u16| {
                    let mut service = consul_entry("web", &format!("web-{n}"), addr(*n), 1);
                    service["Service"] = service["Name"].take();
                    service.as_object_mut().unwrap().remove("Name");
                    json!({"Service": {"Verb": "set", "Node": "n2", "Service": service}})
                };
                agent.put("/v1/txn", some.iter().map(put).collect()).await;
            }
        }
        Registry::Etcd(cluster) => {
            let puts = (0..8).map(|lane| async move {
                let mut client = cluster.client();
                for n in (0..MANY - 2).filter(|n| n % 8 == lane) {
                    let key = key("web", &format!("web-{n}")).into_bytes();
                    let value = etcd_value(addr(n), 1).into_bytes();
                    client.put(PutRequest { key, value, lease: 0 }).await.unwrap();
                }
            });
            futures_util::future::join_all(puts).await;
        }
    }
    for instance in [&good, &second] {
        registry.register("web", instance.name(), instance.addr(), 65_535).await;
    }
    let started = Instant::now();
    let mut sidecar = Sidecar::launch(&config(&registry)).await;
    let answer = sidecar.get("web", "/").await;
    let first = started.elapsed();
    assert_eq!(answer.status, 200, "{}", answer.text());
    sidecar.ready(SOON).await;
    assert_eq!(sidecar.states("web").await.len(), usize::from(MANY));
    for _ in 0..50 {
        assert_eq!(sidecar.get("web", "/").await.status, 200);
    }
    // A change that comes later is seen too.
    registry.deregister("web", "second").await;
    eventually("one fewer", SOON, async || {
        let service = sidecar.api("/api/services/web").await;
        (service["usable"] == MANY - 1).then_some(())
    })
    .await;
    let rss = sidecar.rss_kib() / 1024;
    eprintln!("10,000 entries: first request after {first:?}, {rss} MiB resident");
    assert!(first < SOON, "{first:?}");
    assert!(rss < 300, "{rss} MiB");
}

pub async fn an_instance_of_ipv6_is_called(registry: Registry) {
    let six = Instance::at("six", (Ipv6Addr::LOCALHOST, free_port()).into(), &[]).await;
    registry.register("web", "six", six.addr(), 1).await;
    let sidecar = Sidecar::start(&config(&registry)).await;
    assert_eq!(sidecar.get("web", "/").await.instance(), "six");
    assert_eq!(sidecar.states("web").await, [(format!("[::1]:{}", six.addr().port()), "usable".to_owned())]);
}
