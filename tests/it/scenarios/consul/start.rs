//! A sidecar that is there before its registry, and a clock that jumps.

use super::{HALF_A_SECOND, SOON, are_usable, config, questions};
use crate::scenarios::{Bounds, Scenario};
use crate::support::consul::ConsulAgent;
use crate::support::registry::three;
use crate::support::{Instance, Sidecar, client, eventually};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};

#[tokio::test]
#[ignore = "slow: an outage"]
async fn s21_a_sidecar_that_starts_before_consul_waits_for_it() {
    let mut agent = ConsulAgent::with_data().await;
    let instances = three().await;
    agent.register_all("web", &instances).await;
    agent.kill();
    let sidecar = Sidecar::launch(&config(&agent.source("web"), "")).await;
    let title = "started while Consul is down";
    let mut scenario =
        Scenario::begin(21, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    sleep(Duration::from_secs(8)).await;
    let ready = client::get(sidecar.admin(), "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("refused"), "{}", ready.text());
    agent.restart().await;
    let up = Instant::now();
    scenario
        .converges("ready", up, Duration::from_secs(12), async || {
            (client::get(sidecar.admin(), "/readyz").await.status == 200).then_some(())
        })
        .await;
    scenario.serves(3);
    sleep(HALF_A_SECOND).await;
    scenario.end().await;
}

/// The library of Debian's package `faketime`.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("/usr/lib").flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    libraries
        .into_iter()
        .find(|library| library.exists())
        .expect("faketime is missing: install it, or call tests/run")
}

#[tokio::test]
async fn s21_a_clock_that_jumps_changes_nothing() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    agent.register_all("web", &instances).await;
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let sidecar = Sidecar::launch_in(folder, &config(&agent.source("web"), ""), |command| {
        command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", &clock);
        // Whoever sets a clock does not move the monotonic one.
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    })
    .await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "the clock jumps an hour on, two back, and home";
    let mut scenario =
        Scenario::begin(21, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1).busy());
    scenario.serves(3);
    // Into the middle of a hold.
    sleep(Duration::from_secs(4)).await;
    let (asked, began) = (questions(&sidecar, "web").await, Instant::now());
    let fourth = Instance::start("web-4").await;
    for offset in ["+3600", "-3600", "+0"] {
        std::fs::write(sidecar.folder().join("clock"), offset).unwrap();
        sleep(HALF_A_SECOND).await;
        let since = Instant::now();
        agent.register_all("web", std::slice::from_ref(&fourth)).await;
        scenario.converges(offset, since, HALF_A_SECOND, async || are_usable(&sidecar, 4).await).await;
        let told = sidecar.api("/api/events").await;
        let at = told.as_array().unwrap().last().unwrap()["at"].as_str().unwrap().to_owned();
        let at = humantime::parse_rfc3339_weak(&at).expect("a time");
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        let moved = at.duration_since(long_ago).expect("later").as_secs_f64() - 7200.0;
        let wanted: f64 = offset.parse().unwrap();
        assert!((moved - wanted).abs() < 60.0, "the clock has not moved by {offset} but {moved}");
        let since = Instant::now();
        agent.deregister("web-4").await;
        scenario.converges(offset, since, HALF_A_SECOND, async || are_usable(&sidecar, 3).await).await;
    }
    let asked = questions(&sidecar, "web").await - asked;
    let seconds = began.elapsed().as_secs_f64();
    assert!(asked as f64 <= 12.0 + seconds, "{asked} questions in {seconds:.1} s");
    scenario.end().await;
}
