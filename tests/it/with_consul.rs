//! The sidecar with real Consul agents and real instances.

use crate::support::consul::{ConsulAgent, service, with_ttl};
use crate::support::registry::{source, states, three, write};
use crate::support::{Registry, Sidecar, eventually};
use crate::with_registry::all_hold_with;
use crate::with_registry::outages::{Memory, no_request_fails_while_the_registry_is_gone};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

all_hold_with!(registry, Registry::consul());

#[tokio::test]
async fn no_request_fails_while_an_agent_that_remembers_is_gone() {
    let registry = Registry::consul_with_data().await;
    no_request_fails_while_the_registry_is_gone(registry, Memory::Kept).await;
}

#[tokio::test]
async fn no_request_fails_while_an_agent_that_forgets_is_gone() {
    let registry = Registry::consul().await;
    no_request_fails_while_the_registry_is_gone(registry, Memory::Lost).await;
}

/// The new agent counts from the beginning: to whoever asks with the old index it would say nothing for a whole wait.
#[tokio::test]
async fn an_agent_that_restarts_between_two_questions_is_noticed() {
    let mut registry = Registry::consul().await;
    let instances = three().await;
    registry.register_all("web", &instances).await;
    let from = registry.source("web");
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{from}\"\n")).await;
    // Too soon after the first answer for another question.
    registry.restart_empty().await;
    eventually("suspects", Duration::from_secs(10), async || {
        (states(&sidecar, "web").await == ["suspect"; 3]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_instance_whose_check_is_critical_gets_nothing() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    for instance in &instances {
        let entry = service("web", instance.name(), instance.addr().port());
        agent.register(&with_ttl(entry, Duration::from_secs(3600))).await;
    }
    let config = format!("[service.web]\nfrom = \"consul://127.0.0.1:{}/web\"\n", agent.port());
    let sidecar = Sidecar::start(&config).await;
    agent.report("web-1", "fail").await;
    let critical = (instances[0].addr().to_string(), "critical".to_owned());
    eventually("critical", SOON, async || sidecar.states("web").await.contains(&critical).then_some(()))
        .await;
    for _ in 0..30 {
        let answer = sidecar.get("web", "/critical").await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.instance(), "web-1");
    }
    assert_eq!(instances[0].count("/critical").await, 0);
    let told = sidecar.api("/api/services/web").await.to_string();
    assert!(told.contains("registry: check service:web-1 critical"), "{told}");

    agent.report("web-1", "pass").await;
    eventually("all usable", SOON, async || (states(&sidecar, "web").await == ["usable"; 3]).then_some(()))
        .await;
    for _ in 0..3 {
        assert_eq!(sidecar.get("web", "/well").await.status, 200);
    }
    assert_eq!(instances[0].count("/well").await, 1);
}

#[tokio::test]
async fn a_token_is_read_from_its_file_and_a_wrong_one_is_told() {
    let agent = ConsulAgent::dev_with_acls().await;
    let instances = three().await;
    agent.register(&service("web", "web-1", instances[0].addr().port())).await;
    let rules = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }";
    let good = agent.token("good", rules).await;
    let wrong = "00000000-1111-2222-3333-444444444444";
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "good", &format!("{good}\n"));
    write(folder.path(), "wrong", wrong);
    let address = format!("http://127.0.0.1:{}", agent.port());
    let config = format!(
        "[consul]\naddress = \"{address}\"\ntoken_file = \"good\"\n[service.right]\nfrom = \"consul:web\"\n\
         [service.wrong]\nfrom = \"consul:web?token_file=wrong\"\n"
    );
    let path = folder.path().join("wrong");
    let sidecar = Sidecar::launch_in(folder, &config, |_| {}).await;
    eventually("an instance", SOON, async || (states(&sidecar, "right").await == ["usable"]).then_some(()))
        .await;
    assert_eq!(sidecar.get("right", "/").await.instance(), "web-1");
    let error = eventually("an error", SOON, async || {
        source(&sidecar, "wrong").await["last_error"].as_str().map(ToOwned::to_owned)
    })
    .await;
    for part in ["403", "ACL not found", "token needs service:read on \"web\" and node:read"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(source(&sidecar, "wrong").await["state"], "error");
    for shown in [sidecar.log(), sidecar.api("/api/services").await.to_string(), sidecar.metrics().await] {
        assert!(!shown.contains(wrong) && !shown.contains(&good), "{shown}");
    }

    let url = format!("consul://127.0.0.1:{}/web?token_file={}", agent.port(), path.display());
    let output = crate::commands::outrigger(&["endpoints", &url]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("ACL not found") && stderr.contains("node:read"), "{stderr}");
    assert!(!stderr.contains(wrong), "{stderr}");
}
