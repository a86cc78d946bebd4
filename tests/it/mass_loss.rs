//! Most instances go at once, and nobody meant it: a partition of Consul's gossip, leases in etcd that ran out together.

use crate::support::ConsulCluster;
use crate::support::etcd::{self, Cluster};
use crate::support::registry::{consul_entry, etcd_value, events, key};
use crate::support::{Instance, Load, Sidecar, eventually};
use std::time::Duration;
use tokio::time::Instant;

/// Gossip takes its time on a busy machine.
const SOON: Duration = Duration::from_secs(90);

async fn instances(count: usize) -> Vec<Instance> {
    let mut instances = Vec::new();
    for number in 1..=count {
        instances.push(Instance::start(&format!("web-{number}")).await);
    }
    instances
}

/// How many endpoints are in this state.
async fn in_state(sidecar: &Sidecar, state: &str) -> usize {
    sidecar.states("web").await.iter().filter(|(_, other)| other == state).count()
}

/// Four nodes with an instance each; three nodes' agents are killed, their instances go on. Three servers, so that enough
/// are left to agree soon on who is dead.
#[tokio::test]
async fn nodes_that_consul_lost_together_are_kept_while_their_instances_work_and_given_up_in_the_end() {
    let mut cluster = ConsulCluster::start(3, 4).await;
    let instances = instances(4).await;
    for (agent, instance) in cluster.clients.iter().zip(&instances) {
        agent.register(&consul_entry("web", instance.name(), instance.addr(), 1)).await;
    }
    let from = cluster.servers[0].source("web");
    let sidecar =
        Sidecar::start(&format!("[service.web]\nfrom = \"{from}\"\nmass_removal_grace = \"6s\"\n")).await;
    eventually("four usable instances", SOON, async || {
        (in_state(&sidecar, "usable").await == 4).then_some(())
    })
    .await;
    let load = Load::start(sidecar.service("web"), "/", 8, Duration::from_secs(120));
    eventually("all work", SOON, async || (instances[3].count("/").await > 10).then_some(())).await;
    for agent in &mut cluster.clients[..3] {
        agent.kill();
    }
    // Consul finds one after another dead, within a few seconds.
    eventually("three suspects", SOON, async || (in_state(&sidecar, "suspect").await == 3).then_some(()))
        .await;
    let held = Instant::now();
    assert_eq!(sidecar.metric("outrigger_suspect_endpoints{service=\"web\"}").await, 3.0);
    let before = instances[0].count("/").await;
    eventually("a suspect is called", SOON, async || {
        (instances[0].count("/").await > before + 10).then_some(())
    })
    .await;
    eventually("Consul is believed", SOON, async || {
        (in_state(&sidecar, "critical").await == 3).then_some(())
    })
    .await;
    assert!(held.elapsed() > Duration::from_secs(2), "held for {:?}", held.elapsed());
    assert_eq!(in_state(&sidecar, "usable").await, 1);
    let report = load.stop().await;
    assert_eq!(report.errors(), 0, "{report:?}");
}

/// One node of four: its instance is out as soon as Consul says so, whether it works or not.
#[tokio::test]
async fn a_node_that_is_lost_alone_is_out_at_once() {
    let mut cluster = ConsulCluster::start(1, 2).await;
    let instances = instances(2).await;
    for (agent, instance) in cluster.clients.iter().zip(&instances) {
        agent.register(&consul_entry("web", instance.name(), instance.addr(), 1)).await;
    }
    let sidecar =
        Sidecar::start(&format!("[service.web]\nfrom = \"{}\"\n", cluster.servers[0].source("web"))).await;
    eventually("both", SOON, async || (in_state(&sidecar, "usable").await == 2).then_some(())).await;
    for _ in 0..4 {
        assert_eq!(sidecar.get("web", "/").await.status, 200);
    }
    cluster.clients[0].kill();
    eventually("it is out", SOON, async || (in_state(&sidecar, "critical").await == 1).then_some(())).await;
    assert_eq!(events(&sidecar, "endpoint_suspected").await, 0);
}

/// Five instances with a lease each, of which four run out at the same time, as after a pause of all that beat.
async fn leases_run_out_together(binary: &'static str) {
    let cluster = Cluster::start(binary, 1).await;
    let instances = instances(5).await;
    let mut client = cluster.client();
    let mut last = 0;
    for (number, instance) in instances.iter().enumerate() {
        let ttl = if number == 4 { 600 } else { 5 };
        last = client.lease_grant(Duration::from_secs(ttl)).await.unwrap().id;
        let (key, value) = (key("web", instance.name()), etcd_value(instance.addr(), 1));
        etcd::put_leased(&mut client, &key, value, last).await;
    }
    assert_ne!(last, 0);
    let from = format!("etcd://{}/services/web/", cluster.addr(0));
    let sidecar =
        Sidecar::start(&format!("[service.web]\nfrom = \"{from}\"\nmass_removal_grace = \"6s\"\n")).await;
    let load = Load::start(sidecar.service("web"), "/", 8, Duration::from_secs(120));
    eventually("the leases ran out", SOON, async || (in_state(&sidecar, "suspect").await >= 3).then_some(()))
        .await;
    let held = Instant::now();
    let before = instances[0].count("/").await;
    eventually("calls go on", SOON, async || (instances[4].count("/").await > before + 10).then_some(()))
        .await;
    eventually("etcd is believed", SOON, async || (in_state(&sidecar, "suspect").await == 0).then_some(()))
        .await;
    assert!(held.elapsed() > Duration::from_secs(2), "held for {:?}", held.elapsed());
    assert_eq!(in_state(&sidecar, "usable").await, 1);
    let report = load.stop().await;
    assert_eq!(report.errors(), 0, "{report:?}");
}

#[tokio::test]
async fn leases_that_ran_out_together_are_kept_while_their_instances_work_on_etcd_3_4() {
    leases_run_out_together("etcd").await;
}

#[tokio::test]
async fn leases_that_ran_out_together_are_kept_while_their_instances_work_on_etcd_3_5() {
    leases_run_out_together("etcd35").await;
}
