//! Indexes that go back, and states that do.

use super::{SOON, are_usable, config, count, is_live, is_stale, position};
use crate::scenarios::{Bounds, Scenario};
use crate::support::consul::ConsulAgent;
use crate::support::registry::three;
use crate::support::{Instance, Line, Scripted, Sidecar, eventually, server_binary};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The health API's answer that lists these instances.
pub(super) fn list(instances: &[Instance]) -> String {
    let entry = |instance: &Instance| {
        let service = json!({"ID": instance.name(), "Service": "web", "Port": instance.addr().port()});
        json!({"Node": {"Node": "n1", "Address": "127.0.0.1"}, "Service": service, "Checks": []})
    };
    instances.iter().map(entry).collect::<Value>().to_string()
}

#[tokio::test]
async fn s14_an_index_that_lies_hides_nothing_and_makes_no_busy_loop() {
    let instances = three().await;
    let body = list(&instances);
    let without = Line::http(200, "X-Consul-KnownLeader: true\r\n", &body);
    let registry = Scripted::start(vec![Line::good(100, &body), Line::good(100, &body)]).await;
    let sidecar = Sidecar::start(&config(&format!("consul://{}/web", registry.addr()), "")).await;
    let title = "500 and 403 with an index; 100, 50, 0, none; early answers for ever";
    let bounds = Bounds::consul([registry.addr().port()], 1).busy();
    let mut scenario = Scenario::begin(14, title, "scripted", &sidecar, bounds);
    scenario.serves(3);
    // Early answers with the same index, for ever: every other one is read without an index.
    sleep(Duration::from_secs(3)).await;
    let asked = registry.asked();
    assert!(asked.len() <= 10 * 4, "{} polls", asked.len());
    assert_eq!(asked[..4], [None, Some(100), None, Some(100)]);

    let one = "X-Consul-Index: 1\r\n";
    let before = asked.len();
    registry.goes_on(vec![
        Line::http(500, one, "No cluster leader"),
        Line::good(100, &body),
        Line::good(50, &body),
        Line::good(50, &body),
        Line::good(0, &body),
        without.clone(),
        without,
    ]);
    let since = Instant::now();
    let limit = Duration::from_secs(5);
    scenario
        .converges("index 1", since, limit, async || {
            (position_or_none(&sidecar).await != Some(100)).then_some(())
        })
        .await;
    eventually("the whole script", SOON, async || (registry.asked().len() > before + 9).then_some(())).await;
    let asked = &registry.asked()[before..];
    assert!(!asked.contains(&Some(0)), "0 would be no hold: {asked:?}");
    assert!(asked.contains(&Some(1)), "none counts as 1: {asked:?}");
    let after_error = asked.iter().position(Option::is_none);
    assert!(after_error.is_some_and(|at| at <= 2), "never the index of an error: {asked:?}");

    registry.goes_on(vec![Line::http(403, one, "ACL not found")]);
    let error = eventually("denied", SOON, async || is_stale(&sidecar).await).await;
    assert!(error.contains("ACL not found") && error.contains("node:read"), "{error}");
    let asked = registry.asked().len();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(registry.asked().len(), asked, "not before 30 s are over");
    scenario.end().await;
}

async fn position_or_none(sidecar: &Sidecar) -> Option<u64> {
    crate::support::registry::source(sidecar, "web").await["position"].as_u64()
}

#[tokio::test]
async fn s15_an_older_state_that_was_restored_is_seen_at_once() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    agent.register_all("web", &instances[..1]).await;
    let folder = tempfile::tempdir().unwrap();
    let snapshot = |verb: &str| {
        let mut command = Command::new(server_binary("consul"));
        command.args(["snapshot", verb, "-http-addr", agent.url().as_str().trim_end_matches('/')]);
        let output = command.arg(folder.path().join("snapshot")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    snapshot("save");
    for instance in &instances[1..] {
        // Beside the agent, so that its own repair does not interfere.
        let (id, port) = (instance.name(), instance.addr().port());
        let service = json!({"ID": id, "Service": "web", "Port": port, "Address": "127.0.0.1"});
        let body = json!({"Node": "n2", "Address": "127.0.0.2", "Service": service});
        agent.put("/v1/catalog/register", body).await;
    }
    let sidecar = Sidecar::start(&config(&agent.source("web"), "empty_grace = \"3s\"\n")).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "snapshot restored, two of three are lost";
    let mut scenario =
        Scenario::begin(15, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    scenario.serves(3);
    sleep(Duration::from_secs(1)).await;
    let since = Instant::now();
    snapshot("restore");
    scenario
        .converges("suspects", since, Duration::from_secs(2), async || {
            (count(&sidecar, "suspect").await == 2).then_some(())
        })
        .await;
    scenario.holds(1);
    let limit = Duration::from_secs(3 + 3);
    scenario.converges("believed", since, limit, async || are_usable(&sidecar, 1).await).await;
    assert!(since.elapsed() > Duration::from_millis(2500), "held first");
    assert!(position(&sidecar).await > 0 && is_live(&sidecar).await.is_some());
    scenario.end().await;
}
