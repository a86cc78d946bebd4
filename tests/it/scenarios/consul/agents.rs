//! One agent that dies, forgets, freezes or comes back.

use crate::scenarios::{Bounds, Scenario};
use crate::support::consul::ConsulAgent;
use crate::support::registry::{source, three};
use crate::support::{Registry, Sidecar};
use std::time::Duration;
use tokio::time::Instant;

/// How long an agent stays away; 20 s would teach no more.
const AWAY: Duration = Duration::from_secs(5);

#[tokio::test]
async fn s08_an_agent_is_killed_and_comes_back_with_its_data() {
    let mut registry = Registry::consul_with_data().await;
    let instances = three().await;
    registry.register_all("web", &instances).await;
    let from = registry.source("web");
    let sidecar =
        Sidecar::start(&format!("[consul]\nwait = \"3s\"\n[service.web]\nfrom = \"{from}\"\n")).await;
    let Registry::Consul(agent) = &registry else { unreachable!() };
    let bounds = Bounds::consul([agent.port()], 1);
    let mut scenario =
        Scenario::begin(8, "agent SIGKILLed, back with its data", ConsulAgent::VERSION, &sidecar, bounds);
    scenario.serves(3);
    registry.kill();
    tokio::time::sleep(AWAY).await;
    assert_eq!(source(&sidecar, "web").await["state"], "stale");
    registry.restart().await;
    let back = Instant::now();
    scenario
        .converges("a live source", back, Duration::from_secs(12), async || {
            (source(&sidecar, "web").await["state"] == "live").then_some(())
        })
        .await;
    scenario.end().await;
}
