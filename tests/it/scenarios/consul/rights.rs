//! Tokens that are missing, unknown, too weak or taken away; questions that cannot be asked.

use super::{SOON, are_usable, config, is_live, is_stale, questions, told};
use crate::scenarios::{Bounds, Scenario};
use crate::support::consul::ConsulAgent;
use crate::support::registry::{source, three, write};
use crate::support::{Sidecar, client, eventually};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SERVICES: &str = "service_prefix \"\" { policy = \"read\" }";
const BOTH: &str = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }";
const TWO: Duration = Duration::from_secs(2);

#[tokio::test]
async fn s16_at_the_start_a_missing_right_is_named() {
    let agent = ConsulAgent::dev_with_acls().await;
    let instances = three().await;
    agent.register_all("web", &instances).await;
    let (good, half) = (agent.token("good", BOTH).await, agent.token("half", SERVICES).await);
    let folder = tempfile::tempdir().unwrap();
    for (name, token) in
        [("good", &*good), ("half", &half), ("unknown", "00000000-1111-2222-3333-444444444444")]
    {
        write(folder.path(), name, token);
    }
    let with = |service: &str, query: &str| {
        format!("[service.{service}]\nfrom = \"{}{query}\"\n", agent.source("web"))
    };
    let more =
        [with("tokenless", ""), with("half", "?token_file=half"), with("unknown", "?token_file=unknown")];
    let from = format!("{}?token_file=good", agent.source("web"));
    let sidecar = Sidecar::launch_in(folder, &config(&from, &more.concat()), |_| {}).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "ACLs: no token, unknown token, no node:read";
    let mut scenario =
        Scenario::begin(16, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 4));
    scenario.serves(3);
    let ready = client::get(sidecar.admin(), "/readyz").await;
    assert_eq!(ready.status, 503);
    let error = eventually("an error", SOON, async || {
        source(&sidecar, "unknown").await["last_error"].as_str().map(ToOwned::to_owned)
    })
    .await;
    for part in ["403", "ACL not found", "token needs service:read on \"web\" and node:read"] {
        assert!(error.contains(part), "{error}");
    }
    let hints = eventually("two hints", SOON, async || {
        Some(told(&sidecar, "source_doubted").await).filter(|hints| hints.len() == 2)
    })
    .await;
    for hint in &hints {
        assert!(hint.contains("no instances or no permission") && hint.contains("node:read"), "{hint}");
    }
    assert_eq!(hints.iter().filter(|hint| hint.contains("no token is given")).count(), 1, "{hints:?}");
    let ready = client::get(sidecar.admin(), "/readyz").await.text();
    assert!(ready.contains("tokenless: 0 known, 0 usable; ") && ready.contains("no permission"), "{ready}");
    let asked = questions(&sidecar, "unknown").await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(questions(&sidecar, "unknown").await, asked, "once in 30 s");
    assert_eq!(told(&sidecar, "source_doubted").await.len(), 2, "each once");

    for name in ["unknown", "half"] {
        let since = Instant::now();
        write(sidecar.folder(), name, &good);
        let what = format!("{name} mended");
        scenario
            .converges(&what, since, TWO, async || (sidecar.states(name).await.len() == 3).then_some(()))
            .await;
    }
    scenario.end().await;
}

#[tokio::test]
#[ignore = "slow: graces and retries have to pass"]
async fn s16_a_right_that_is_taken_away_empties_nothing() {
    let agent = ConsulAgent::dev_with_acls().await;
    let instances = three().await;
    agent.register_all("web", &instances).await;
    let (doomed, good) = (agent.token("doomed", BOTH).await, agent.token("good", BOTH).await);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "token", &doomed);
    let from = format!("{}?token_file=token", agent.source("web"));
    let rules = "empty_grace = \"3s\"\nwatch.refused_retry = \"3s\"\n";
    let sidecar = Sidecar::launch_in(folder, &config(&from, rules), |_| {}).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "ACLs: token deleted, policy narrowed, both mended";
    let mut scenario =
        Scenario::begin(16, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    scenario.serves(3);
    sleep(TWO).await;
    let wait = Duration::from_millis(3188);

    let accessor = agent.accessor(&doomed).await;
    agent.request("DELETE", &format!("/v1/acl/token/{accessor}"), Value::Null).await.unwrap();
    let since = Instant::now();
    let error = scenario.converges("denied", since, wait + TWO, async || is_stale(&sidecar).await).await;
    assert!(error.contains("ACL not found"), "{error}");
    sleep(Duration::from_secs(5)).await;
    let since = Instant::now();
    write(sidecar.folder(), "token", &good);
    scenario.converges("a new token file", since, TWO, async || is_live(&sidecar).await).await;

    // Narrowed, Consul 1.8 answers 200 and an empty list with the index as it was.
    sleep(TWO).await;
    let policy = agent.policy("good").await;
    let rules = async |rules: &str| {
        let body = json!({"Name": "good", "Rules": rules});
        agent.put(&format!("/v1/acl/policy/{policy}"), body).await;
    };
    rules(SERVICES).await;
    let since = Instant::now();
    let error = scenario.converges("denied", since, wait + TWO, async || is_stale(&sidecar).await).await;
    assert!(error.contains("hide every instance") && error.contains("node:read"), "{error}");
    let asked = questions(&sidecar, "web").await;
    // Longer than the grace of a doubtful answer, and the index moves by what is hidden.
    agent.register(&crate::support::consul::service("web", "hidden", 9)).await;
    agent.deregister("hidden").await;
    sleep(Duration::from_secs(7)).await;
    let asked = questions(&sidecar, "web").await - asked;
    assert!((1..=3).contains(&asked), "{asked} questions in 7 s");
    assert!(are_usable(&sidecar, 3).await.is_some(), "{:?}", sidecar.states("web").await);
    rules(BOTH).await;
    let since = Instant::now();
    scenario
        .converges("the policy mended", since, Duration::from_secs(6), async || is_live(&sidecar).await)
        .await;
    scenario.end().await;
}

#[tokio::test]
async fn s17_a_question_that_cannot_be_asked_is_told_in_consuls_words() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    agent.register_all("web", &instances).await;
    let with = |service: &str, query: &str| {
        format!("[service.{service}]\nfrom = \"{}?{query}\"\n", agent.source("web"))
    };
    let more = with("filter", "filter=Nope%20%3D%3D%201") + &with("far", "dc=nope");
    let sidecar = Sidecar::launch(&config(&agent.source("web"), &more)).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "a filter that is none, a datacenter that is none";
    let mut scenario =
        Scenario::begin(17, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 3));
    scenario.serves(3);
    let since = Instant::now();
    for (service, words) in [("filter", "Selector \"Nope\" is not valid"), ("far", "No path to datacenter")] {
        scenario
            .converges(service, since, TWO, async || {
                let told = source(&sidecar, service).await;
                told["last_error"].as_str().filter(|error| error.contains(words)).map(|_| ())
            })
            .await;
    }
    let ready = client::get(sidecar.admin(), "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("Selector \"Nope\" is not valid"), "{}", ready.text());
    sleep(Duration::from_secs(3)).await;
    for service in ["filter", "far"] {
        assert_eq!(questions(&sidecar, service).await, 1, "{service}: once in 30 s");
    }
    let url = format!("{}?dc=nope", agent.source("web"));
    let output = crate::commands::outrigger(&["endpoints", &url]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("No path to datacenter"), "{stderr}");
    scenario.end().await;
}
