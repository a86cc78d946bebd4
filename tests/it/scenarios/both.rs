//! Consul and etcd alike: a long time of everything at once, and many sidecars at a registry that comes back.

use super::{Bounds, Scenario};
use crate::support::consul::ConsulAgent;
use crate::support::etcd::{self, Cluster};
use crate::support::registry::{consul_entry, etcd_value, events, key, source, states, three};
use crate::support::{ConsulCluster, Instance, Registry, Sidecar, eventually};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(30);

/// Three servers of either kind, one of which is hurt now and then.
enum Servers {
    Consul(ConsulCluster),
    Etcd(Cluster),
}

impl Servers {
    fn source(&self) -> String {
        match self {
            Self::Consul(cluster) => cluster.clients[0].source("web"),
            Self::Etcd(cluster) => {
                let members: Vec<_> = (0..3).map(|member| cluster.addr(member).to_string()).collect();
                format!("etcd://{}/services/web/", members.join(","))
            }
        }
    }

    fn bounds(&self) -> Bounds {
        match self {
            Self::Consul(cluster) => Bounds::consul([cluster.clients[0].port()], 1),
            Self::Etcd(cluster) => Bounds::etcd((0..3).map(|member| cluster.addr(member).port())),
        }
    }

    /// Registers an instance, or takes it out; `false` if the registry did not do it within a second.
    async fn set(&self, instance: &Instance, listed: bool) -> bool {
        let done = async {
            match self {
                Self::Consul(cluster) => {
                    let agent = &cluster.clients[0];
                    let (path, body) = if listed {
                        let entry = consul_entry("web", instance.name(), instance.addr(), 1);
                        ("/v1/agent/service/register".to_owned(), entry)
                    } else {
                        (format!("/v1/agent/service/deregister/{}", instance.name()), serde_json::Value::Null)
                    };
                    agent.request("PUT", &path, body).await.is_ok()
                }
                Self::Etcd(cluster) => {
                    let mut client = cluster.client();
                    let key = key("web", instance.name());
                    if listed {
                        let value = etcd_value(instance.addr(), 1);
                        client.put(etcd::request(&key, &value)).await.is_ok()
                    } else {
                        let request = outrigger::registry::etcd::DeleteRangeRequest {
                            key: key.into(),
                            ..Default::default()
                        };
                        client.delete_range(request).await.is_ok()
                    }
                }
            }
        };
        timeout(Duration::from_secs(1), done).await.unwrap_or(false)
    }

    /// Kills a server or stops it.
    fn hurt(&mut self, server: usize, kill: bool) {
        match self {
            Self::Consul(cluster) if kill => cluster.servers[server].kill(),
            Self::Consul(cluster) => cluster.servers[server].stop(),
            Self::Etcd(cluster) if kill => cluster.kill(server),
            Self::Etcd(cluster) => cluster.stop(server),
        }
    }

    /// Sets it right again.
    fn heal(&mut self, server: usize, kill: bool) {
        match self {
            Self::Consul(cluster) if kill => cluster.servers[server].launch(),
            Self::Consul(cluster) => cluster.servers[server].cont(),
            Self::Etcd(cluster) if kill => cluster.launch(server),
            Self::Etcd(cluster) => cluster.resume(server),
        }
    }
}

/// An instance comes and goes five times a second for 5 s, as far as the registry lets it.
async fn churn(servers: &Servers, instance: &Instance) {
    let begun = Instant::now();
    for turn in 0.. {
        if begun.elapsed() >= Duration::from_secs(5) {
            return;
        }
        servers.set(instance, turn % 2 == 0).await;
        sleep(Duration::from_millis(200)).await;
    }
}

/// A minute or two instead of half an hour, and a server hurt each quarter of it. Three instances stay, a fourth comes and
/// goes five times a second all the while; while the registry is well, it gets nothing from 2 s after it has left.
async fn everything_at_once(mut servers: Servers, registry: &str) {
    let (instances, fourth) = (three().await, Instance::start("web-4").await);
    for instance in &instances {
        eventually("a registration", SOON, async || servers.set(instance, true).await.then_some(())).await;
    }
    let mut sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{}\"\n", servers.source())).await;
    eventually("three instances", SOON, async || (states(&sidecar, "web").await.len() == 3).then_some(()))
        .await;
    let bounds = servers.bounds().busy();
    let scenario = Scenario::begin(49, "everything at once", registry, &sidecar, bounds);
    scenario.serves(3);
    let mut memory = Vec::new();
    let mut checked = 0;
    for (round, kill) in [true, false, true, false].into_iter().enumerate() {
        churn(&servers, &fourth).await;
        // The registry is well: from 2 s after it has left, nothing goes to it.
        if servers.set(&fourth, false).await {
            let left = Instant::now();
            sleep(Duration::from_secs(2).saturating_sub(left.elapsed())).await;
            if source(&sidecar, "web").await["state"] == "live" {
                let before = fourth.count("/").await;
                sleep(Duration::from_secs(1)).await;
                assert_eq!(fourth.count("/").await, before, "requests to who has left");
                checked += 1;
            }
        }
        memory.push(sidecar.rss_kib());
        servers.hurt(round % 3, kill);
        churn(&servers, &fourth).await;
        servers.heal(round % 3, kill);
        // An election may take 15 s (Consul), 3 s (etcd).
        eventually("the registry is well", Duration::from_secs(60), async || {
            let well = servers.set(&fourth, true).await && source(&sidecar, "web").await["state"] == "live";
            well.then_some(())
        })
        .await;
    }
    assert!(checked >= 2, "only {checked} times was the registry well enough to look");
    memory.push(sidecar.rss_kib());
    let (first, last) = (memory[1], memory[memory.len() - 1]);
    assert!(last < first + 10 * 1024, "memory grows: {memory:?} KiB");
    assert!(sidecar.is_running());
    assert_eq!(events(&sidecar, "task_panicked").await, 0);
    scenario.end().await;
}

#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn s49_everything_at_once_on_consul() {
    let cluster = ConsulCluster::start(3, 1).await;
    cluster.leader(None).await;
    everything_at_once(Servers::Consul(cluster), ConsulAgent::VERSION).await;
}

#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn s49_everything_at_once_on_etcd() {
    let cluster = Cluster::start("etcd35", 3).await;
    everything_at_once(Servers::Etcd(cluster), "etcd 3.5.16").await;
}

/// Ten sidecars with both registries as sources; Consul is gone for a while. What it said is held, and they do not come back
/// all at once.
#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn s50_ten_sidecars_at_a_registry_that_comes_back() {
    const SIDECARS: usize = 10;
    let (mut consul, etcd) = tokio::join!(Registry::consul_with_data(), Registry::etcd("etcd35"));
    let instances = three().await;
    consul.register_all("web", &instances[..2]).await;
    etcd.register_all("web", &instances[2..]).await;
    let config = format!(
        "workers = 1\n[service.web]\nfrom = [\"{}\", \"{}\"]\nmode = \"union\"\n",
        consul.source("web"),
        etcd.source("web")
    );
    let mut sidecars = Vec::new();
    for _ in 0..SIDECARS {
        sidecars.push(Sidecar::start(&config).await);
    }
    let all_usable = async |sidecar: &Sidecar| states(sidecar, "web").await == ["usable"; 3];
    for sidecar in &sidecars {
        eventually("three instances", SOON, async || all_usable(sidecar).await.then_some(())).await;
    }
    let Registry::Consul(agent) = &consul else { unreachable!() };
    let bounds = Bounds::consul([agent.port()], 1);
    let mut scenario =
        Scenario::begin(50, "10 sidecars, one registry of two restarted", "both", &sidecars[0], bounds);
    scenario.serves(3);
    consul.kill();
    sleep(Duration::from_secs(12)).await;
    for sidecar in &sidecars {
        assert!(all_usable(sidecar).await, "what the dead one said is held: {}", sidecar.log());
        assert_eq!(source(sidecar, "web").await["state"], "stale");
    }
    consul.restart().await;
    let back = Instant::now();
    let Registry::Consul(agent) = &consul else { unreachable!() };
    // Requests of the tests' own are those that `restart` waited with; from here on there are none.
    let (mut live, mut asked) = (vec![None; SIDECARS], vec![(Instant::now(), agent.requests())]);
    while live.iter().any(Option::is_none) {
        assert!(back.elapsed() < SOON, "not all are back: {live:?}");
        for (sidecar, live) in sidecars.iter().zip(&mut live) {
            if live.is_none() && source(sidecar, "web").await["state"] == "live" {
                *live = Some(back.elapsed());
            }
        }
        asked.push((Instant::now(), agent.requests()));
        sleep(Duration::from_millis(100)).await;
    }
    let (first, last) = (live.iter().flatten().min().unwrap(), live.iter().flatten().max().unwrap());
    scenario.converged("all are back", *last, Duration::from_secs(12));
    let spread = last.saturating_sub(*first);
    assert!(spread >= Duration::from_secs(2), "they came back within {spread:?}: {live:?}");
    for (n, (from, before)) in asked.iter().enumerate() {
        let within = |(at, _): &&(Instant, u64)| at.duration_since(*from) <= Duration::from_secs(1);
        let most = asked[n..].iter().take_while(within).map(|(_, count)| count - before).max().unwrap_or(0);
        assert!(most <= 30, "{most} requests within a second");
    }
    scenario.note(format!("back within {:.1} s of each other", spread.as_secs_f64()));
    scenario.end().await;
}
