//! The local app in real etcd, when rights are lost, members hang, and somebody writes over its key.

use crate::support::etcd::on_both;

on_both! {
    a_weight_that_somebody_changed_under_our_lease_is_set_right
    a_key_that_may_not_be_read_any_more_is_kept
    a_token_that_is_lost_for_good_costs_no_key_and_leaves_it_to_the_lease_at_the_end
    a_member_in_use_that_hangs_holds_up_no_withdrawal
}

mod scenario {
    use crate::support::etcd::{Cluster, put_leased};
    use crate::support::registering::{SOON, TTL, config, key_is_gone, key_is_there, keys, reaches, told};
    use crate::support::{Instance, Sidecar, eventually};
    use outrigger::registry::Credential;
    use outrigger::registry::etcd::{EtcdClient, EtcdSettings, RangeRequest};
    use outrigger::telemetry::Secret;
    use std::time::Duration;
    use tokio::time::Instant;

    const KEY: &str = "/services/web/web-1";

    async fn announced(to: &str, more: &str) -> (Instance, Sidecar) {
        let app = Instance::start("web-1").await;
        let sidecar = Sidecar::start(&config(&app, to, more)).await;
        reaches(&sidecar, "announced", SOON).await;
        (app, sidecar)
    }

    /// As a farewell does that no end followed.
    pub async fn a_weight_that_somebody_changed_under_our_lease_is_set_right(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (_app, _sidecar) = announced(&format!("etcd://{}", cluster.addr(0)), "reassert = \"1s\"\n").await;
        let kv = keys(&cluster, 0).await.remove(0);
        let farewell = String::from_utf8(kv.value.clone()).unwrap().replace("\"weight\":1", "\"weight\":0");
        assert_ne!(farewell.as_bytes(), kv.value);
        put_leased(&mut cluster.client(), KEY, &farewell, kv.lease).await;
        eventually("the weight is back", SOON, async || {
            let now = keys(&cluster, 0).await.pop()?;
            (now.value == kv.value && now.lease == kv.lease).then_some(())
        })
        .await;
    }

    /// A cluster with authentication, and a sidecar that registers there as user `app`.
    async fn guarded(binary: &'static str) -> (Cluster, EtcdClient, Instance, Sidecar) {
        let cluster = Cluster::start(binary, 1).await;
        cluster.ctl(&["role", "add", "app"]);
        cluster.ctl(&["role", "grant-permission", "--prefix=true", "app", "readwrite", "/services/"]);
        cluster.ctl(&["user", "add", "app:secret"]);
        cluster.ctl(&["user", "grant-role", "app", "app"]);
        cluster.enable_auth("/other/");
        let to = format!("etcd://app:secret@{}", cluster.addr(0));
        let (app, sidecar) = announced(&to, "reassert = \"1s\"\n").await;
        let user = Some(("root".to_owned(), Credential::Text(Secret::new("root"))));
        let root = EtcdClient::new(EtcdSettings { user, ..cluster.settings() });
        (cluster, root, app, sidecar)
    }

    /// The key stays, with its lease, for longer than that would hold by itself.
    async fn stays(root: &mut EtcdClient) {
        let mut first = None;
        let begin = Instant::now();
        while begin.elapsed() < TTL * 2 + Duration::from_secs(2) {
            let request = RangeRequest { key: KEY.into(), ..RangeRequest::default() };
            let kv = root.range(request).await.expect("an answer").kvs.pop().expect("the key is there");
            assert_eq!(*first.get_or_insert(kv.lease), kv.lease);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub async fn a_key_that_may_not_be_read_any_more_is_kept(binary: &'static str) {
        let (cluster, mut root, _app, sidecar) = guarded(binary).await;
        let root_says = |args: &[&str]| cluster.ctl(&[&["--user=root:root"], args].concat());
        root_says(&["role", "revoke-permission", "--prefix=true", "app", "/services/"]);
        stays(&mut root).await;
        let told = told(&sidecar).await;
        assert_eq!((&told["state"], &told["losses"]), (&"announced".into(), &0.into()));
        let error = told["last_error"].as_str().unwrap_or_default();
        assert!(
            error.contains("cannot look after the key") && error.contains("permission denied"),
            "{error}"
        );
        root_says(&["role", "grant-permission", "--prefix=true", "app", "readwrite", "/services/"]);
        eventually("no error", SOON, async || {
            crate::support::registering::told(&sidecar).await["last_error"].is_null().then_some(())
        })
        .await;
    }

    pub async fn a_token_that_is_lost_for_good_costs_no_key_and_leaves_it_to_the_lease_at_the_end(
        binary: &'static str,
    ) {
        let (cluster, mut root, _app, mut sidecar) = guarded(binary).await;
        cluster.ctl(&["--user=root:root", "user", "delete", "app"]);
        stays(&mut root).await;
        assert_eq!(told(&sidecar).await["state"], "announced");
        sidecar.stop().await;
        let log = sidecar.log();
        assert!(log.contains("could not be taken out"), "{log}");
        assert!(!log.contains("was taken out of"), "{log}");
    }

    pub async fn a_member_in_use_that_hangs_holds_up_no_withdrawal(binary: &'static str) {
        let cluster = Cluster::start(binary, 3).await;
        // An election would take its own time.
        let (used, rest) = follower_first(&cluster);
        let all = [used, rest[0], rest[1]].map(|member| cluster.addr(member).to_string()).join(",");
        let app = Instance::start("web-1").await;
        // With the usual TTL a beat may wait for each member as long as a withdrawal may take in all.
        let text = config(&app, &format!("etcd://{all}"), "").replace("ttl = \"5s\"", "ttl = \"15s\"");
        let mut sidecar = Sidecar::start(&text).await;
        reaches(&sidecar, "announced", SOON).await;
        key_is_there(&cluster, rest[0], 0, SOON).await;
        cluster.stop(used);
        let since = Instant::now();
        sidecar.signal("TERM");
        key_is_gone(&cluster, rest[0], SOON).await;
        let took = since.elapsed();
        sidecar.stop_was_asked().await;
        let log = sidecar.log();
        assert!(took < Duration::from_millis(3500), "{took:?}\n{log}");
        assert!(log.contains("was taken out of"), "{log}");
        cluster.resume(used);
    }

    fn follower_first(cluster: &Cluster) -> (usize, Vec<usize>) {
        let leads = |member: &usize| {
            let url = cluster.url(*member).to_string();
            let url = url.trim_end_matches('/');
            let told = cluster.ctl(&[&format!("--endpoints={url}"), "endpoint", "status"]);
            told.lines().any(|line| line.starts_with(url) && line.split(", ").nth(4) == Some("true"))
        };
        let used = (0..3).find(|member| !leads(member)).expect("a follower");
        (used, (0..3).filter(|member| *member != used).collect())
    }
}
