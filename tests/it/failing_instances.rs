//! Instances that die, hang and come back while requests run.

use crate::support::web::web;
use crate::support::{Instance, Load, Sidecar, eventually};
use std::time::Duration;
use tokio::time::Instant;

const CHECKS: &str = "[service.web.health]\nhttp = \"/health\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
    unhealthy_interval = \"200ms\"\nunhealthy_interval_max = \"400ms\"";

/// How long each load lasts; `OUTRIGGER_TEST_LOAD_SECONDS` makes it longer.
fn load_time() -> Duration {
    let seconds = std::env::var("OUTRIGGER_TEST_LOAD_SECONDS").map(|text| text.parse().expect("seconds"));
    Duration::from_secs(seconds.unwrap_or(6))
}

async fn three() -> [Instance; 3] {
    [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await]
}

/// Kills one of three under load and starts it again; nobody must notice.
async fn kill_and_restart(rules: &str) {
    let mut instances = three().await;
    let sidecar = Sidecar::start(&web(&instances.each_ref().map(Instance::addr), rules)).await;
    let time = load_time();
    let load = Load::start(sidecar.service("web"), "/", 64, time);
    tokio::time::sleep(time / 4).await;
    assert!(instances[1].count("/").await > 0);
    instances[1].kill();
    tokio::time::sleep(time * 2 / 5).await;
    instances[1].restart().await;
    let report = load.finish().await;
    assert!(report.requests > 100, "{report:?}");
    assert_eq!(report.errors(), 0, "{report:?}\n{}", sidecar.metrics().await);
    eventually("it gets requests again", Duration::from_secs(20), async || {
        sidecar.get("web", "/").await;
        (instances[1].count("/").await > 0).then_some(())
    })
    .await;
    let refused = sidecar.attempted("connect_failed").await;
    assert!(refused > 0 && sidecar.retried("connect_failed").await == refused);
}

#[tokio::test]
async fn a_killed_instance_costs_no_request() {
    kill_and_restart("").await;
}

#[tokio::test]
async fn a_killed_instance_costs_no_request_with_checks_either() {
    kill_and_restart(CHECKS).await;
}

#[tokio::test]
async fn one_that_hangs_is_taken_out_by_its_checks_and_comes_back() {
    let instances = three().await;
    let rules = format!("{CHECKS}\n[service.web.timeouts]\nrequest = \"3s\"");
    let sidecar = Sidecar::start(&web(&instances.each_ref().map(Instance::addr), &rules)).await;
    let state = async || {
        let states = sidecar.states("web").await;
        let addr = instances[1].addr().to_string();
        states.into_iter().find(|(a, _)| *a == addr).expect("it is known").1
    };
    eventually("all are usable", Duration::from_secs(10), async || {
        sidecar.states("web").await.iter().all(|(_, state)| state == "usable").then_some(())
    })
    .await;
    instances[1].stop();
    let mut client = sidecar.client("web");
    // From its first moment on every request is answered, some of them late.
    let begun = Instant::now();
    while state().await != "unhealthy" {
        assert!(begun.elapsed() < Duration::from_secs(15), "three checks are enough");
        assert_eq!(client.get("/hanging").await.unwrap().status, 200);
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..60 {
        let begun = Instant::now();
        let answer = client.get("/out").await.unwrap();
        assert_eq!(answer.status, 200);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_millis(900), "a try there takes a second: {slowest:?}");
    let retried = sidecar.retried("timeout").await;
    instances[1].cont();
    eventually("it is usable again", Duration::from_secs(30), async || {
        (state().await == "usable").then_some(())
    })
    .await;
    for _ in 0..9 {
        assert_eq!(client.get("/back").await.unwrap().status, 200);
    }
    assert!(instances[1].count("/back").await >= 2);
    assert_eq!(sidecar.retried("timeout").await, retried);
    assert_eq!(instances[1].count("/out").await, 0);
}
