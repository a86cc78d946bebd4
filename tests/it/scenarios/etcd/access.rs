//! Who may read: tokens that expire, passwords and roles, certificates.

use super::wire::Wire;
use super::{SOON, version};
use crate::scenarios::{Bounds, Scenario};
use crate::support::etcd::{Certificates, Cluster, put};
use crate::support::registry::{key, source, states, three};
use crate::support::{Sidecar, eventually};
use outrigger::registry::etcd::{EtcdClient, EtcdSettings};
use outrigger::registry::{Credential, TlsFiles};
use outrigger::telemetry::Secret;
use std::time::Duration;
use tokio::time::Instant;

const PREFIX: &str = "/services/web/";

crate::support::etcd::on_both! {
    #[ignore = "slow: tests/run --all"]
    s41_an_expired_token_is_renewed
    #[ignore = "slow: tests/run --all"]
    s42_who_may_not_read_is_told_and_does_not_insist
    s43_tls_is_kept_to
}

fn root(cluster: &Cluster) -> EtcdClient {
    let user = Some(("root".to_owned(), Credential::Text(Secret::new("root"))));
    EtcdClient::new(EtcdSettings { user, ..cluster.settings() })
}

/// `Some` once two usable ones are left; the third may finish what runs.
async fn has_two(sidecar: &Sidecar) -> Option<()> {
    let states = states(sidecar, "web").await;
    (states.iter().filter(|state| *state != "draining").count() == 2).then_some(())
}

async fn error_of(sidecar: &Sidecar) -> String {
    eventually("an error", SOON, async || {
        source(sidecar, "web").await["last_error"].as_str().map(ToOwned::to_owned)
    })
    .await
}

mod scenario {
    use super::*;

    pub async fn s41_an_expired_token_is_renewed(binary: &'static str) {
        let cluster = Cluster::start_with(binary, 1, &["--auth-token-ttl=5"]).await;
        let instances = three().await;
        for instance in &instances {
            put(&mut cluster.client(), &key("web", instance.name()), instance.addr().to_string()).await;
        }
        cluster.enable_auth(PREFIX);
        let wire = Wire::to(cluster.addr(0)).await;
        let sidecar = Sidecar::start(&format!(
            "[etcd]\nendpoints = [\"http://{}\"]\nuser = \"reader\"\npassword = \"secret\"\n\
             [service.web]\nfrom = \"etcd:web\"\n",
            wire.addr()
        ))
        .await;
        let bounds = Bounds::etcd([wire.addr().port()]);
        let title = "token TTL 5 s, idle 12 s, connection cut";
        let mut scenario = Scenario::begin(41, title, version(binary), &sidecar, bounds);
        scenario.serves(3);
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(source(&sidecar, "web").await["errors"], 0, "the watch outlives its token");
        wire.cut();
        eventually("a stale source", SOON, async || {
            (source(&sidecar, "web").await["state"] == "stale").then_some(())
        })
        .await;
        scenario.holds(2);
        let mut root = root(&cluster);
        crate::support::etcd::delete(&mut root, &key("web", "web-1")).await;
        wire.mend();
        scenario
            .converges("a change", Instant::now(), Duration::from_secs(3), async || has_two(&sidecar).await)
            .await;
        // One of root's.
        let asked = cluster.authentications().await - 1;
        assert!(asked <= 2, "{asked} authentications");
        scenario.note(format!("{asked} authentications"));
        scenario.end().await;
    }

    pub async fn s42_who_may_not_read_is_told_and_does_not_insist(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let instances = three().await;
        for instance in &instances {
            put(&mut cluster.client(), &key("web", instance.name()), instance.addr().to_string()).await;
        }
        cluster.enable_auth(PREFIX);
        let wire = Wire::to(cluster.addr(0)).await;
        let config = |password: &str, prefix: &str| {
            format!(
                "[etcd]\nendpoints = [\"http://{}\"]\nuser = \"reader\"\npassword = \"{password}\"\n\
                 prefix = \"{prefix}\"\n[service.web]\nfrom = \"etcd:web\"\n",
                wire.addr()
            )
        };
        // At the start: clear texts, nothing known, and not a second authentication.
        let wrong = Sidecar::launch(&config("hunter2", "/services/{name}/")).await;
        let told = error_of(&wrong).await;
        assert!(told.contains("authentication failed") && told.contains("user \"reader\""), "{told}");
        let stranger = Sidecar::launch(&config("secret", "/others/{name}/")).await;
        let told = error_of(&stranger).await;
        assert!(told.contains("permission denied: the user may not read /others/web/"), "{told}");
        let before = cluster.authentications().await;

        let mut reader = Sidecar::start(&config("secret", "/services/{name}/")).await;
        reader.ready(SOON).await;
        let bounds = Bounds::etcd([wire.addr().port()]);
        let title = "wrong password, role without the prefix, role narrowed";
        let mut scenario = Scenario::begin(42, title, version(binary), &reader, bounds);
        scenario.serves(3);
        // While the watch stands etcd does not ask again; when it is reopened, it does.
        let role = |what: &str| {
            let end = "/services/web0";
            let permission: &[&str] = if what == "revoke" {
                &["reader", PREFIX, end]
            } else {
                &["--prefix=true", "reader", "read", PREFIX]
            };
            let command = format!("{what}-permission");
            cluster.ctl(&[&["--user=root:root", "role", &command], permission].concat());
        };
        role("revoke");
        tokio::time::sleep(Duration::from_secs(2)).await;
        wire.cut();
        eventually("a stale source", SOON, async || {
            (source(&reader, "web").await["state"] == "stale").then_some(())
        })
        .await;
        wire.mend();
        let mended = Instant::now();
        scenario
            .converges("denied is told", mended, Duration::from_secs(5), async || {
                let told = source(&reader, "web").await;
                told["last_error"].as_str().filter(|error| error.contains("permission denied")).map(drop)
            })
            .await;
        let asked = async || source(&reader, "web").await["questions"].as_u64().unwrap();
        let questions = asked().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(states(&reader, "web").await, ["usable"; 3], "the list is kept");
        assert!(asked().await <= questions + 1, "a question in 30 s is enough");
        // One was etcdctl's.
        let asked = cluster.authentications().await - before - 1;
        assert!(asked <= 1, "{asked} authentications of the reader, and none of the refused");
        role("grant");
        scenario
            .converges("live again", Instant::now(), Duration::from_secs(35), async || {
                (source(&reader, "web").await["state"] == "live").then_some(())
            })
            .await;
        for other in [&wrong, &stranger] {
            assert_eq!(source(other, "web").await["state"], "error");
        }
        scenario.end().await;
    }

    pub async fn s43_tls_is_kept_to(binary: &'static str) {
        let certificates = Certificates::new();
        let cluster = Cluster::start_tls(binary, &certificates);
        let tls = TlsFiles {
            ca: Some(certificates.cert("ca")),
            cert: Some(certificates.cert("client")),
            key: Some(certificates.key("client")),
        };
        let mut etcd = EtcdClient::new(EtcdSettings { tls, ..cluster.settings() });
        let instances = three().await;
        for instance in &instances {
            let (key, value) = (key("web", instance.name()), instance.addr().to_string());
            eventually("a write", SOON, async || {
                etcd.put(crate::support::etcd::request(&key, &value)).await.ok()
            })
            .await;
        }
        let config = |scheme: &str, ca: &str, client: Option<&str>| {
            let file = |key: &str, path: std::path::PathBuf| format!("{key} = \"{}\"\n", path.display());
            let client = client.map(|name| {
                file("client_cert", certificates.cert(name)) + &file("client_key", certificates.key(name))
            });
            format!(
                "[etcd]\nendpoints = [\"{scheme}://{}\"]\n{}{}[service.web]\nfrom = \"etcd:web\"\n",
                cluster.addr(0),
                file("ca_cert", certificates.cert(ca)),
                client.unwrap_or_default()
            )
        };
        let right = Sidecar::start(&config("https", "ca", Some("client"))).await;
        let bounds = Bounds::etcd([cluster.addr(0).port()]);
        let title = "TLS: right CA, wrong CA, no client certificate";
        let mut scenario = Scenario::begin(43, title, version(binary), &right, bounds);
        scenario.serves(3);
        for (what, config) in [
            ("UnknownIssuer", config("https", "stranger", Some("client"))),
            ("no client certificate is configured", config("https", "ca", None)),
            // Without TLS there is no way in either.
            ("http://", config("http", "ca", None)),
        ] {
            let wrong = Sidecar::launch(&config).await;
            let told = error_of(&wrong).await;
            assert!(told.contains(what), "{told}");
            assert_eq!(source(&wrong, "web").await["state"], "error");
            assert_eq!(states(&wrong, "web").await, Vec::<String>::new());
        }
        // One that begins with the wrong files goes on with the right ones as soon as they are there.
        let ca = certificates.cert("rotated");
        std::fs::copy(certificates.cert("stranger"), &ca).unwrap();
        let mended = Sidecar::launch(&config("https", "rotated", Some("client"))).await;
        assert!(error_of(&mended).await.contains("UnknownIssuer"));
        std::fs::copy(certificates.cert("ca"), &ca).unwrap();
        eventually("the right CA", SOON, async || (states(&mended, "web").await.len() == 3).then_some(()))
            .await;
        scenario.holds(2);
        crate::support::etcd::delete(&mut etcd, &key("web", "web-1")).await;
        scenario
            .converges("a change", Instant::now(), Duration::from_secs(1), async || has_two(&right).await)
            .await;
        scenario.end().await;
    }
}
