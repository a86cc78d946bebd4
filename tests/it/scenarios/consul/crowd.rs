//! Many watches of one agent.

use super::{SOON, are_usable, config, is_live};
use crate::scenarios::{Bounds, Scenario};
use crate::support::consul::{ConsulAgent, service};
use crate::support::registry::three;
use crate::support::{Sidecar, eventually};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// With `web`, 150; Consul allows 200 connections of one client.
const OTHERS: usize = 149;

#[tokio::test]
#[ignore = "slow: five outages"]
async fn s18_many_watches_outlive_an_agent_that_dies_again_and_again() {
    let mut agent = ConsulAgent::with_data().await;
    let instances = three().await;
    agent.register_all("web", &instances).await;
    let mut others = String::new();
    for n in 0..OTHERS {
        let name = format!("other-{n}");
        agent.register(&service(&name, &name, 9)).await;
        let _ = write!(others, "[service.{name}]\nfrom = \"{}\"\n", agent.source(&name));
    }
    let sidecar = Sidecar::launch(&config(&agent.source("web"), &others)).await;
    let live = async || {
        let told = sidecar.api("/api/services").await;
        let live = |service: &&serde_json::Value| service["sources"][0]["state"] == "live";
        (told.as_array()?.iter().filter(live).count() == 1 + OTHERS).then_some(())
    };
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    eventually("all others", SOON, async || live().await).await;
    let title = "150 watches, agent killed and restarted 5 times";
    // A hundred and fifty sources that fail at once are worth more than a twentieth of a core for a moment.
    let bounds = Bounds::consul([agent.port()], 1 + OTHERS).busy();
    let mut scenario = Scenario::begin(18, title, ConsulAgent::VERSION, &sidecar, bounds);
    scenario.serves(3);
    for _ in 0..5 {
        agent.kill();
        sleep(Duration::from_secs(1)).await;
        agent.restart().await;
    }
    let since = Instant::now();
    let limit = Duration::from_secs(15);
    scenario.converges("all in sync", since, limit, async || live().await).await;
    scenario.converges("web too", since, limit, async || is_live(&sidecar).await).await;
    scenario.end().await;
}
