//! The local app in real etcd, 3.4 and 3.5: the scenarios of registration, by their numbers.

use crate::support::etcd::on_both;

on_both! {
    s45_a_key_under_a_lease_comes_with_the_app_and_goes_with_the_sidecar
    s45_a_sidecar_that_was_killed_leaves_no_key
    s45_an_etcd_that_is_stopped_holds_up_no_stop
    s45_an_etcd_that_is_dead_holds_up_no_stop
    a_restarted_sidecar_takes_its_key_over_without_a_gap
    an_etcd_that_hangs_up_on_everybody_is_tried_less_than_once_a_second
    an_app_that_fails_is_withdrawn_at_once
    an_app_that_flaps_is_held_back_longer_each_time
    s46_a_stopped_sidecar_registers_anew_at_once
    s46_a_key_that_somebody_removed_or_overwrote_comes_back
    s47_data_that_was_lost_is_written_again
    s47_an_outage_longer_than_the_ttl_ends_with_a_key
    s48_a_full_etcd_keeps_the_lease_and_is_tried_seldom
    a_key_that_somebody_else_has_is_left_alone
    a_later_life_keeps_the_key_that_it_took_over
}

mod outages {
    macro_rules! on_both_slow {
        ($($name:ident)*) => {$(
            mod $name {
                #[tokio::test]
                #[ignore = "slow: tests/run --all"]
                async fn on_etcd_3_4() {
                    super::super::cluster::$name("etcd").await;
                }

                #[tokio::test]
                #[ignore = "slow: tests/run --all"]
                async fn on_etcd_3_5() {
                    super::super::cluster::$name("etcd35").await;
                }
            }
        )*};
    }

    on_both_slow! {
        s47_a_member_in_use_that_dies_or_freezes_costs_no_key
        s47_a_leader_that_dies_costs_no_key
        s47_a_cluster_that_is_down_for_ten_seconds_costs_no_key
    }
}

mod scenario {
    use crate::support::etcd::{Cluster, delete, put, put_leased};
    use crate::support::registering::{
        EXIT, SOON, TTL, between, config, ends, error, hangs_up, has_lost, key_is_gone, key_is_there, keys,
        reaches, tells, told, with_etcd,
    };
    use crate::support::registry::events;
    use crate::support::{Instance, Sidecar, eventually};
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    const KEY: &str = "/services/web/web-1";

    pub(super) fn to(cluster: &Cluster) -> String {
        format!("etcd://{}", cluster.addr(0))
    }

    async fn announced(cluster: &Cluster, more: &str) -> (Instance, Sidecar) {
        let app = Instance::start("web-1").await;
        let sidecar = Sidecar::start(&config(&app, &to(cluster), more)).await;
        reaches(&sidecar, "announced", SOON).await;
        (app, sidecar)
    }

    pub async fn s45_a_key_under_a_lease_comes_with_the_app_and_goes_with_the_sidecar(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let app = Instance::start("web-1").await;
        let settings = config(&app, &to(&cluster), "meta = { version = \"2\" }\nweight = 7\n");
        let mut sidecar = Sidecar::start(&settings).await;
        let mut scenario = with_etcd(45, "key with the app, gone at SIGTERM", &cluster, &sidecar);
        let lease = key_is_there(&cluster, 0, 0, SOON).await;
        let kv = keys(&cluster, 0).await.remove(0);
        assert_eq!(String::from_utf8(kv.key).unwrap(), KEY);
        let value: serde_json::Value = serde_json::from_slice(&kv.value).unwrap();
        let expected = serde_json::json!({
            "Op": 0, "Addr": app.addr().to_string(), "Metadata": {"version": "2", "weight": 7},
        });
        assert_eq!(value, expected);
        let told = reaches(&sidecar, "announced", SOON).await;
        assert_eq!(told["lease"], format!("{lease:x}"));
        let took = between(&sidecar, "started", "registration_made").await;
        scenario.converged("a key", took, Duration::from_secs(1));

        sleep(Duration::from_secs(2)).await;
        scenario.leaves().await;
        let since = Instant::now();
        sidecar.signal("TERM");
        key_is_gone(&cluster, 0, SOON).await;
        scenario.converged("revoked", since.elapsed(), Duration::from_millis(500));
        sidecar.stop_was_asked().await;
        assert!(cluster.ctl(&["lease", "list"]).contains("found 0 leases"), "no lease is left behind");
        scenario.end().await;
    }

    pub async fn s45_a_sidecar_that_was_killed_leaves_no_key(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (_app, mut sidecar) = announced(&cluster, "").await;
        let mut scenario = with_etcd(45, "sidecar SIGKILLed", &cluster, &sidecar);
        sleep(Duration::from_secs(2)).await;
        scenario.leaves().await;
        sidecar.kill();
        let since = Instant::now();
        key_is_gone(&cluster, 0, SOON).await;
        scenario.converged("gone", since.elapsed(), TTL + Duration::from_millis(1500));
        scenario.end().await;
    }

    pub async fn a_restarted_sidecar_takes_its_key_over_without_a_gap(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (app, mut sidecar) = announced(&cluster, "").await;
        let before = keys(&cluster, 0).await.remove(0);
        sidecar.kill();
        let since = Instant::now();
        let next = Sidecar::launch(&config(&app, &to(&cluster), "")).await;
        let mut scenario = with_etcd(45, "sidecar SIGKILLed and restarted", &cluster, &next);
        let watched = async {
            // The lease of the earlier life is over by then.
            while since.elapsed() < TTL + Duration::from_secs(3) {
                let keys = keys(&cluster, 0).await;
                assert_eq!(keys.len(), 1, "{:?} after the kill: {keys:?}", since.elapsed());
                assert_eq!(keys[0].create_revision, before.create_revision, "it was gone for a moment");
                sleep(Duration::from_millis(20)).await;
            }
        };
        let taken = async {
            let lease = key_is_there(&cluster, 0, before.lease, SOON).await;
            (lease, since.elapsed())
        };
        let ((), (lease, took)) = tokio::join!(watched, taken);
        scenario.converged("taken over", took, TTL);
        let told = reaches(&next, "announced", SOON).await;
        assert_eq!(told["lease"], format!("{lease:x}"));
        assert_eq!(told["losses"], 0);
        scenario.end().await;
    }

    pub async fn s45_an_etcd_that_is_stopped_holds_up_no_stop(binary: &'static str) {
        gone(binary, "SIGTERM with a stopped etcd", |cluster| cluster.stop(0)).await;
    }

    pub async fn s45_an_etcd_that_is_dead_holds_up_no_stop(binary: &'static str) {
        gone(binary, "SIGTERM with a dead etcd", Cluster::kill_all).await;
    }

    async fn gone(binary: &'static str, title: &str, harm: impl FnOnce(&mut Cluster)) {
        let mut cluster = Cluster::start(binary, 1).await;
        let (_app, mut sidecar) = announced(&cluster, "").await;
        let mut scenario = with_etcd(45, title, &cluster, &sidecar);
        harm(&mut cluster);
        // Long enough to see what the sidecar does meanwhile.
        sleep(Duration::from_secs(8)).await;
        scenario.leaves().await;
        let since = Instant::now();
        sidecar.signal("TERM");
        ends(&mut scenario, "the end", &mut sidecar, since, EXIT).await;
        let log = sidecar.log();
        assert!(log.contains("could not be taken out within 3s"), "{log}");
        cluster.kill_all();
        scenario.end().await;
    }

    pub async fn an_app_that_fails_is_withdrawn_at_once(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (app, sidecar) = announced(&cluster, "").await;
        app.set_health(503).await;
        key_is_gone(&cluster, 0, Duration::from_secs(4)).await;
        reaches(&sidecar, "withdrawn", SOON).await;
        app.set_health(200).await;
        key_is_there(&cluster, 0, 0, SOON).await;
        assert_eq!(events(&sidecar, "registration_withdrawn").await, 1);
    }

    pub async fn an_app_that_flaps_is_held_back_longer_each_time(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (app, sidecar) = announced(&cluster, "").await;
        let mut took = Vec::new();
        for _ in 0..2 {
            app.set_health(503).await;
            key_is_gone(&cluster, 0, SOON).await;
            app.set_health(200).await;
            let since = Instant::now();
            key_is_there(&cluster, 0, 0, Duration::from_secs(30)).await;
            took.push(since.elapsed());
        }
        assert!(took[0] < Duration::from_secs(4), "{took:?}");
        assert!(took[1] >= Duration::from_millis(4900), "{took:?}");
        let log = sidecar.log();
        assert!(log.contains("it fails often, and is held back for 5s"), "{log}");
    }

    pub async fn s46_a_stopped_sidecar_registers_anew_at_once(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (_app, sidecar) = announced(&cluster, "").await;
        let mut scenario = with_etcd(46, "sidecar SIGSTOPped longer than the TTL", &cluster, &sidecar);
        let lease = key_is_there(&cluster, 0, 0, SOON).await;
        sidecar.signal("STOP");
        key_is_gone(&cluster, 0, SOON).await;
        let since = Instant::now();
        sidecar.signal("CONT");
        key_is_there(&cluster, 0, lease, SOON).await;
        scenario.converged("a new key", since.elapsed(), Duration::from_secs(2));
        assert_eq!(told(&sidecar).await["losses"], 1);
        sleep(Duration::from_secs(2)).await;
        scenario.end().await;
    }

    pub async fn s46_a_key_that_somebody_removed_or_overwrote_comes_back(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (_app, mut sidecar) = announced(&cluster, "reassert = \"1s\"\n").await;
        let mut scenario = with_etcd(46, "key removed, overwritten", &cluster, &sidecar);
        let mut client = cluster.client();
        let mine = keys(&cluster, 0).await.remove(0).value;
        delete(&mut client, KEY).await;
        let since = Instant::now();
        key_is_there(&cluster, 0, 0, SOON).await;
        scenario.converged("back", since.elapsed(), Duration::from_secs(6));
        for value in [&mine[..], b"oops"] {
            put(&mut client, KEY, value).await;
            let since = Instant::now();
            eventually("our value under a lease", SOON, async || {
                let kv = keys(&cluster, 0).await.pop()?;
                (kv.lease != 0 && kv.value == mine).then_some(())
            })
            .await;
            scenario.converged("ours again", since.elapsed(), Duration::from_secs(6));
        }
        has_lost(&sidecar, 3).await;
        scenario.end().await;

        // A ghost for ever, were it left.
        put(&mut client, KEY, &mine).await;
        sidecar.stop().await;
        assert_eq!(keys(&cluster, 0).await, []);
    }

    pub async fn s47_data_that_was_lost_is_written_again(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 1).await;
        let (_app, sidecar) = announced(&cluster, "").await;
        let mut scenario = with_etcd(47, "data lost, down longer than the TTL", &cluster, &sidecar);
        cluster.kill_all();
        cluster.wipe(0);
        sleep(TTL + Duration::from_secs(1)).await;
        cluster.restart_all().await;
        let since = Instant::now();
        key_is_there(&cluster, 0, 0, SOON).await;
        scenario.converged("registered anew", since.elapsed(), Duration::from_secs(7));
        has_lost(&sidecar, 1).await;
        scenario.end().await;
    }

    /// etcd gives each lease its whole time again when it starts, however long that took.
    pub async fn s47_an_outage_longer_than_the_ttl_ends_with_a_key(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 1).await;
        let (_app, sidecar) = announced(&cluster, "").await;
        let mut scenario = with_etcd(47, "data kept, down longer than the TTL", &cluster, &sidecar);
        cluster.kill_all();
        sleep(TTL + Duration::from_secs(2)).await;
        cluster.restart_all().await;
        let since = Instant::now();
        key_is_there(&cluster, 0, 0, SOON).await;
        tells(&sidecar, "vouched for again", SOON, |told| told["last_error"].is_null().then_some(())).await;
        scenario.converged("vouched for again", since.elapsed(), Duration::from_secs(7));
        let end = Instant::now() + TTL + Duration::from_secs(2);
        while Instant::now() < end {
            assert_eq!(keys(&cluster, 0).await.len(), 1);
            sleep(Duration::from_millis(50)).await;
        }
        scenario.end().await;
    }

    pub async fn s48_a_full_etcd_keeps_the_lease_and_is_tried_seldom(binary: &'static str) {
        let cluster = Cluster::start_with(binary, 1, &["--quota-backend-bytes=1000000"]).await;
        let (app, sidecar) = announced(&cluster, "").await;
        let mut scenario = with_etcd(48, "etcd full", &cluster, &sidecar);
        let lease = key_is_there(&cluster, 0, 0, SOON).await;
        let mut client = cluster.client();
        // The quota counts what is in the file, which follows a tenth of a second later.
        for n in 0..200 {
            let request = crate::support::etcd::request(&format!("fill-{n}"), &"x".repeat(100_000));
            if client.put(request).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        eventually("the alarm", SOON, async || {
            cluster.ctl(&["alarm", "list"]).contains("NOSPACE").then_some(())
        })
        .await;
        sleep(TTL + Duration::from_secs(2)).await;
        assert_eq!(key_is_there(&cluster, 0, 0, SOON).await, lease, "the lease is kept");
        assert_eq!(told(&sidecar).await["state"], "announced");

        app.set_health(503).await;
        key_is_gone(&cluster, 0, SOON).await;
        app.set_health(200).await;
        let since = Instant::now();
        let error = error(&sidecar, SOON).await;
        assert!(error.contains("database space exceeded"), "{error}");
        scenario.converged("the alarm is told", since.elapsed(), Duration::from_secs(3));
        // A try asks for a lease, and then to write the key or not at all.
        let tries = async || cluster.calls("\"Txn\"").await + cluster.calls("\"LeaseGrant\"").await;
        let before = tries().await;
        sleep(Duration::from_secs(9)).await;
        assert_eq!(tries().await, before, "it tries again seldom");
        sleep(Duration::from_secs(12)).await;
        let more = tries().await - before;
        assert!((1..=4).contains(&more), "{more} calls in two tries");
        scenario.end().await;
    }

    /// A real etcd that is dead counts no calls.
    pub async fn an_etcd_that_hangs_up_on_everybody_is_tried_less_than_once_a_second(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 1).await;
        let (_app, _sidecar) = announced(&cluster, "").await;
        cluster.kill_all();
        let calls = hangs_up(cluster.addr(0).port(), Duration::from_secs(30)).await;
        // When it hangs up at once, tonic calls it once more in each try.
        assert!((10..=60).contains(&calls), "{calls} calls in 30 s");
    }

    pub async fn a_key_that_somebody_else_has_is_left_alone(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let mut client = cluster.client();
        put(&mut client, KEY, "10.9.9.9:80").await;
        let app = Instance::start("web-1").await;
        let mut sidecar = Sidecar::start(&config(&app, &to(&cluster), "")).await;
        let error = error(&sidecar, SOON).await;
        assert!(error.contains("belongs to \"10.9.9.9:80\""), "{error}");
        sidecar.stop().await;
        let kv = keys(&cluster, 0).await.remove(0);
        assert_eq!((kv.value.as_slice(), kv.lease), (&b"10.9.9.9:80"[..], 0));
    }

    pub async fn a_later_life_keeps_the_key_that_it_took_over(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (_app, mut sidecar) = announced(&cluster, "").await;
        let mine = keys(&cluster, 0).await.remove(0).value;
        let mut client = cluster.client();
        let other = client.lease_grant(Duration::from_secs(60)).await.unwrap().id;
        put_leased(&mut client, KEY, &mine, other).await;
        sidecar.stop().await;
        let kv = keys(&cluster, 0).await.remove(0);
        assert_eq!((kv.lease, kv.value), (other, mine));
    }
}

mod cluster {
    use super::scenario::to;
    use crate::support::etcd::Cluster;
    use crate::support::registering::{SOON, config, key_is_there, keys, reaches, tells, told, with_etcd};
    use crate::support::{Instance, Sidecar};
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    async fn announced(cluster: &Cluster, to: &str) -> (Instance, Sidecar) {
        let app = Instance::start("web-1").await;
        let text = config(&app, to, "").replace("ttl = \"5s\"", "ttl = \"15s\"");
        let sidecar = Sidecar::start(&text).await;
        reaches(&sidecar, "announced", SOON).await;
        key_is_there(cluster, 0, 0, SOON).await;
        (app, sidecar)
    }

    /// For longer than the lease lives, the key is there under its lease.
    async fn never_missing(cluster: &Cluster, member: usize, lease: i64, span: Duration) {
        let end = Instant::now() + span;
        let mut client = cluster.client_of(member);
        while Instant::now() < end {
            let request = outrigger::registry::etcd::RangeRequest {
                key: b"/services/web/web-1".to_vec(),
                ..Default::default()
            };
            // An election answers nothing, which is not an absence.
            if let Ok(answer) = client.range(request).await {
                assert_eq!(answer.kvs.iter().map(|kv| kv.lease).collect::<Vec<_>>(), [lease]);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn s47_a_member_in_use_that_dies_or_freezes_costs_no_key(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 3).await;
        let all = (0..3).map(|n| cluster.addr(n).to_string()).collect::<Vec<_>>().join(",");
        let (_app, sidecar) = announced(&cluster, &format!("etcd://{all}")).await;
        let scenario = with_etcd(47, "member in use dies, freezes", &cluster, &sidecar);
        let lease = key_is_there(&cluster, 2, 0, SOON).await;
        cluster.stop(0);
        never_missing(&cluster, 2, lease, Duration::from_secs(20)).await;
        cluster.resume(0);
        cluster.serves(0).await;
        sleep(Duration::from_secs(2)).await;
        cluster.kill(1);
        never_missing(&cluster, 2, lease, Duration::from_secs(20)).await;
        cluster.kill(0);
        sleep(Duration::from_secs(3)).await;
        cluster.restart_all().await;
        never_missing(&cluster, 2, lease, Duration::from_secs(18)).await;
        assert_eq!(told(&sidecar).await["losses"], 0);
        scenario.end().await;
    }

    pub async fn s47_a_leader_that_dies_costs_no_key(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 3).await;
        let leader = cluster.leader();
        let [one, other] = [(leader + 1) % 3, (leader + 2) % 3];
        // The sidecar begins with a follower ...
        let to = [one, other, leader].map(|n| cluster.addr(n).to_string()).join(",");
        let (_app, sidecar) = announced(&cluster, &format!("etcd://{to}")).await;
        let lease = key_is_there(&cluster, other, 0, SOON).await;
        let mut scenario = with_etcd(47, "leader dies, then leader in use", &cluster, &sidecar);
        assert_eq!(cluster.leader(), leader);
        cluster.kill(leader);
        let since = Instant::now();
        cluster.serves(other).await;
        scenario.note(format!("election after {:.1?}", since.elapsed()));
        never_missing(&cluster, other, lease, Duration::from_secs(20)).await;
        tells(&sidecar, "vouched for again", SOON, |told| told["last_error"].is_null().then_some(())).await;
        cluster.restart_all().await;
        // ... and the leader of now may be that one or not: both are hurt, one after the other.
        for victim in [one, other] {
            cluster.kill(victim);
            never_missing(&cluster, leader, lease, Duration::from_secs(18)).await;
            cluster.restart_all().await;
        }
        assert_eq!(told(&sidecar).await["losses"], 0);
        scenario.end().await;
    }

    pub async fn s47_a_cluster_that_is_down_for_ten_seconds_costs_no_key(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 1).await;
        let (_app, sidecar) = announced(&cluster, &to(&cluster)).await;
        let mut scenario = with_etcd(47, "down for 10 s", &cluster, &sidecar);
        let lease = key_is_there(&cluster, 0, 0, SOON).await;
        cluster.kill_all();
        sleep(Duration::from_secs(10)).await;
        let since = Instant::now();
        cluster.restart_all().await;
        assert_eq!(keys(&cluster, 0).await[0].lease, lease);
        tells(&sidecar, "vouched for again", SOON, |told| told["last_error"].is_null().then_some(())).await;
        scenario.converged("vouched for again", since.elapsed(), Duration::from_secs(7));
        never_missing(&cluster, 0, lease, Duration::from_secs(18)).await;
        assert_eq!(told(&sidecar).await["losses"], 0);
        scenario.end().await;
    }
}
