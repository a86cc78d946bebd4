//! A hundred thousand keys.

use super::{SOON, Stage, put, put_many};
use crate::support::etcd::Cluster;
use crate::support::registry::{key, three};
use crate::support::{Sidecar, eventually};
use std::time::Duration;
use tokio::time::Instant;

/// Under one lease, which is revoked.
const LEASED: usize = 10_000;
const KEYS: usize = 100_000;

crate::support::etcd::on_both! {
    #[ignore = "slow: tests/run --all"]
    s40_a_hundred_thousand_keys_come_in_pages_and_go_in_one_step
}

mod scenario {
    use super::*;

    pub async fn s40_a_hundred_thousand_keys_come_in_pages_and_go_in_one_step(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let instances = three().await;
        for instance in &instances {
            put(&cluster, 0, instance.name(), &instance.addr().to_string()).await;
        }
        let lease = cluster.client().lease_grant(Duration::from_secs(600)).await.unwrap().id;
        let all: Vec<_> = (0..KEYS)
            .map(|n| {
                let addr = format!("10.{}.{}.{}:8080", n >> 16, (n >> 8) & 255, n & 255);
                let value = format!(r#"{{"Op":0,"Addr":"{addr}","Metadata":null}}"#);
                (key("big", &format!("orders-{addr}")), value)
            })
            .collect();
        let (leased, others) = all.split_at(LEASED);
        put_many(cluster.addr(0), leased, lease).await;
        put_many(cluster.addr(0), others, 0).await;

        // `web` is observed and called; `big` comes from the same member.
        let config = format!(
            "[etcd]\nendpoints = [\"http://{}\"]\n[service.web]\nfrom = \"etcd:web\"\n\
             [service.big]\nfrom = \"etcd:big\"\n",
            cluster.addr(0)
        );
        let _turn = crate::support::alone().await;
        let launched = Instant::now();
        let sidecar = Sidecar::launch(&config).await;
        let ports = vec![cluster.addr(0).port()];
        let stage = Stage { binary, cluster, instances, sidecar, ports };
        let known = async |endpoints: usize| {
            let series = "outrigger_endpoints{service=\"big\",state=\"usable\"}";
            (stage.sidecar.metric(series).await as usize == endpoints).then_some(())
        };
        let mut scenario = stage.scenario(40, "100 000 keys; a lease with 10 000 of them revoked");
        // Five seconds are what an optimized sidecar may take on a quiet machine.
        let patience = if cfg!(debug_assertions) { 6 } else { 1 };
        scenario
            .converges("all keys", launched, patience * Duration::from_secs(5), async || known(KEYS).await)
            .await;
        let listed = launched.elapsed();
        eventually("three", SOON, async || stage.usable(3).await).await;
        scenario.serves(3);
        stage.cluster.client().lease_revoke(lease).await.unwrap();
        let revoked = Instant::now();
        scenario
            .converges("the revoke", revoked, patience * Duration::from_secs(2), async || {
                known(KEYS - LEASED).await
            })
            .await;
        let (gone, rss) = (revoked.elapsed(), stage.sidecar.rss_kib() / 1024);
        scenario.note(format!("listed in {listed:.1?}, revoked in {gone:.1?}, {rss} MiB resident"));
        let big = crate::support::registry::source(&stage.sidecar, "big").await;
        assert_eq!(big["errors"], 0, "{big}");
        assert_eq!(big["updates"], 2, "the list, and the revoked lease in one step");
        // The program itself is several times as large when it is not optimized.
        let limit = if cfg!(debug_assertions) { 250 } else { 200 };
        assert!(rss < limit, "{rss} MiB");
        scenario.end().await;
    }
}
