//! A sidecar that starts while its registry is down serves from what an earlier run left on disk.

use crate::support::registry::{events, states, three};
use crate::support::{Registry, Sidecar, eventually};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

/// A configuration that remembers in `folder`; `more` is TOML that begins inside `[service.web]`.
fn config(registry: &Registry, folder: &Path, more: &str) -> String {
    let from = registry.source("web");
    format!("[snapshot]\nfolder = \"{}\"\n[service.web]\nfrom = \"{from}\"\n{more}\n", folder.display())
}

fn file(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("web.snapshot")
}

async fn endpoints(sidecar: &Sidecar) -> Vec<Value> {
    sidecar.api("/api/services/web").await["endpoints"].as_array().unwrap().clone()
}

/// The detail of the last event of a kind.
async fn told(sidecar: &Sidecar, kind: &str) -> String {
    let all = sidecar.api("/api/events").await;
    let last = all.as_array().unwrap().iter().rfind(|event| event["kind"] == kind).cloned();
    last.map(|event| event["detail"].as_str().unwrap().to_owned()).unwrap_or_default()
}

/// A first run that has seen three instances, and has been killed without a word.
async fn seen_and_killed(registry: &Registry, folder: &TempDir, more: &str) {
    let mut first = Sidecar::start(&config(registry, folder.path(), more)).await;
    eventually("three instances on disk", SOON, async || {
        let text = std::fs::read_to_string(file(folder)).ok()?;
        (text.matches("\"addr\"").count() == 3).then_some(())
    })
    .await;
    first.kill();
}

async fn serves_without_its_registry(mut registry: Registry) {
    let (instances, folder) = (three().await, tempfile::tempdir().unwrap());
    registry.register_all("web", &instances).await;
    seen_and_killed(&registry, &folder, "").await;
    registry.kill();
    let mut sidecar = Sidecar::launch(&config(&registry, folder.path(), "")).await;
    // Held for a second, while the registry might answer, and then served.
    let mut client = sidecar.client("web");
    for _ in 0..30 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    sidecar.ready(SOON).await;
    assert_eq!(
        (states(&sidecar, "web").await, events(&sidecar, "snapshot_used").await),
        (vec!["usable".to_owned(); 3], 1)
    );
    assert!(
        told(&sidecar, "snapshot_used").await.starts_with("3 of "),
        "{}",
        told(&sidecar, "snapshot_used").await
    );
    for endpoint in endpoints(&sidecar).await {
        assert_eq!(endpoint["provenance"], "snapshot", "{endpoint}");
        assert!(
            endpoint["age_seconds"].as_f64().is_some_and(|age| (0.0..300.0).contains(&age)),
            "{endpoint}"
        );
    }
    // The registry comes back, and one of the three has left it meanwhile.
    registry.restart().await;
    registry.deregister("web", "web-3").await;
    eventually("two, on the registry's own word", SOON, async || {
        let all = endpoints(&sidecar).await;
        (all.len() == 2 && all.iter().all(|endpoint| endpoint["provenance"] == "live")).then_some(())
    })
    .await;
    assert_eq!(client.get("/").await.unwrap().status, 200);
}

#[tokio::test]
async fn it_serves_without_consul() {
    serves_without_its_registry(Registry::consul_with_data().await).await;
}

#[tokio::test]
async fn it_serves_without_etcd() {
    serves_without_its_registry(Registry::etcd("etcd35").await).await;
}

#[tokio::test]
async fn with_checks_only_what_passes_is_served() {
    let (mut instances, folder) = (three().await, tempfile::tempdir().unwrap());
    let mut registry = Registry::consul().await;
    registry.register_all("web", &instances).await;
    let check = "[service.web.health]\nhttp = \"/health\"\ninterval = \"200ms\"\ntimeout = \"150ms\"";
    seen_and_killed(&registry, &folder, check).await;
    registry.kill();
    instances[1].kill();
    let mut sidecar = Sidecar::launch(&config(&registry, folder.path(), check)).await;
    sidecar.ready(SOON).await;
    let gone = instances[1].name().to_owned();
    for _ in 0..30 {
        let answer = sidecar.get("web", "/").await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.instance(), gone);
    }
    assert_eq!(sidecar.attempted("connect_failed").await, 0, "the dead one was never tried");
}

#[tokio::test]
async fn a_consul_that_forgot_everything_meanwhile_does_not_empty_it() {
    let (instances, folder) = (three().await, tempfile::tempdir().unwrap());
    let mut registry = Registry::consul().await;
    registry.register_all("web", &instances).await;
    seen_and_killed(&registry, &folder, "").await;
    registry.restart_empty().await;
    let mut sidecar = Sidecar::launch(&config(&registry, folder.path(), "empty_grace = \"4s\"")).await;
    sidecar.ready(SOON).await;
    assert_eq!(states(&sidecar, "web").await, ["suspect"; 3]);
    assert_eq!(sidecar.get("web", "/").await.status, 200);
    eventually("the registry is believed in the end", SOON, async || {
        (states(&sidecar, "web").await.iter().all(|state| state == "draining")).then_some(())
    })
    .await;
    assert_eq!(sidecar.get("web", "/").await.status, 503);
}

#[tokio::test]
async fn a_useless_file_is_refused_with_a_sentence_and_nothing_else_happens() {
    let (instances, folder) = (three().await, tempfile::tempdir().unwrap());
    let mut registry = Registry::etcd("etcd").await;
    registry.register_all("web", &instances).await;
    seen_and_killed(&registry, &folder, "").await;
    let whole = std::fs::read(file(&folder)).unwrap();
    registry.kill();
    let half = whole[..whole.len() / 2].to_vec();
    let mut spoilt = whole.clone();
    *spoilt.last_mut().unwrap() ^= 0x20;
    let cases: [(&[u8], &str, &str); 4] = [
        (&half, "1h", "is cut off or spoilt"),
        (&spoilt, "1h", "its checksum is wrong"),
        (b"endpoints = []\n", "1h", "is no snapshot of this version of Outrigger"),
        (&whole, "1s", "more than 1s (snapshot.max_age)"),
    ];
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for (bytes, max_age, sentence) in cases {
        std::fs::write(file(&folder), bytes).unwrap();
        let aged = format!("max_age = \"{max_age}\"\n[service.web]");
        let config = config(&registry, folder.path(), "").replace("[service.web]", &aged);
        let sidecar = Sidecar::launch(&config).await;
        let detail = told(&sidecar, "snapshot_refused").await;
        assert!(detail.contains(sentence) && detail.contains("web.snapshot"), "{sentence}: {detail}");
        assert!(states(&sidecar, "web").await.is_empty());
    }
    // Of another source: the registry has moved.
    std::fs::write(file(&folder), &whole).unwrap();
    let moved = config(&registry, folder.path(), "").replace("/services/web/", "/elsewhere/web/");
    let sidecar = Sidecar::launch(&moved).await;
    assert!(told(&sidecar, "snapshot_refused").await.contains("no source of this service any more"));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_and_does_no_harm() {
    let registry = Registry::etcd("etcd35").await;
    let instances = three().await;
    registry.register_all("web", &instances).await;
    let sidecar = Sidecar::start(&config(&registry, Path::new("/proc/nowhere"), "")).await;
    let detail = told(&sidecar, "snapshot_refused").await;
    assert!(detail.starts_with("snapshot.folder: nothing can be written to /proc/nowhere"), "{detail}");
    assert_eq!(sidecar.get("web", "/").await.status, 200);
}

#[tokio::test]
async fn the_state_directory_of_the_service_manager_is_used() {
    let (instances, folder) = (three().await, tempfile::tempdir().unwrap());
    let registry = Registry::etcd("etcd35").await;
    registry.register_all("web", &instances).await;
    let plain = format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"));
    let state = folder.path().join("state");
    let mut sidecar = Sidecar::launch_in(tempfile::tempdir().unwrap(), &plain, |command| {
        command.env("STATE_DIRECTORY", format!("{}:/elsewhere", state.display()));
    })
    .await;
    sidecar.ready(SOON).await;
    sidecar.stop().await;
    let text = std::fs::read_to_string(state.join("web.snapshot")).unwrap();
    assert_eq!(
        text.matches("\"addr\"").count(),
        3,
        "also when it stops before the pause between writes is over"
    );
}
