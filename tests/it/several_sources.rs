//! A service with several sources: a move from Consul to etcd under load, and fallback.

use crate::support::registry::{events, states, three};
use crate::support::{Instance, Load, Registry, Sidecar, eventually};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

async fn both() -> (Registry, Registry) {
    tokio::join!(Registry::consul(), Registry::etcd("etcd35"))
}

fn config(first: &Registry, second: &Registry, mode: &str) -> String {
    let (first, second) = (first.source("web"), second.source("web"));
    format!(
        "[service.web]\nfrom = [\"{first}\", \"{second}\"]\nmode = \"{mode}\"\nwatch.backoff_cap = \"1s\"\n"
    )
}

/// The sources' states, in their order.
async fn links(sidecar: &Sidecar) -> Vec<String> {
    let service = sidecar.api("/api/services/web").await;
    let sources = service["sources"].as_array().unwrap().iter();
    sources.map(|source| source["state"].as_str().unwrap().to_owned()).collect()
}

/// Calls that each instance has had.
async fn calls(instances: &[Instance]) -> Vec<u64> {
    let mut calls = Vec::new();
    for instance in instances {
        calls.push(instance.count("/").await);
    }
    calls
}

/// The instances are in Consul; they register in etcd too; they leave Consul; Consul is shut down.
async fn a_team_moves(mode: &str, leaves_one_by_one: bool) {
    let (mut consul, etcd) = both().await;
    let instances = three().await;
    consul.register_all("web", &instances).await;
    let sidecar = Sidecar::start(&config(&consul, &etcd, mode)).await;
    let load = Load::start(sidecar.service("web"), "/", 32, Duration::from_secs(120));
    eventually("the load runs", SOON, async || (instances[0].count("/").await > 100).then_some(())).await;

    etcd.register_all("web", &instances).await;
    eventually("etcd lists them", SOON, async || {
        (sidecar.api("/api/services/web").await["sources"][1]["listed"] == 3).then_some(())
    })
    .await;
    if leaves_one_by_one {
        for instance in &instances {
            consul.deregister("web", instance.name()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        eventually("etcd's word counts", SOON, async || {
            let service = sidecar.api("/api/services/web").await;
            let endpoints = service["endpoints"].as_array().unwrap();
            let from_etcd =
                |endpoint: &serde_json::Value| endpoint["source"].as_str().unwrap().starts_with("etcd");
            (endpoints.len() == 3 && endpoints.iter().all(from_etcd)).then_some(())
        })
        .await;
    }
    consul.kill();
    eventually("Consul is stale", SOON, async || (links(&sidecar).await == ["stale", "live"]).then_some(()))
        .await;
    let before = calls(&instances).await;
    eventually("all three are called", SOON, async || {
        let now = calls(&instances).await;
        now.iter().zip(&before).all(|(now, before)| now > before).then_some(())
    })
    .await;
    // From now on etcd alone decides.
    let fourth = Instance::start("web-4").await;
    etcd.register("web", "web-4", fourth.addr(), 1).await;
    if leaves_one_by_one || mode == "union" {
        eventually("the fourth is called", SOON, async || (fourth.count("/").await > 0).then_some(())).await;
    }
    let report = load.stop().await;
    assert_eq!(report.errors(), 0, "{report:?}");
    assert!(report.requests > 100, "{report:?}");
    if leaves_one_by_one {
        assert_eq!(events(&sidecar, "endpoint_removed").await, 0, "an instance is itself under either name");
    }
}

#[tokio::test]
async fn a_team_moves_from_consul_to_etcd_in_a_union_without_a_failed_request() {
    a_team_moves("union", true).await;
}

#[tokio::test]
async fn a_team_moves_from_consul_to_etcd_by_failover_without_a_failed_request() {
    a_team_moves("failover", true).await;
}

#[tokio::test]
async fn a_registry_that_is_shut_down_before_anybody_left_it_costs_no_request_either() {
    a_team_moves("union", false).await;
}

#[tokio::test]
async fn the_second_source_serves_while_the_first_has_nothing_and_steps_back() {
    let (consul, etcd) = both().await;
    let [one, two, _] = three().await;
    etcd.register("web", "far", two.addr(), 1).await;
    let sidecar = Sidecar::start(&config(&consul, &etcd, "failover")).await;
    assert_eq!(sidecar.get("web", "/").await.instance(), "web-2");
    consul.register("web", "near", one.addr(), 1).await;
    eventually("the first serves", SOON, async || {
        (sidecar.get("web", "/").await.instance() == "web-1").then_some(())
    })
    .await;
    let mut shown = states(&sidecar, "web").await;
    shown.sort();
    assert_eq!(shown, ["standby", "usable"]);
    let far = two.count("/").await;
    for _ in 0..10 {
        assert_eq!(sidecar.get("web", "/").await.instance(), "web-1");
    }
    assert_eq!(two.count("/").await, far, "who stands by gets nothing");
    consul.deregister("web", "near").await;
    eventually("the second serves again", SOON, async || {
        let answer = sidecar.get("web", "/").await;
        assert_eq!(answer.status, 200, "nobody goes without");
        (answer.instance() == "web-2").then_some(())
    })
    .await;
    assert!(events(&sidecar, "source_selected").await >= 3, "{}", sidecar.log());
}

#[tokio::test]
async fn a_dead_registry_beside_a_living_one_is_shown_and_harms_nobody() {
    let (mut consul, etcd) = both().await;
    consul.kill();
    let instances = three().await;
    etcd.register_all("web", &instances).await;
    for mode in ["failover", "union"] {
        let sidecar = Sidecar::start(&config(&consul, &etcd, mode)).await;
        assert_eq!(links(&sidecar).await, ["error", "live"], "{mode}");
        assert_eq!(sidecar.get("web", "/").await.status, 200);
        assert_eq!(sidecar.metric("outrigger_source_up{service=\"web\"}").await, 1.0);
    }
}
