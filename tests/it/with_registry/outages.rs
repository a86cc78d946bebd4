//! Load while the registry dies, comes back, forgets.

use crate::support::registry::{events, source, states, three};
use crate::support::{Instance, Load, Registry, Sidecar, alone, eventually};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

/// What the registry knows when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Kept,
    /// Nothing; the instances register themselves again after a few seconds.
    Lost,
}

/// Half of `OUTRIGGER_TEST_LOAD_SECONDS` (default 8), at least 3 s.
fn outage() -> Duration {
    let seconds = std::env::var("OUTRIGGER_TEST_LOAD_SECONDS").map(|text| text.parse().expect("seconds"));
    Duration::from_secs_f64(f64::max(seconds.unwrap_or(8.0) / 2.0, 3.0))
}

pub async fn no_request_fails_while_the_registry_is_gone(mut registry: Registry, memory: Memory) {
    let instances = three().await;
    registry.register_all("web", &instances).await;
    let _turn = alone().await;
    // The default, 30s, would only make the test longer.
    let watch = "[service.web.watch]\nbackoff_cap = \"2s\"\n";
    let from = registry.source("web");
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{from}\"\n{watch}")).await;
    eventually("three instances", SOON, async || (states(&sidecar, "web").await.len() == 3).then_some(()))
        .await;
    let mut load = Load::start(sidecar.service("web"), "/", 64, Duration::from_secs(120));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(source(&sidecar, "web").await["state"], "live");

    let died = Instant::now();
    let questions_before = source(&sidecar, "web").await["questions"].as_u64().unwrap();
    registry.kill();
    eventually("a stale source", SOON, async || {
        (source(&sidecar, "web").await["state"] == "stale").then_some(())
    })
    .await;
    sleep(outage().saturating_sub(died.elapsed())).await;
    let told = source(&sidecar, "web").await;
    assert_eq!(told["state"], "stale");
    assert!(told["age_seconds"].as_f64().unwrap() > outage().as_secs_f64() - 0.5, "{told}");
    assert!(told["last_error"].as_str().is_some_and(|error| !error.is_empty()), "{told}");
    assert_eq!(states(&sidecar, "web").await, ["usable"; 3]);
    assert_eq!(sidecar.metric("outrigger_source_up{service=\"web\"}").await, 0.0);

    match memory {
        Memory::Kept => registry.restart().await,
        Memory::Lost => registry.restart_empty().await,
    }
    let back = Instant::now();
    if memory == Memory::Lost {
        sleep(Duration::from_secs(3)).await;
        registry.register_all("web", &instances).await;
    }
    eventually("a live source and three usable instances", SOON, async || {
        let live = source(&sidecar, "web").await["state"] == "live";
        (live && states(&sidecar, "web").await == ["usable"; 3]).then_some(())
    })
    .await;
    let seconds = died.elapsed().as_secs_f64();
    let asked = source(&sidecar, "web").await["questions"].as_u64().unwrap() - questions_before;
    eprintln!("live {:?} after its return; {asked} questions in {seconds:.1} s", back.elapsed());
    assert!((asked as f64) < 10.0 * seconds, "a busy loop: {asked} questions in {seconds:.1} s");

    changes_are_seen_again(&registry, &sidecar).await;
    assert!(load.is_running());
    let report = load.stop().await;
    assert_eq!(report.errors(), 0, "{report:?}");
    assert!(report.requests > 1000, "{report:?}");
    assert_eq!(sidecar.metric("outrigger_source_up{service=\"web\"}").await, 1.0);
    assert_eq!(events(&sidecar, "source_failing").await, 1);
    assert_eq!(events(&sidecar, "source_recovered").await, 1);
    assert_eq!(events(&sidecar, "task_panicked").await, 0);
    registry_is_left_alone(&registry).await;
}

/// A fourth instance comes and goes under load.
async fn changes_are_seen_again(registry: &Registry, sidecar: &Sidecar) {
    let fourth = Instance::start("web-4").await;
    registry.register("web", "web-4", fourth.addr(), 1).await;
    eventually("calls to the fourth", SOON, async || (fourth.count("/").await > 0).then_some(())).await;
    registry.deregister("web", "web-4").await;
    eventually("three again", SOON, async || (states(sidecar, "web").await == ["usable"; 3]).then_some(()))
        .await;
    let seen = fourth.count("/").await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(fourth.count("/").await, seen, "calls after its deregistration");
}

/// While nothing changes, hardly anything is asked: a held query or an open watch waits.
async fn registry_is_left_alone(registry: &Registry) {
    let before = registry.requests().await;
    sleep(Duration::from_secs(2)).await;
    let asked = registry.requests().await - before;
    assert!(asked <= 6, "{asked} requests to the registry in 2 s without a change");
}

/// The endpoints are kept as suspects for about `empty_grace`, and then the registry is believed.
pub async fn a_registry_that_forgot_everything_is_believed_in_the_end(mut registry: Registry) {
    let instances = three().await;
    registry.register_all("web", &instances).await;
    let from = registry.source("web");
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{from}\"\nempty_grace = \"3s\"\n")).await;
    eventually("three instances", SOON, async || (states(&sidecar, "web").await.len() == 3).then_some(()))
        .await;
    registry.kill();
    eventually("a stale source", SOON, async || {
        (source(&sidecar, "web").await["state"] == "stale").then_some(())
    })
    .await;
    registry.restart_empty().await;
    let all = |state: &'static str| {
        let sidecar = &sidecar;
        async move || (states(sidecar, "web").await == [state; 3]).then_some(())
    };
    eventually("three suspects", SOON, all("suspect")).await;
    let suspected = Instant::now();
    assert_eq!(sidecar.metric("outrigger_suspect_endpoints{service=\"web\"}").await, 3.0);
    let mut calls = 0;
    let gone = loop {
        let answer = sidecar.get("web", "/").await;
        if answer.status != 200 {
            break answer;
        }
        calls += 1;
        assert!(suspected.elapsed() < Duration::from_secs(20), "still served");
        sleep(Duration::from_millis(20)).await;
    };
    let kept = suspected.elapsed().as_secs_f64();
    assert!(calls > 20 && (2.5..8.0).contains(&kept), "{calls} calls, kept for {kept:.1} s");
    assert_eq!(gone.status, 503);
    let facts = gone.header("x-outrigger-error").unwrap_or_default();
    assert!(facts.starts_with("no_endpoints; service=web; known=0; usable=0; source_age="), "{facts}");
    assert_eq!(events(&sidecar, "source_failing").await, 1);
    assert_eq!(events(&sidecar, "source_recovered").await, 1);
    assert_eq!(events(&sidecar, "endpoint_suspected").await, 3);
    assert_eq!(events(&sidecar, "endpoint_removed").await, 3);

    registry.register("web", "web-1", instances[0].addr(), 1).await;
    eventually("served again", SOON, async || (sidecar.get("web", "/").await.status == 200).then_some(()))
        .await;
}
