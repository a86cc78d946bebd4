//! What traffic teaches about the list: an instance that the registry praises and nobody reaches.

use crate::support::registry::{events, source};
use crate::support::{Instance, Registry, Sidecar, eventually, web};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

async fn an_unreachable_instance_is_disputed_and_its_registry_asked(registry: Registry) {
    let one = Instance::start("one").await;
    registry.register("web", "one", one.addr(), 1).await;
    registry.register("web", "gone", web::refusing(), 1).await;
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"))).await;
    eventually("both", SOON, async || (sidecar.states("web").await.len() == 2).then_some(())).await;
    let asked = source(&sidecar, "web").await["questions"].as_u64().unwrap();
    let mut client = sidecar.client("web");
    for _ in 0..12 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    assert!(sidecar.attempted("connect_failed").await >= 5);
    eventually("the registry is asked again", Duration::from_secs(3), async || {
        (source(&sidecar, "web").await["questions"].as_u64().unwrap() > asked).then_some(())
    })
    .await;
    let disputed = async || {
        let service = sidecar.api("/api/services/web").await;
        let endpoints = service["endpoints"].as_array().unwrap().clone();
        endpoints.into_iter().filter(|endpoint| endpoint["disputed"] == true).collect::<Vec<_>>()
    };
    let shown =
        eventually("it is disputed", SOON, async || Some(disputed().await).filter(|all| all.len() == 1))
            .await;
    assert!(shown[0]["instance"].as_str().unwrap().ends_with("gone"), "{shown:?}");
    let reasons = shown[0]["reasons"].as_array().unwrap();
    assert!(reasons.iter().any(|reason| reason == "disputed: its registry calls it passing"), "{reasons:?}");
    eventually("it is told", SOON, async || (events(&sidecar, "endpoint_disputed").await == 1).then_some(()))
        .await;
    assert_eq!(sidecar.metric("outrigger_disputed_endpoints{service=\"web\"}").await, 1.0);
}

#[tokio::test]
async fn an_instance_in_consul_that_nobody_reaches_is_disputed() {
    an_unreachable_instance_is_disputed_and_its_registry_asked(Registry::consul().await).await;
}

#[tokio::test]
async fn an_instance_in_etcd_that_nobody_reaches_is_disputed() {
    an_unreachable_instance_is_disputed_and_its_registry_asked(Registry::etcd("etcd35").await).await;
}
