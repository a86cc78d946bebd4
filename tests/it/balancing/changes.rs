//! What a change of the list does, and what it leaves alone.

use super::{addrs, ask, counts, instances};
use crate::support::client::{self, Client};
use crate::support::web::list;
use crate::support::{Sidecar, eventually};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(10);

/// A sidecar over `web.toml` in its folder, ready. One worker: one pool of connections.
async fn over_a_file(endpoints: &[(SocketAddr, u16)], rules: &str) -> Sidecar {
    let folder: TempDir = tempfile::tempdir().unwrap();
    list(folder.path(), "web.toml", endpoints);
    let config = format!("workers = 1\n[service.web]\nfrom = \"file:web.toml\"\n{rules}");
    let mut sidecar = Sidecar::launch_in(folder, &config, |_| {}).await;
    sidecar.ready(SOON).await;
    sidecar
}

/// What `/api/services/web` tells of an endpoint.
async fn told(sidecar: &Sidecar, addr: SocketAddr) -> Option<Value> {
    let service = sidecar.api("/api/services/web").await;
    let endpoints = service["endpoints"].as_array().unwrap();
    endpoints.iter().find(|endpoint| endpoint["addr"] == addr.to_string()).cloned()
}

async fn in_state(sidecar: &Sidecar, addr: SocketAddr, state: &str) {
    eventually(&format!("{addr} is {state}"), SOON, async || {
        told(sidecar, addr).await.filter(|endpoint| endpoint["state"] == state)
    })
    .await;
}

/// Which connection each instance sees, by instance; asks often enough to meet them all.
async fn connections(client: &mut Client, instances: usize) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    for _ in 0..instances * 4 {
        let answer = client.get("/connection").await.unwrap();
        assert_eq!(answer.status, 200);
        seen.push((answer.instance().to_owned(), answer.header("x-connection").unwrap().to_owned()));
    }
    seen.sort();
    seen.dedup();
    seen
}

#[tokio::test]
async fn a_removed_instance_gets_nothing_new_and_finishes_what_runs() {
    let instances = instances(2).await;
    let [a, b] = addrs(&instances)[..] else { unreachable!() };
    let sidecar = over_a_file(&[(a, 1)], "").await;
    let service = sidecar.service("web");
    let running = client::get(service, "/slow-body/150");
    let remove = async {
        eventually("the slow answer has begun", SOON, async || {
            (told(&sidecar, a).await?["in_flight"] == 1).then_some(())
        })
        .await;
        list(sidecar.folder(), "web.toml", &[(b, 1)]);
        in_state(&sidecar, a, "draining").await;
        let before = counts(&instances, "/").await;
        ask(&sidecar, "web", "/", 2, 20).await;
        assert_eq!(counts(&instances, "/").await, [before[0], before[1] + 40]);
        assert_eq!(told(&sidecar, a).await.unwrap()["in_flight"], 1, "it still runs");
    };
    let (answer, ()) = tokio::join!(running, remove);
    assert_eq!(answer.text(), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    eventually("the drained one is forgotten", SOON, async || {
        told(&sidecar, a).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_outlives_the_drain_time_is_cut() {
    let instances = instances(2).await;
    let [a, b] = addrs(&instances)[..] else { unreachable!() };
    let sidecar = over_a_file(&[(a, 1)], "[service.web.timeouts]\ndrain = \"300ms\"").await;
    let running = client::try_get(sidecar.service("web"), "/slow-body/3000");
    let remove = async {
        eventually("the slow answer has begun", SOON, async || {
            (told(&sidecar, a).await?["in_flight"] == 1).then_some(())
        })
        .await;
        list(sidecar.folder(), "web.toml", &[(b, 1)]);
    };
    let begun = tokio::time::Instant::now();
    let (answer, ()) = tokio::join!(running, remove);
    assert!(answer.is_err(), "an answer that was cut looks whole: {answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(15), "the whole answer takes 27 s");
}

#[tokio::test]
async fn a_changed_weight_keeps_statistics_and_connections_and_takes_effect() {
    let instances = instances(2).await;
    let [a, b] = addrs(&instances)[..] else { unreachable!() };
    let sidecar = over_a_file(&[(a, 1), (b, 1)], "").await;
    let mut client = sidecar.client("web");
    let before = connections(&mut client, 2).await;
    assert_eq!(before.len(), 2, "one each: {before:?}");
    let since = told(&sidecar, a).await.unwrap()["since"].clone();

    list(sidecar.folder(), "web.toml", &[(a, 3), (b, 1)]);
    eventually("the new weight", SOON, async || (told(&sidecar, a).await?["weight"] == 3).then_some(()))
        .await;
    let endpoint = told(&sidecar, a).await.unwrap();
    assert_eq!((&endpoint["requests"], &endpoint["since"]), (&4.into(), &since));
    assert_eq!(connections(&mut client, 2).await, before, "the same connections");
    ask(&sidecar, "web", "/weighted", 1, 400).await;
    assert_eq!(counts(&instances, "/weighted").await, [300, 100]);
}

#[tokio::test]
async fn only_a_changed_endpoint_loses_its_connections() {
    let instances = instances(3).await;
    let [a, b, c] = addrs(&instances)[..] else { unreachable!() };
    let sidecar = over_a_file(&[(a, 1), (b, 1)], "").await;
    let mut client = sidecar.client("web");
    let before = connections(&mut client, 2).await;
    list(sidecar.folder(), "web.toml", &[(a, 1), (c, 1)]);
    in_state(&sidecar, c, "usable").await;
    let between = connections(&mut client, 2).await;
    assert_eq!(between[0], before[0], "a's connection");
    // Its connections are looked through every half second.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    list(sidecar.folder(), "web.toml", &[(a, 1), (b, 1), (c, 1)]);
    in_state(&sidecar, b, "usable").await;
    let after = connections(&mut client, 3).await;
    assert_eq!((&after[0], &after[2]), (&between[0], &between[1]), "a's and c's");
    assert_ne!(after[1], before[1], "b is a stranger now");
    assert_eq!(told(&sidecar, b).await.unwrap()["requests"], 4, "its statistics too begin anew");
}
