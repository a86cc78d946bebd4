//! What stands in the keys, and how fast it is known.

use super::{SOON, Stage, delete, put};
use crate::support::etcd::put_leased;
use crate::support::registry::{events, key};
use crate::support::{Instance, eventually};
use std::time::Duration;
use tokio::time::Instant;

crate::support::etcd::on_both! {
    s30_all_value_styles_are_served_and_garbage_is_counted_once
    #[ignore = "slow: tests/run --all"]
    s31_changes_are_felt_at_once
}

mod scenario {
    use super::*;

    pub async fn s30_all_value_styles_are_served_and_garbage_is_counted_once(binary: &'static str) {
        let stage = Stage::of(binary, 1, "").await;
        let mut scenario = stage.scenario(30, "all value styles, garbage, a neighbour");
        scenario.serves(3);
        let mut started = Vec::new();
        for name in ["naming", "old-naming", "object", "address", "url", "micro", "kratos"] {
            started.push(Instance::start(name).await);
        }
        let written = Instant::now();
        for instance in &started {
            let addr = instance.addr();
            let port = addr.port();
            let value = match instance.name() {
                "naming" => format!(r#"{{"Op":0,"Addr":"{addr}","Metadata":null}}"#),
                "old-naming" => format!(r#"{{"Addr":"{addr}","Metadata":"v1"}}"#),
                "object" => format!(r#"{{"host":"127.0.0.1","port":{port},"weight":1}}"#),
                "address" => format!(r#"{{"address":"127.0.0.1","port":{port},"zone":"a"}}"#),
                "url" => format!("http://{addr}"),
                "micro" => format!(
                    r#"{{"name":"web","endpoints":[{{"name":"Web.Call"}}],"nodes":[{{"id":"a","address":"{addr}"}}]}}"#
                ),
                _ => format!(
                    r#"{{"id":"k","name":"web","endpoints":["grpc://127.0.0.1:9?isSecure=false","http://{addr}?isSecure=false"]}}"#
                ),
            };
            put(&stage.cluster, 0, instance.name(), &value).await;
        }
        let garbage =
            ["hello", "{\"Addr\":", "127.0.0.1:70000", "127.0.0.1:0", "", "{\"weight\":7}", "[::1]"];
        for (n, value) in garbage.iter().enumerate() {
            put(&stage.cluster, 0, &format!("bad-{n}"), value).await;
        }
        let mut etcd = stage.cluster.client();
        crate::support::etcd::put(&mut etcd, &key("web", "bytes"), [0xff, 0, 0xfe]).await;
        for neighbour in ["/services/web2/a", "/services/web", "/services/we/a"] {
            crate::support::etcd::put(&mut etcd, neighbour, "127.0.0.1:1").await;
        }
        let limit = Duration::from_secs(5);
        scenario.converges("all styles", written, limit, async || stage.usable(10).await).await;
        scenario.serves(10);
        // Each of them is called, and so nobody else.
        for instance in started.iter().chain(&stage.instances) {
            eventually("a call", SOON, async || (instance.count("/").await > 0).then_some(())).await;
        }
        let told = async || {
            let skipped = stage.source().await["skipped"].as_u64();
            (skipped, events(&stage.sidecar, "entry_skipped").await)
        };
        let bad = garbage.len() + 1;
        assert_eq!(told().await, (Some(bad as u64), bad));
        // A later change tells nobody again of the same garbage.
        let _late = stage.another("late", 0).await;
        eventually("the eleventh", SOON, async || stage.usable(11).await).await;
        assert_eq!(told().await, (Some(bad as u64), bad));
        assert_eq!(stage.errors().await, 0);
        scenario.end().await;
    }

    pub async fn s31_changes_are_felt_at_once(binary: &'static str) {
        let stage = Stage::of(binary, 1, "").await;
        let _turn = crate::support::alone().await;
        let mut scenario = stage.scenario(31, "50 times put, change, delete, revoke");
        scenario.serves(3);
        let (fourth, fifth) = (Instance::start("web-4").await, Instance::start("web-5").await);
        let mut etcd = stage.cluster.client();
        let addrs = async || {
            let states = stage.sidecar.states("web").await;
            let listed = states.into_iter().filter(|(_, state)| state != "draining");
            listed.map(|(addr, _)| addr).collect::<Vec<_>>()
        };
        let there = async |addr: &str| addrs().await.iter().any(|other| other == addr).then_some(());
        let gone = async |addr: &str| addrs().await.iter().all(|other| other != addr).then_some(());
        let mut times = Vec::new();
        let (one, other) = (fourth.addr().to_string(), fifth.addr().to_string());
        for turn in 0..50 {
            let lease = etcd.lease_grant(Duration::from_secs(60)).await.unwrap().id;
            let leased = if turn % 2 == 0 { lease } else { 0 };
            let mut took = async |began: Instant, what: &str, addr: &str, here: bool| {
                eventually(what, SOON, async || if here { there(addr).await } else { gone(addr).await })
                    .await;
                times.push(began.elapsed());
            };
            let began = Instant::now();
            put_leased(&mut etcd, &key("web", "x"), &one, leased).await;
            took(began, "a new instance", &one, true).await;
            let began = Instant::now();
            put_leased(&mut etcd, &key("web", "x"), &other, leased).await;
            took(began, "its new address", &other, true).await;
            let began = Instant::now();
            if leased == 0 {
                delete(&stage.cluster, 0, "x").await;
            }
            etcd.lease_revoke(lease).await.unwrap();
            took(began, "its end", &other, false).await;
        }
        times.sort();
        let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        scenario.note(format!("median {median:.0?}, 99 % {late:.0?}"));
        scenario.converged("99 of 100 changes", late, Duration::from_millis(500));
        scenario.converged("half of the changes", median, Duration::from_millis(50));
        assert_eq!(stage.errors().await, 0);
        scenario.end().await;
    }
}
