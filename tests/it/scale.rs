//! Many endpoints and many services in one process.

use crate::support::web::list;
use crate::support::{Instance, Sidecar, eventually, free_port};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const ENDPOINTS: u16 = 10_000;
const SERVICES: u16 = 200;
/// The endpoints of one service that have series of their own, and one more for all others together.
const SHOWN: usize = 201;

/// One of ten thousand addresses of this host at one port.
fn at(n: u16, port: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    (Ipv4Addr::new(127, 1, high, low), port).into()
}

/// Writes the long list; `weight` is that of the endpoint in the middle.
fn write(folder: &Path, port: u16, weight: u16) {
    let weight = |n| if n == ENDPOINTS / 2 { weight } else { 1 };
    let endpoints: Vec<_> = (0..ENDPOINTS).map(|n| (at(n, port), weight(n))).collect();
    list(folder, "many.toml", &endpoints);
}

/// Memory in use, in MiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn ten_thousand_endpoints_and_two_hundred_services_start_serve_and_change() {
    // Listens at all the addresses of the long list at once.
    let instance = Instance::at("everywhere", (Ipv4Addr::UNSPECIFIED, free_port()).into(), &[]).await;
    let port = instance.addr().port();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), port, 1);
    let short: String = (1..SERVICES)
        .map(|n| format!("[service.short-{n}]\nfrom = \"static://127.0.0.1:{port}\"\n"))
        .collect();
    let config = format!("workers = 2\n[service.long]\nfrom = \"file:many.toml\"\n{short}");
    let mut sidecar = Sidecar::launch_in(folder, &config, |_| {}).await;
    sidecar.ready(LONG).await;

    for n in 1..SERVICES {
        assert_eq!(sidecar.get(&format!("short-{n}"), "/").await.status, 200, "short-{n}");
    }
    let mut client = sidecar.client("long");
    for n in 0..SERVICES {
        assert_eq!(client.get("/").await.unwrap().status, 200, "request {n}");
    }

    let before = sidecar.api("/api/services/long").await;
    let endpoints = |service: &Value| service["endpoints"].as_array().unwrap().clone();
    assert_eq!((endpoints(&before).len(), &before["usable"]), (usize::from(ENDPOINTS), &ENDPOINTS.into()));
    let asked = endpoints(&before).iter().filter(|endpoint| endpoint["requests"] == 1).count();
    assert_eq!(asked, usize::from(SERVICES), "each request went to another one");
    let metrics = sidecar.metrics().await;
    let series = |name: &str| metrics.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(series("outrigger_endpoint_in_flight{service=\"long\""), SHOWN);
    let services: BTreeSet<_> = (1..SERVICES).map(|n| format!("short-{n}")).collect();
    let counted = |name: &String| {
        metrics.contains(&format!("outrigger_requests_total{{service=\"{name}\",code=\"200\"}} 1\n"))
    };
    assert!(services.iter().all(counted));

    // One of them changes, and only it.
    write(sidecar.folder(), port, 7);
    let changed = at(ENDPOINTS / 2, port).to_string();
    let after = eventually("the change", LONG, async || {
        let service = sidecar.api("/api/services/long").await;
        let heavy = |endpoint: &Value| endpoint["addr"] == *changed && endpoint["weight"] == 7;
        endpoints(&service).iter().any(heavy).then_some(service)
    })
    .await;
    let (before, after) = (endpoints(&before), endpoints(&after));
    let differ = |(old, new): &(&Value, &Value)| {
        (&old["addr"], &old["weight"], &old["since"]) != (&new["addr"], &new["weight"], &new["since"])
    };
    let others: Vec<_> = before.iter().zip(&after).filter(differ).map(|(old, _)| &old["addr"]).collect();
    assert_eq!((after.len(), others), (before.len(), vec![&Value::from(changed)]));
    assert_eq!(client.get("/").await.unwrap().status, 200);

    let resident = resident(sidecar.id());
    assert!(resident < 150, "{resident} MiB");
    assert!(sidecar.is_running());
}
