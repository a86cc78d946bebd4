//! An agent that dies, forgets, freezes or comes back, and its deputy.

use super::{HALF_A_SECOND, SOON, are_usable, config, count, is_live, is_stale, position, told};
use crate::scenarios::{Bounds, Scenario};
use crate::support::consul::{ConsulAgent, with_ttl};
use crate::support::registry::{consul_entry, three};
use crate::support::{ConsulCluster, Instance, Sidecar, eventually};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a killed agent stays away.
const AWAY: Duration = Duration::from_secs(4);
const TWO: Duration = Duration::from_secs(2);
const TWELVE: Duration = Duration::from_secs(12);
/// A frozen agent is given up after the wait of 3 s, a sixteenth of it, and 15 s.
const PATIENCE: Duration = Duration::from_millis(3000 + 188 + 15_000 + 500);

/// Three running instances, an agent that lists them, a sidecar that knows them.
async fn world(agent: &ConsulAgent, rules: &str) -> ([Instance; 3], Sidecar) {
    let instances = three().await;
    agent.register_all("web", &instances).await;
    let sidecar = Sidecar::start(&config(&agent.source("web"), rules)).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    (instances, sidecar)
}

#[tokio::test]
#[ignore = "slow: an outage"]
async fn s08_an_agent_is_killed_and_comes_back_with_its_data() {
    let mut agent = ConsulAgent::with_data().await;
    let (_instances, sidecar) = world(&agent, "").await;
    let before = agent.health_queries("web").len();
    let title = "agent SIGKILLed, back with its data";
    let mut scenario =
        Scenario::begin(8, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    scenario.serves(3);
    agent.kill();
    sleep(3 * AWAY).await;
    assert!(is_stale(&sidecar).await.is_some());
    agent.restart().await;
    let back = Instant::now();
    scenario.converges("a live source", back, TWELVE, async || is_live(&sidecar).await).await;
    let first = agent.health_queries("web")[before..].first().cloned().unwrap();
    assert!(!first.contains("index="), "begins anew: {first}");
    let fourth = Instance::start("web-4").await;
    sleep(HALF_A_SECOND).await;
    let since = Instant::now();
    agent.register_all("web", std::slice::from_ref(&fourth)).await;
    scenario.converges("a fourth", since, HALF_A_SECOND, async || are_usable(&sidecar, 4).await).await;
    scenario.end().await;
}

#[tokio::test]
async fn s09_an_agent_that_forgot_everything_is_told_it_again() {
    let mut agent = ConsulAgent::dev().await;
    let (instances, sidecar) = world(&agent, "empty_grace = \"10s\"\n").await;
    let title = "agent back without its data, registered again";
    let mut scenario =
        Scenario::begin(9, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    scenario.serves(3);
    for instance in &instances {
        agent.register(&consul_entry("web", instance.name(), instance.addr(), 2)).await;
    }
    sleep(HALF_A_SECOND).await;
    let old = position(&sidecar).await;
    agent.kill();
    agent.restart().await;
    eventually("suspects", SOON, async || (count(&sidecar, "suspect").await == 3).then_some(())).await;
    sleep(TWO).await;
    let since = Instant::now();
    agent.register_all("web", &instances).await;
    // While nobody is listed the agent is asked once a second.
    let limit = Duration::from_millis(1500);
    scenario.converges("all back", since, limit, async || are_usable(&sidecar, 3).await).await;
    assert!(position(&sidecar).await < old, "the new history's index");
    let fourth = Instance::start("web-4").await;
    sleep(HALF_A_SECOND).await;
    let since = Instant::now();
    agent.register_all("web", std::slice::from_ref(&fourth)).await;
    scenario.converges("a fourth", since, HALF_A_SECOND, async || are_usable(&sidecar, 4).await).await;
    let since = Instant::now();
    agent.deregister("web-4").await;
    scenario.converges("and no fourth", since, HALF_A_SECOND, async || are_usable(&sidecar, 3).await).await;
    scenario.end().await;
}

#[tokio::test]
#[ignore = "slow: a grace that runs out"]
async fn s09_an_agent_that_forgot_everything_is_believed_in_the_end() {
    let mut agent = ConsulAgent::dev().await;
    let (_instances, sidecar) = world(&agent, "empty_grace = \"6s\"\n").await;
    let title = "agent back without its data, nobody registers";
    let mut scenario =
        Scenario::begin(9, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    scenario.serves(3);
    agent.kill();
    agent.restart().await;
    eventually("suspects", SOON, async || (count(&sidecar, "suspect").await == 3).then_some(())).await;
    let since = Instant::now();
    // A second less, for the way of the suspicion until it was seen.
    sleep(Duration::from_secs(5)).await;
    scenario.rests().await;
    let limit = Duration::from_secs(9);
    scenario.converges("believed", since, limit, async || are_usable(&sidecar, 0).await).await;
    assert_eq!(told(&sidecar, "endpoint_suspected").await.len(), 3);
    assert_eq!(told(&sidecar, "endpoint_removed").await.len(), 3);
    scenario.end().await;
}

#[tokio::test]
#[ignore = "slow: a deadline has to pass"]
async fn s10_a_frozen_agent_is_shown_and_heard_at_once_when_it_goes_on() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    agent.register_all("web", &instances[..2]).await;
    // Overdue while the agent is frozen, so critical as soon as it goes on: the change meanwhile.
    let third = consul_entry("web", "web-3", instances[2].addr(), 1);
    agent.register(&with_ttl(third, Duration::from_secs(15))).await;
    let sidecar = Sidecar::start(&config(&agent.source("web"), "")).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "agent SIGSTOPped, a change meanwhile, SIGCONT";
    let mut scenario =
        Scenario::begin(10, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    scenario.serves(3);
    agent.stop();
    let since = Instant::now();
    let error = scenario.converges("stale", since, PATIENCE, async || is_stale(&sidecar).await).await;
    assert!(error.contains("no whole answer within"), "{error}");
    sleep(since + Duration::from_secs(25) - Instant::now()).await;
    assert!(is_stale(&sidecar).await.is_some());
    scenario.holds(2);
    agent.cont();
    let since = Instant::now();
    scenario.converges("live", since, TWO, async || is_live(&sidecar).await).await;
    // The agent takes its own time, up to some seconds, until its catalog knows.
    eventually("the change in the catalog", SOON, async || {
        let checks = agent.request("GET", "/v1/health/checks/web", serde_json::Value::Null).await.ok()?;
        checks.contains("critical").then_some(())
    })
    .await;
    let since = Instant::now();
    scenario
        .converges("the change", since, HALF_A_SECOND, async || {
            (count(&sidecar, "critical").await == 1).then_some(())
        })
        .await;
    scenario.end().await;
}

#[tokio::test]
#[ignore = "slow: a deadline has to pass"]
async fn s11_the_deputy_takes_over_without_an_index() {
    let mut cluster = ConsulCluster::start(1, 2).await;
    let instances = three().await;
    cluster.servers[0].register_all("web", &instances).await;
    let ports = [cluster.clients[0].port(), cluster.clients[1].port()];
    let config = format!(
        "[consul]\nwait = \"3s\"\nreread = \"6s\"\naddress = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"]\n\
         [service.web]\nfrom = \"consul:web\"\n",
        ports[0], ports[1]
    );
    let sidecar = Sidecar::start(&config).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "two agents, the one in use SIGKILLed, later SIGSTOPped";
    let mut scenario = Scenario::begin(11, title, ConsulAgent::VERSION, &sidecar, Bounds::consul(ports, 1));
    scenario.serves(3);
    let asked = async |agent: &ConsulAgent, from: usize| agent.health_queries("web").get(from).cloned();
    sleep(TWO).await;
    assert_eq!(asked(&cluster.clients[1], 0).await, None, "nobody needs it yet");

    cluster.clients[0].kill();
    let since = Instant::now();
    let first =
        scenario.converges("the deputy", since, TWO, async || asked(&cluster.clients[1], 0).await).await;
    assert!(!first.contains("index="), "{first}");
    scenario.converges("a live source", since, TWO, async || is_live(&sidecar).await).await;

    // The preferred one is taken back when all is read again.
    let before = cluster.clients[0].health_queries("web").len();
    cluster.clients[0].restart().await;
    let back = Duration::from_millis(7200 + 3200 + 3000);
    let since = Instant::now();
    scenario
        .converges("taken back", since, back, async || {
            // Not only looked at.
            asked(&cluster.clients[0], before + 1).await
        })
        .await;
    let before = cluster.clients[1].health_queries("web").len();
    cluster.clients[0].stop();
    let since = Instant::now();
    let first = scenario
        .converges("the deputy again", since, PATIENCE + TWO, async || {
            asked(&cluster.clients[1], before).await
        })
        .await;
    assert!(!first.contains("index="), "{first}");
    scenario.converges("live", since, PATIENCE + TWO, async || is_live(&sidecar).await).await;
    cluster.clients[0].cont();
    scenario.end().await;
}
