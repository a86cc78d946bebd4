//! Three servers that lose their leader or their majority; the sidecar asks a client agent.

use super::{HALF_A_SECOND, SOON, are_usable, config, is_live, is_stale, questions};
use crate::scenarios::{Bounds, Scenario};
use crate::support::consul::ConsulAgent;
use crate::support::registry::{source, three};
use crate::support::{ConsulCluster, Instance, Sidecar, eventually};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const TWELVE: Duration = Duration::from_secs(12);

#[tokio::test]
#[ignore = "slow: a cluster and its elections"]
async fn s12_the_leader_is_killed_then_another_one_freezes() {
    let mut cluster = ConsulCluster::start(3, 1).await;
    let instances = three().await;
    cluster.clients[0].register_all("web", &instances).await;
    let sidecar = Sidecar::start(&config(&cluster.clients[0].source("web"), "")).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let fourth = Instance::start("web-4").await;
    let title = "3 servers: leader SIGKILLed; another leader SIGSTOPped";
    let bounds = Bounds::consul([cluster.clients[0].port()], 1);
    let mut scenario = Scenario::begin(12, title, ConsulAgent::VERSION, &sidecar, bounds);
    scenario.serves(3);
    let (asked, killed) = (questions(&sidecar, "web").await, Instant::now());
    let leader = cluster.leader(None).await;
    cluster.servers[leader].kill();
    let next = cluster.leader(Some(leader)).await;
    let elected = Instant::now();
    // On a node of its own and by the leader: an agent that talks to a frozen server cannot change anything itself.
    let service =
        json!({"ID": "web-4", "Service": "web", "Address": "127.0.0.1", "Port": fourth.addr().port()});
    let entry = json!({"Node": "n9", "Address": "127.0.0.9", "Service": service});
    cluster.servers[next].put("/v1/catalog/register", entry).await;
    scenario.converges("a fourth", elected, TWELVE, async || are_usable(&sidecar, 4).await).await;
    scenario.converges("a live source", elected, TWELVE, async || is_live(&sidecar).await).await;
    sleep((killed + Duration::from_secs(15)).saturating_duration_since(Instant::now())).await;
    let asked = questions(&sidecar, "web").await - asked;
    scenario.note(format!("{asked} polls in {:.1} s", killed.elapsed().as_secs_f64()));
    assert!(asked <= 30, "{asked} polls in {:?}", killed.elapsed());

    cluster.servers[leader].restart().await;
    let frozen = cluster.leader(None).await;
    cluster.servers[frozen].stop();
    let next = cluster.leader(Some(frozen)).await;
    let elected = Instant::now();
    let entry = json!({"Node": "n9", "ServiceID": "web-4"});
    cluster.servers[next].put("/v1/catalog/deregister", entry).await;
    // If it was the one that the agent talks to, our query ends at its deadline, 18 s after its begin.
    let limit = 2 * TWELVE;
    scenario.converges("no fourth", elected, limit, async || are_usable(&sidecar, 3).await).await;
    scenario.converges("a live source", elected, limit, async || is_live(&sidecar).await).await;
    cluster.servers[frozen].cont();
    scenario.end().await;
}

#[tokio::test]
#[ignore = "slow: a cluster and its elections"]
async fn s13_the_majority_is_lost_and_comes_back() {
    let mut cluster = ConsulCluster::start(3, 1).await;
    let instances = three().await;
    cluster.clients[0].register_all("web", &instances).await;
    let stale = format!("[service.relaxed]\nfrom = \"{}?stale=true\"\n", cluster.clients[0].source("web"));
    let sidecar = Sidecar::start(&config(&cluster.clients[0].source("web"), &stale)).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    // The server that is left is to know of all of them: it hears of the newest with the leader's next word only.
    for server in &cluster.servers {
        let known = async || server.get("/v1/health/service/web?stale").await.as_array().map_or(0, Vec::len);
        eventually("each server knows all", SOON, async || (known().await == 3).then_some(())).await;
    }
    eventually("all", SOON, async || (sidecar.states("relaxed").await.len() == 3).then_some(())).await;
    let title = "3 servers: majority SIGKILLed and back; also in stale mode";
    let bounds = Bounds::consul([cluster.clients[0].port()], 2);
    let mut scenario = Scenario::begin(13, title, ConsulAgent::VERSION, &sidecar, bounds);
    scenario.serves(3);
    let leader = cluster.leader(None).await;
    let other = (leader + 1) % 3;
    cluster.servers[leader].kill();
    cluster.servers[other].kill();
    let lost = Instant::now();
    eventually("no leader is shown", SOON, async || {
        is_stale(&sidecar).await.filter(|error| error.contains("No cluster leader"))
    })
    .await;
    let relaxed = async |state: &str| {
        let told = source(&sidecar, "relaxed").await;
        (told["state"] == state).then_some(told)
    };
    // Any server may answer, also one without a leader; it says how old its news is.
    let doubted = async || super::told(&sidecar, "source_doubted").await.pop();
    let hint = eventually("the age of the news", SOON, async || doubted().await).await;
    assert!(hint.contains("heard a leader"), "{hint}");
    sleep((lost + Duration::from_secs(20)).saturating_duration_since(Instant::now())).await;
    eventually("stale reads", SOON, async || relaxed("live").await).await;
    let states = sidecar.states("relaxed").await;
    assert!(states.len() == 3 && states.iter().all(|(_, state)| state == "usable"), "{states:?}");
    cluster.servers[leader].launch();
    cluster.servers[other].launch();
    cluster.leader(None).await;
    let back = Instant::now();
    scenario.converges("a live source", back, TWELVE, async || is_live(&sidecar).await).await;
    scenario.converges("the other too", back, TWELVE, async || relaxed("live").await).await;
    let fourth = Instance::start("web-4").await;
    sleep(HALF_A_SECOND).await;
    let since = Instant::now();
    cluster.clients[0].register_all("web", std::slice::from_ref(&fourth)).await;
    // The agent's own way to the servers may still back off.
    scenario.converges("a fourth", since, TWELVE, async || are_usable(&sidecar, 4).await).await;
    scenario.end().await;
}
