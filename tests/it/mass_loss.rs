//! Most instances go at once, and nobody meant it: a partition of Consul's gossip, leases in etcd that ran out together.

use crate::support::ConsulCluster;
use crate::support::etcd::{self, Cluster};
use crate::support::registry::{consul_entry, etcd_value, events, key};
use crate::support::{Instance, Load, Sidecar, eventually};
use std::time::Duration;

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
    assert_eq!(sidecar.metric("outrigger_suspect_endpoints{service=\"web\"}").await, 3.0);
    are_called_and_then_given_up(&sidecar, &instances, load).await;
    assert_eq!(in_state(&sidecar, "critical").await, 3);
}

/// Suspects serve on, for the 6 s of their grace; then their registry is believed, and no request has failed.
async fn are_called_and_then_given_up(sidecar: &Sidecar, instances: &[Instance], load: Load) {
    let states = sidecar.states("web").await;
    let (addr, _) = states.into_iter().find(|(_, state)| state == "suspect").expect("a suspect");
    let suspect =
        instances.iter().find(|instance| instance.addr().to_string() == addr).expect("its instance");
    let before = suspect.count("/").await;
    eventually("a suspect is called", SOON, async || (suspect.count("/").await > before + 10).then_some(()))
        .await;
    eventually("the registry is believed", SOON, async || {
        (in_state(sidecar, "suspect").await == 0).then_some(())
    })
    .await;
    let told = sidecar.api("/api/events").await;
    let last = |kinds: &[&str]| {
        let of = |event: &&serde_json::Value| {
            event["endpoint"] == *addr && kinds.contains(&event["kind"].as_str().unwrap_or_default())
        };
        let at = told.as_array().expect("events").iter().rfind(of).expect("an event")["at"].clone();
        humantime::parse_rfc3339(at.as_str().expect("a time")).expect("a time")
    };
    let given_up = last(&["endpoint_changed", "endpoint_removed"]);
    let held = given_up.duration_since(last(&["endpoint_suspected"])).expect("suspected before");
    assert!(held >= Duration::from_millis(5_900), "held for {held:?}");
    assert_eq!(in_state(sidecar, "usable").await, 1);
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
    are_called_and_then_given_up(&sidecar, &instances, load).await;
}

#[tokio::test]
async fn leases_that_ran_out_together_are_kept_while_their_instances_work_on_etcd_3_4() {
    leases_run_out_together("etcd").await;
}

#[tokio::test]
async fn leases_that_ran_out_together_are_kept_while_their_instances_work_on_etcd_3_5() {
    leases_run_out_together("etcd35").await;
}
