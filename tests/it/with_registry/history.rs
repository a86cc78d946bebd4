//! What an instance keeps when its registration changes.

use crate::support::{Instance, Registry, Sidecar, eventually};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

pub async fn a_new_weight_keeps_the_counts_and_a_new_id_begins_anew(registry: Registry) {
    let instance = Instance::start("web-1").await;
    registry.register("web", "first", instance.addr(), 1).await;
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"))).await;
    let endpoint = async || sidecar.api("/api/services/web").await["endpoints"][0].take();
    for _ in 0..7 {
        assert_eq!(sidecar.get("web", "/").await.status, 200);
    }
    let before = endpoint().await;
    assert_eq!((&before["requests"], &before["weight"]), (&7.into(), &1.into()));

    registry.register("web", "first", instance.addr(), 9).await;
    let heavier = eventually("the new weight", SOON, async || {
        Some(endpoint().await).filter(|endpoint| endpoint["weight"] == 9)
    })
    .await;
    assert_eq!((&heavier["requests"], &heavier["since"]), (&7.into(), &before["since"]));

    // Both at once, as while a deployment goes over: one address is one endpoint all the time.
    registry.register("web", "second", instance.addr(), 1).await;
    registry.deregister("web", "first").await;
    let id = Value::from(registry.instance("web", "second"));
    let stranger = eventually("the new id", SOON, async || {
        Some(endpoint().await).filter(|endpoint| endpoint["instance"] == id)
    })
    .await;
    assert_eq!((&stranger["requests"], &stranger["weight"]), (&0.into(), &1.into()));
    assert_ne!(stranger["since"], before["since"]);
    assert_eq!(sidecar.get("web", "/").await.status, 200);
    assert_eq!(endpoint().await["requests"], 1);
}
