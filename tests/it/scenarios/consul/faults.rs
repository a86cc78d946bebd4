//! Answers that break, stall, swell or never come.

use super::memory::list;
use super::{SOON, are_usable, config, is_live, is_stale};
use crate::scenarios::{Bounds, Scenario};
use crate::support::registry::three;
use crate::support::{Line, Scripted, Sidecar, eventually};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// For an answer that begins and does not end: the deadline of a plain read, and a little.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
#[ignore = "slow: deadlines have to pass"]
async fn s20_whatever_comes_instead_of_an_answer_costs_nothing() {
    let instances = three().await;
    let body = list(&instances);
    let good = Line::good(40, &body);
    let half = {
        let mut bytes = good.clone().bytes();
        bytes.truncate(bytes.len() - 20);
        bytes
    };
    let huge = {
        let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Consul-Index: 41\r\n\r\n[".to_vec();
        bytes.resize(200 << 20, b' ');
        bytes
    };
    let faults = [
        ("cut", Line::Says(half.clone()), "broke off"),
        ("no JSON", Line::good(41, "<html>hello</html>"), "no list of instances"),
        ("200 MiB", Line::Says(huge), "larger than 64 MiB"),
        ("a reset", Line::Resets, "broke off"),
        ("too many", Line::http(429, "", "Your IP is issuing too many concurrent connections"), "429"),
        ("stalled", Line::Stalls(half.clone()), "no whole answer within"),
        ("a slow drip", Line::Drips(half), "no whole answer within"),
    ];
    let registry = Scripted::start(vec![good.clone()]).await;
    // No faster than a real wait, so that one fault follows the other.
    let sidecar = Sidecar::start(&config(&format!("consul://{}/web", registry.addr()), "")).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "answers cut, stalled, dripping, huge, no JSON, reset, 429";
    let bounds = Bounds::consul([registry.addr().port()], 1).busy();
    let mut scenario = Scenario::begin(20, title, "scripted", &sidecar, bounds);
    scenario.serves(3);
    for (what, fault, words) in faults {
        registry.goes_on(vec![fault]);
        let since = Instant::now();
        let error = scenario.converges(what, since, PATIENCE, async || is_stale(&sidecar).await).await;
        assert!(error.contains(words), "{what}: {error}");
        registry.goes_on(vec![good.clone()]);
        eventually("well again", SOON + PATIENCE, async || is_live(&sidecar).await).await;
    }
    assert!(sidecar.rss_kib() < 250 * 1024, "{} KiB", sidecar.rss_kib());

    // On and on: the gaps grow to the cap, by chance.
    registry.goes_on(vec![Line::http(429, "", "Your IP is issuing too many concurrent connections")]);
    eventually("stale", SOON, async || is_stale(&sidecar).await).await;
    let from = registry.requests().len() - 1;
    sleep(Duration::from_secs(45)).await;
    let times: Vec<_> = registry.requests()[from..].iter().map(|(at, _)| *at).collect();
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((6..=45).contains(&gaps.len()), "{gaps:?}");
    let early = gaps.iter().take(3).max().unwrap();
    let late = gaps.iter().skip(5).max().expect("late gaps");
    assert!(*early <= Duration::from_millis(1200) && *late > *early, "{gaps:?}");
    assert!(*late <= Duration::from_secs(11), "{gaps:?}");
    scenario.note(format!("{} polls in 45 s of 429", gaps.len() + 1));
    scenario.end().await;
}
