//! A sidecar that starts before its registry.

use crate::support::registry::source;
use crate::support::{Instance, Registry, Sidecar, client};
use std::time::Duration;
use tokio::time::Instant;

pub async fn without_its_registry_it_starts_waits_and_says_why(mut registry: Registry) {
    let instance = Instance::start("web-1").await;
    registry.kill();
    let mut sidecar =
        Sidecar::launch(&format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"))).await;
    let readyz = client::get(sidecar.admin(), "/readyz").await;
    assert_eq!(readyz.status, 503);

    let asked = Instant::now();
    let answer = sidecar.get("web", "/").await;
    let held = asked.elapsed();
    assert!((4.5..7.5).contains(&held.as_secs_f64()), "held for {held:?}");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
    assert_eq!(answer.header("x-outrigger-error"), Some("no_endpoints; service=web; known=0; usable=0"));
    let why = client::get(sidecar.admin(), "/readyz").await.text();
    for part in ["web: no list of instances yet", &registry.source("web"), "refused", "failing for"] {
        assert!(why.contains(part), "{part:?} is missing: {why}");
    }
    let told = source(&sidecar, "web").await;
    assert_eq!((&told["state"], &told["age_seconds"]), (&"error".into(), &serde_json::Value::Null));
    let questions = told["questions"].as_u64().unwrap();
    assert!((2..30).contains(&questions), "{questions} questions in {held:?}");

    registry.restart().await;
    registry.register("web", "web-1", instance.addr(), 1).await;
    let up = Instant::now();
    sidecar.ready(Duration::from_secs(30)).await;
    eprintln!("ready {:?} after the registry", up.elapsed());
    assert_eq!(sidecar.get("web", "/").await.instance(), "web-1");
}
