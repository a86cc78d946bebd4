//! What the list holds: addresses of all kinds, checks, maintenance, nonsense.

use super::{HALF_A_SECOND, SOON, are_usable, config, count, told};
use crate::scenarios::{Bounds, Scenario};
use crate::support::consul::{ConsulAgent, service, with_ttl};
use crate::support::registry::{consul_entry, three};
use crate::support::{Instance, Sidecar, client, eventually};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn s01_the_first_list_is_complete_and_nothing_is_ready_before_it() {
    let agent = ConsulAgent::dev().await;
    let at = |name, addr: &str| Instance::at(name, addr.parse().unwrap(), &[]);
    let port = crate::support::free_port();
    let addrs = [format!("127.0.0.1:{port}"), format!("127.0.0.9:{port}"), format!("[::1]:{port}")];
    let instances = tokio::join!(at("of-node", &addrs[0]), at("given", &addrs[1]), at("v6", &addrs[2]));
    agent.register(&service("web", "of-node", port)).await;
    for instance in [&instances.1, &instances.2] {
        agent.register(&consul_entry("web", instance.name(), instance.addr(), 1)).await;
    }
    // A frozen agent: the sidecar waits for its first answer.
    agent.stop();
    let sidecar = Sidecar::launch(&config(&agent.source("web"), "")).await;
    let title = "first list: own, given and IPv6 addresses";
    let mut scenario =
        Scenario::begin(1, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    let ready = client::get(sidecar.admin(), "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("no list of instances yet"), "{}", ready.text());
    agent.cont();
    let there = Instant::now();
    scenario
        .converges("a list", there, Duration::from_secs(1), async || {
            (!sidecar.states("web").await.is_empty()).then_some(())
        })
        .await;
    let usable = |addr: &String| (addr.clone(), "usable".to_owned());
    assert_eq!(sidecar.states("web").await, addrs.iter().map(usable).collect::<Vec<_>>());
    assert_eq!(client::get(sidecar.admin(), "/readyz").await.status, 200);
    scenario.serves(3);
    for instance in [&instances.0, &instances.1, &instances.2] {
        eventually("calls", SOON, async || (instance.count("/").await > 0).then_some(())).await;
    }
    scenario.end().await;
}

#[tokio::test]
async fn s03_checks_and_maintenance_take_out_and_bring_back() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    agent.register_all("web", &instances[..2]).await;
    let mut third = with_ttl(consul_entry("web", "web-3", instances[2].addr(), 8), Duration::from_secs(3600));
    third["Weights"]["Warning"] = json!(3);
    agent.register(&third).await;
    let lenient = format!("[service.lenient]\nfrom = \"{}?health=warning\"\n", agent.source("web"));
    let sidecar = Sidecar::start(&config(&agent.source("web"), &lenient)).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "checks and maintenance, registered again meanwhile";
    let mut scenario =
        Scenario::begin(3, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 2));
    scenario.serves(2);
    let addr = instances[2].addr().to_string();
    let state = async |service: &str| {
        let all = sidecar.states(service).await;
        all.into_iter().find(|(its, _)| *its == addr).map(|(_, state)| state).unwrap_or_default()
    };
    let weight = async || {
        let told = sidecar.api("/api/services/lenient").await;
        let endpoints = told["endpoints"].as_array().unwrap().clone();
        endpoints.iter().find(|e| e["addr"] == addr.as_str()).and_then(|e| e["weight"].as_u64())
    };
    for (status, strictly, leniently, weighs) in [
        ("warn", "critical", "usable", 3),
        ("fail", "critical", "critical", 8),
        ("pass", "usable", "usable", 8),
    ] {
        let since = Instant::now();
        agent.report("web-3", status).await;
        scenario
            .converges(status, since, HALF_A_SECOND, async || {
                let right = state("web").await == strictly && state("lenient").await == leniently;
                (right && weight().await == Some(weighs)).then_some(())
            })
            .await;
    }
    let since = Instant::now();
    agent.service_maintenance("web-3", true).await;
    scenario
        .converges("maintenance", since, HALF_A_SECOND, async || {
            (state("web").await == "critical").then_some(())
        })
        .await;
    agent.register(&third).await;
    tokio::time::sleep(HALF_A_SECOND).await;
    assert_eq!(state("web").await, "critical", "registering again does not end maintenance");
    let since = Instant::now();
    agent.service_maintenance("web-3", false).await;
    scenario.converges("its end", since, HALF_A_SECOND, async || are_usable(&sidecar, 3).await).await;

    // The node's takes out everybody.
    scenario.rests().await;
    let since = Instant::now();
    agent.node_maintenance(true).await;
    scenario
        .converges("maintenance of the node", since, HALF_A_SECOND, async || {
            (count(&sidecar, "critical").await == 3).then_some(())
        })
        .await;
    let since = Instant::now();
    agent.node_maintenance(false).await;
    scenario.converges("its end", since, HALF_A_SECOND, async || are_usable(&sidecar, 3).await).await;
    scenario.serves(3);
    tokio::time::sleep(HALF_A_SECOND).await;
    scenario.end().await;
}

#[tokio::test]
async fn s07_absurd_entries_cost_nothing_but_a_line_each() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    for (id, port) in [("minus", -1), ("zero", 0), ("huge", 70_000)] {
        agent.register(&json!({"Name": "web", "ID": id, "Port": port})).await;
    }
    for (id, address) in [("text", "not an ip"), ("socket", "127.0.0.1:80"), ("brackets", "[::1]")] {
        agent.register(&json!({"Name": "web", "ID": id, "Port": 80, "Address": address})).await;
    }
    agent.register_all("web", &instances[..2]).await;
    let sidecar = Sidecar::start(&config(&agent.source("web"), "")).await;
    let title = "ports and addresses that are none";
    let mut scenario =
        Scenario::begin(7, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    scenario.serves(2);
    assert_eq!(sidecar.metric("outrigger_source_entries_skipped{service=\"web\"}").await, 6.0);
    let mut skipped = told(&sidecar, "entry_skipped").await;
    skipped.sort();
    let entries: Vec<_> = skipped.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(entries, ["brackets", "huge", "minus", "socket", "text", "zero"], "each once");
    assert!(skipped[1].contains("70000"), "{skipped:?}");
    // Another change tells nothing again.
    let since = Instant::now();
    agent.register_all("web", &instances[2..]).await;
    scenario.converges("a third", since, HALF_A_SECOND, async || are_usable(&sidecar, 3).await).await;
    assert_eq!(told(&sidecar, "entry_skipped").await.len(), 6);
    scenario.end().await;
}
