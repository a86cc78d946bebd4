//! The sidecar with real etcd, 3.4 and 3.5, and real instances.

use crate::support::etcd::Cluster;
use crate::support::registry::{source, states, three, write};
use crate::support::{Registry, Sidecar, eventually};
use crate::with_registry::all_hold_with;
use crate::with_registry::outages::{Memory, no_request_fails_while_the_registry_is_gone};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

all_hold_with!(v3_4, Registry::etcd("etcd"));
all_hold_with!(v3_5, Registry::etcd("etcd35"));

#[tokio::test]
async fn no_request_fails_while_etcd_3_4_is_gone() {
    no_request_fails_while_the_registry_is_gone(Registry::etcd("etcd").await, Memory::Kept).await;
}

#[tokio::test]
async fn no_request_fails_while_etcd_3_5_is_gone() {
    no_request_fails_while_the_registry_is_gone(Registry::etcd("etcd35").await, Memory::Kept).await;
}

#[tokio::test]
async fn a_password_is_read_from_its_file_and_a_wrong_one_is_told() {
    tokio::join!(reads_the_password("etcd"), reads_the_password("etcd35"));
}

async fn reads_the_password(etcd: &'static str) {
    let cluster = Cluster::start(etcd, 1).await;
    let instances = three().await;
    crate::support::etcd::put(&mut cluster.client(), "/services/web/web-1", instances[0].addr().to_string())
        .await;
    cluster.enable_auth("/services/");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "good", "secret\n");
    let config = |password| {
        format!(
            "[etcd]\nendpoints = [\"http://{}\"]\nuser = \"reader\"\npassword_file = \"{password}\"\n\
             [service.web]\nfrom = \"etcd:web\"\n",
            cluster.addr(0)
        )
    };
    let right = Sidecar::launch_in(folder, &config("good"), |_| {}).await;
    eventually("an instance", SOON, async || (states(&right, "web").await == ["usable"]).then_some(())).await;
    assert_eq!(right.get("web", "/").await.instance(), "web-1");

    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "bad", "hunter2");
    let wrong = Sidecar::launch_in(folder, &config("bad"), |_| {}).await;
    let error = eventually("an error", SOON, async || {
        source(&wrong, "web").await["last_error"].as_str().map(ToOwned::to_owned)
    })
    .await;
    for part in ["authentication failed", "user \"reader\""] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(source(&wrong, "web").await["state"], "error");
    for shown in [wrong.log(), wrong.api("/api/services").await.to_string(), wrong.metrics().await] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    for (user, prefix, told) in [
        ("reader:hunter2", "services/web", "authentication failed"),
        ("reader:secret", "other", "the user may not read /other/"),
    ] {
        let url = format!("etcd://{user}@{}/{prefix}/", cluster.addr(0));
        let output = crate::commands::outrigger(&["endpoints", &url]).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.contains(told) && !stderr.contains("hunter2"), "{stderr}");
    }
}
