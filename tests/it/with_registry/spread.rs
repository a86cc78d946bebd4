//! How requests spread over three instances that a registry lists.

use crate::support::registry::three;
use crate::support::{Instance, Registry, Sidecar, alone, eventually};
use std::time::Duration;

const REQUESTS: u64 = 3000;
const CLIENTS: u64 = 10;

/// Turns are exact, with and without weights; chance keeps within four standard deviations.
pub async fn requests_spread_as_the_weights_say(registry: Registry) {
    let instances = three().await;
    registry.register_all("alike", &instances).await;
    for (instance, weight) in instances.iter().zip([3, 1, 1]) {
        let id = format!("heavy-{}", instance.name());
        registry.register("heavy", &id, instance.addr(), weight).await;
    }
    let (alike, heavy) = (registry.source("alike"), registry.source("heavy"));
    let service =
        |name, from: &str, balance| format!("[service.{name}]\nfrom = \"{from}\"\nbalance = \"{balance}\"\n");
    let config = [
        service("turns", &alike, "round_robin"),
        service("shares", &heavy, "round_robin"),
        service("dice", &alike, "random"),
        service("loaded-dice", &heavy, "weighted_random"),
    ];
    let _turn = alone().await;
    let sidecar = Sidecar::start(&config.concat()).await;
    for name in ["turns", "shares", "dice", "loaded-dice"] {
        eventually("three usable instances", Duration::from_secs(10), async || {
            (sidecar.states(name).await.len() == 3).then_some(())
        })
        .await;
    }

    assert_eq!(counts(&sidecar, "turns", &instances).await, [1000, 1000, 1000]);
    assert_eq!(counts(&sidecar, "shares", &instances).await, [1800, 600, 600]);
    let dice = counts(&sidecar, "dice", &instances).await;
    let loaded = counts(&sidecar, "loaded-dice", &instances).await;
    for (seen, shares) in [(dice, [1.0 / 3.0; 3]), (loaded, [0.6, 0.2, 0.2])] {
        assert_eq!(seen.iter().sum::<u64>(), REQUESTS);
        for (seen, share) in seen.iter().zip(shares) {
            let (mean, variance) = (3000.0 * share, 3000.0 * share * (1.0 - share));
            let off = (*seen as f64 - mean).abs() / f64::sqrt(variance);
            assert!(off <= 4.0, "{seen} instead of {mean}: {off:.1} standard deviations");
        }
    }
    let by_api = sidecar.api("/api/services/turns").await;
    for endpoint in by_api["endpoints"].as_array().unwrap() {
        assert_eq!((&endpoint["requests"], &endpoint["failures"]), (&1000.into(), &0.into()));
    }
}

/// How many of 3,000 requests, sent by ten clients at once, each instance saw.
async fn counts(sidecar: &Sidecar, service: &str, instances: &[Instance; 3]) -> [u64; 3] {
    let path = format!("/{service}");
    let clients = (0..CLIENTS).map(|_| async {
        let mut client = sidecar.client(service);
        for _ in 0..REQUESTS / CLIENTS {
            let answer = client.get(&path).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    });
    futures_util::future::join_all(clients).await;
    let [a, b, c] = instances;
    [a.count(&path).await, b.count(&path).await, c.count(&path).await]
}
