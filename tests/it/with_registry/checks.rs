//! Active checks on instances that a registry lists.

use crate::support::registry::{events, three};
use crate::support::{Registry, Sidecar, eventually};
use std::time::Duration;

/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(15);

/// A stopped process still accepts connections; only its silence tells.
pub async fn a_stopped_instance_is_out_until_it_goes_on(registry: Registry) {
    let instances = three().await;
    registry.register_all("web", &instances).await;
    let health = "http = \"/health\"\ninterval = \"300ms\"\ntimeout = \"300ms\"\nfall = 3\nrise = 2\n\
                  unhealthy_interval = \"300ms\"\nunhealthy_interval_max = \"300ms\"";
    let config =
        format!("[service.web]\nfrom = \"{}\"\n[service.web.health]\n{health}\n", registry.source("web"));
    let sidecar = Sidecar::start(&config).await;
    let becomes = async |state: &str| {
        let addr = instances[0].addr().to_string();
        eventually(state, SOON, async || {
            sidecar.states("web").await.contains(&(addr.clone(), state.to_owned())).then_some(())
        })
        .await;
    };
    becomes("usable").await;
    instances[0].stop();
    becomes("unhealthy").await;
    // Judged is not yet published.
    let usable = async || (sidecar.api("/api/services/web").await["usable"] == 2).then_some(());
    eventually("two are left", SOON, usable).await;
    for _ in 0..30 {
        let answer = sidecar.get("web", "/checked").await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.instance(), "web-1");
    }
    let service = sidecar.api("/api/services/web").await;
    let of = |name: &str| {
        let id = registry.instance("web", name);
        service["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["instance"] == id.as_str())
            .unwrap()
            .clone()
    };
    // A retry would have hidden an attempt from the client.
    assert_eq!(of("web-1")["requests"], 0);
    let reason = of("web-1")["reasons"][0].to_string();
    assert!(reason.starts_with("\"check: "), "{reason}");
    assert_eq!(of("web-2")["reasons"], serde_json::json!([]));
    assert_eq!(events(&sidecar, "endpoint_unhealthy").await, 1);

    instances[0].cont();
    becomes("usable").await;
    let mut by = std::collections::BTreeSet::new();
    for _ in 0..6 {
        by.insert(sidecar.get("web", "/again").await.instance().to_owned());
    }
    assert_eq!(by.len(), 3, "{by:?}");
    assert_eq!(events(&sidecar, "endpoint_healthy").await, 1);
}
