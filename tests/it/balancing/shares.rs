//! The shares that each algorithm promises.

use super::{addrs, ask, counts, instances};
use crate::support::client::Client;
use crate::support::web::{list, service, web};
use crate::support::{Instance, Sidecar};
use std::collections::BTreeMap;
use std::time::Duration;

#[tokio::test]
async fn round_robin_is_exact_over_one_connection_and_over_eight() {
    let instances = instances(3).await;
    let sidecar = Sidecar::start(&("workers = 2\n".to_owned() + &web(&addrs(&instances), ""))).await;
    ask(&sidecar, "web", "/one", 1, 3_000).await;
    assert_eq!(counts(&instances, "/one").await, [1_000, 1_000, 1_000]);
    ask(&sidecar, "web", "/eight", 8, 375).await;
    assert_eq!(counts(&instances, "/eight").await, [1_000, 1_000, 1_000]);
}

#[tokio::test]
async fn weights_are_met_exactly() {
    let instances = instances(3).await;
    let [a, b, c] = addrs(&instances)[..] else { unreachable!() };
    let config = format!(
        "workers = 2\n[service.fixed]\nfrom = \"static://{a},{b},{c}?weights=3,1,1\"\n\
         [service.file]\nfrom = \"file:web.toml\""
    );
    let folder = tempfile::tempdir().unwrap();
    list(folder.path(), "web.toml", &[(a, 30), (b, 10), (c, 10)]);
    let mut sidecar = Sidecar::launch_in(folder, &config, |_| {}).await;
    sidecar.ready(Duration::from_secs(10)).await;
    ask(&sidecar, "fixed", "/fixed", 1, 3_000).await;
    assert_eq!(counts(&instances, "/fixed").await, [1_800, 600, 600]);
    ask(&sidecar, "file", "/file", 8, 375).await;
    assert_eq!(counts(&instances, "/file").await, [1_800, 600, 600]);
}

/// Four standard deviations of a binomial count: passed by 15,000 of 15,001 fair dice.
fn assert_near(counts: &[u64], shares: &[f64]) {
    let total = counts.iter().sum::<u64>() as f64;
    for (count, share) in counts.iter().zip(shares) {
        let deviation = (total * share * (1.0 - share)).sqrt();
        assert!((*count as f64 - total * share).abs() <= 4.0 * deviation, "{counts:?} instead of {shares:?}");
    }
}

#[tokio::test]
async fn chance_keeps_to_its_shares() {
    let instances = instances(3).await;
    let [a, b, c] = addrs(&instances)[..] else { unreachable!() };
    let service = |name| {
        format!("[service.{name}]\nfrom = \"static://{a},{b},{c}?weights=3,1,1\"\nbalance = \"{name}\"\n")
    };
    let sidecar = Sidecar::start(&(service("random") + &service("weighted_random"))).await;
    ask(&sidecar, "random", "/random", 4, 750).await;
    assert_near(&counts(&instances, "/random").await, &[1.0 / 3.0; 3]);
    ask(&sidecar, "weighted_random", "/weighted", 4, 750).await;
    assert_near(&counts(&instances, "/weighted").await, &[0.6, 0.2, 0.2]);
}

#[tokio::test]
async fn least_request_keeps_away_from_a_slow_instance() {
    let mut instances = instances(2).await;
    instances.push(Instance::with_flags("slow", &["--delay", "100"]).await);
    let sidecar = Sidecar::start(&web(&addrs(&instances), "balance = \"least_request\"")).await;
    ask(&sidecar, "web", "/", 8, 50).await;
    let counts = counts(&instances, "/").await;
    assert_eq!(counts.iter().sum::<u64>(), 400);
    assert!(counts[2] < 80, "a third would be 133: {counts:?}");
    assert!(counts[0] > 100 && counts[1] > 100, "{counts:?}");
}

#[tokio::test]
async fn weight_0_gets_nothing_from_any_algorithm() {
    let instances = instances(3).await;
    let [a, b, c] = addrs(&instances)[..] else { unreachable!() };
    let algorithms = ["round_robin", "random", "weighted_random", "least_request"];
    let config: String = algorithms
        .map(|name| {
            format!("[service.{name}]\nfrom = \"static://{a},{b},{c}?weights=1,0,1\"\nbalance = \"{name}\"\n")
        })
        .concat();
    let sidecar = Sidecar::start(&config).await;
    for name in algorithms {
        ask(&sidecar, name, "/", 4, 25).await;
    }
    let counts = counts(&instances, "/").await;
    assert_eq!((counts[1], counts[0] + counts[2]), (0, 400));
    assert!(counts[0] >= 120 && counts[2] >= 120, "{counts:?}");
}

/// Asking whether another instance is left once took a turn, always that of the dead one's neighbour.
#[tokio::test]
async fn the_share_of_a_dead_instance_falls_to_all_others_alike() {
    let mut instances = instances(5).await;
    let sidecar = Sidecar::start(&web(&addrs(&instances), "")).await;
    ask(&sidecar, "web", "/before", 1, 50).await;
    assert_eq!(counts(&instances, "/before").await, [10; 5]);
    instances[2].kill();
    ask(&sidecar, "web", "/after", 1, 400).await;
    instances.remove(2);
    assert_eq!(counts(&instances, "/after").await, [100; 4]);
    ask(&sidecar, "web", "/many", 8, 100).await;
    for count in counts(&instances, "/many").await {
        assert!((190..=210).contains(&count), "{count}");
    }
}

/// Workers share no upstream connections: two that work side by side are two connections at the instance.
#[tokio::test]
async fn client_connections_are_dealt_out_to_all_workers() {
    let instances = instances(1).await;
    let config = "workers = 2\n".to_owned() + &service("web", &addrs(&instances), "");
    let sidecar = Sidecar::start(&config).await;
    let mut clients: Vec<_> = (0..4).map(|_| sidecar.client("web")).collect();
    let mut users: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let connection = async |client: &mut Client| {
            let answer = client.get("/").await.unwrap();
            answer.header("x-connection").unwrap().to_owned()
        };
        let first = connection(client).await;
        for _ in 0..5 {
            assert_eq!(connection(client).await, first, "a worker uses its connection again");
        }
        users.entry(first).or_default().push(number);
    }
    let sizes: Vec<_> = users.values().map(Vec::len).collect();
    assert_eq!(sizes, [2, 2], "{users:?}");
}
