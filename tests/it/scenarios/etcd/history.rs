//! Gaps in the history: between list and watch, amid a message, compacted away, lost with the disk, set back.

use super::wire::Wire;
use super::{SOON, Stage, delete, put, put_many};
use crate::support::etcd::Cluster;
use crate::support::registry::{events, key, states};
use crate::support::{Instance, Sidecar, eventually};
use std::time::Duration;
use tokio::time::Instant;

crate::support::etcd::on_both! {
    s32_nothing_is_lost_between_the_list_and_the_watch_nor_amid_a_message
    s33_what_was_compacted_is_listed_again_and_never_empty
    #[ignore = "slow: tests/run --all"]
    s39_an_empty_data_folder_is_doubted
    #[ignore = "slow: tests/run --all"]
    s44_a_revision_that_goes_back_is_listed_again
}

mod scenario {
    use super::*;

    pub async fn s32_nothing_is_lost_between_the_list_and_the_watch_nor_amid_a_message(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let wire = Wire::to(cluster.addr(0)).await;
        let stage = Stage::over(binary, cluster, &[wire.addr()], "").await;
        let mut scenario = stage.scenario(32, "put between list and watch; cut amid a txn of 100 keys");
        scenario.serves(3);

        // A second sidecar, whose words take 150 ms each: while it opens its watch, keys keep coming, behind its list too.
        wire.slow(Duration::from_millis(150));
        let from = format!("etcd://{}/services/web/", wire.addr());
        let late = Sidecar::launch(&format!("[service.web]\nfrom = \"{from}\"\n")).await;
        let mut written = 0;
        while written < 10 || states(&late, "web").await.len() < 3 {
            put(&stage.cluster, 0, &format!("idle-{written}"), &idle(written)).await;
            written += 1;
            assert!(written < 5000, "it never lists");
        }
        for _ in 0..20 {
            put(&stage.cluster, 0, &format!("idle-{written}"), &idle(written)).await;
            written += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eventually("all in the second", SOON, async || {
            (states(&late, "web").await.len() == 3 + usize::from(written)).then_some(())
        })
        .await;
        assert_eq!(events(&late, "source_failing").await, 0, "by a list again");
        wire.mend();
        drop(late);

        // The message about a hundred keys breaks in its midst.
        let keys: Vec<_> =
            (written..written + 100).map(|n| (key("web", &format!("idle-{n}")), idle(n))).collect();
        wire.cut_after(3000);
        put_many(stage.cluster.addr(0), &keys, 0).await;
        eventually("the cut", SOON, async || wire.is_cut().then_some(())).await;
        eventually("a stale source", SOON, async || stage.is("stale").await).await;
        let before = states(&stage.sidecar, "web").await.len();
        assert_eq!(before, 3 + usize::from(written), "half of a transaction is none");
        let updates = stage.source().await["updates"].as_u64().unwrap();
        wire.mend();
        let all = 3 + usize::from(written) + 100;
        scenario
            .converges("all hundred", Instant::now(), Duration::from_secs(3), async || {
                (states(&stage.sidecar, "web").await.len() == all).then_some(())
            })
            .await;
        assert_eq!(stage.source().await["updates"].as_u64().unwrap(), updates + 1, "in one step");
        scenario.end().await;
    }

    pub async fn s33_what_was_compacted_is_listed_again_and_never_empty(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let wire = Wire::to(cluster.addr(0)).await;
        let stage = Stage::over(binary, cluster, &[wire.addr()], "").await;
        let mut scenario = stage.scenario(33, "compaction past the resume revision");
        scenario.serves(3);
        let fourth = Instance::start("web-4").await;
        wire.cut();
        eventually("a stale source", SOON, async || stage.is("stale").await).await;
        scenario.holds(2);
        delete(&stage.cluster, 0, "web-1").await;
        put(&stage.cluster, 0, "web-4", &fourth.addr().to_string()).await;
        let mut etcd = stage.cluster.client();
        let revision = crate::support::etcd::put(&mut etcd, "elsewhere", "x").await;
        stage.cluster.ctl(&["compact", &revision.to_string()]);
        wire.mend();
        let mended = Instant::now();
        let fourth = fourth.addr().to_string();
        scenario
            .converges("the new instance", mended, Duration::from_secs(2), async || {
                let states = stage.sidecar.states("web").await;
                states.contains(&(fourth.clone(), "usable".to_owned())).then_some(())
            })
            .await;
        // That a key is gone was not seen, only that it is not there: a second list has to agree.
        scenario
            .converges("the end of the deleted", mended, Duration::from_secs(6), async || {
                stage.usable(3).await
            })
            .await;
        // The watch stands behind the list.
        delete(&stage.cluster, 0, "web-2").await;
        let limit = Duration::from_secs(2);
        scenario.converges("a change", Instant::now(), limit, async || stage.usable(2).await).await;
        scenario.end().await;
    }

    pub async fn s39_an_empty_data_folder_is_doubted(binary: &'static str) {
        const GRACE: Duration = Duration::from_secs(6);
        let mut stage = Stage::of(binary, 1, "empty_grace = \"6s\"\n").await;
        let mut scenario = stage.scenario(39, "member restarted with an empty data dir");
        let fourth = Instance::start("web-4").await;
        scenario.serves(3);
        stage.cluster.kill_all();
        stage.cluster.wipe(0);
        stage.cluster.restart_all().await;
        let back = Instant::now();
        let states = async || stage.states().await;
        scenario
            .converges("the loss", back, Duration::from_secs(10), async || {
                (states().await == ["suspect"; 3]).then_some(())
            })
            .await;
        let suspected = Instant::now();
        put(&stage.cluster, 0, "web-4", &fourth.addr().to_string()).await;
        scenario
            .converges("the new key", suspected, Duration::from_secs(2), async || {
                states().await.contains(&"usable".to_owned()).then_some(())
            })
            .await;
        tokio::time::sleep(GRACE.mul_f64(0.7).saturating_sub(suspected.elapsed())).await;
        assert_eq!(states().await.len(), 4, "held for its grace");
        scenario.holds(1);
        eventually("the end of the grace", SOON, async || stage.usable(1).await).await;
        let held = suspected.elapsed();
        assert!(held > GRACE.mul_f64(0.85) && held < GRACE + Duration::from_secs(4), "{held:?}");
        scenario.note(format!("old list held {held:.1?} of {GRACE:?}"));
        // And the rest is as before.
        let fifth = stage.another("web-5", 0).await;
        let limit = Duration::from_secs(2);
        scenario.converges("a change", Instant::now(), limit, async || stage.usable(2).await).await;
        drop((scenario.end().await, fifth));
    }

    pub async fn s44_a_revision_that_goes_back_is_listed_again(binary: &'static str) {
        let mut stage = Stage::of(binary, 1, "empty_grace = \"6s\"\n").await;
        let mut scenario = stage.scenario(44, "revision goes back: an older snapshot restored");
        scenario.serves(3);
        let file = stage.cluster.folder().join("backup");
        stage.cluster.ctl(&["snapshot", "save", file.to_str().unwrap()]);
        let fourth = stage.another("web-4", 0).await;
        eventually("the fourth", SOON, async || stage.usable(4).await).await;
        delete(&stage.cluster, 0, "web-1").await;
        eventually("three of them", SOON, async || stage.usable(3).await).await;
        stage.cluster.kill_all();
        stage.cluster.wipe(0);
        stage.cluster.restore(0, &file);
        stage.cluster.restart_all().await;
        // The first is back; the fourth is not in the list any more, and has two seconds until a second list agrees.
        let first = stage.instances[0].addr().to_string();
        scenario
            .converges("the older list", Instant::now(), Duration::from_secs(8), async || {
                let states = stage.sidecar.states("web").await;
                states.contains(&(first.clone(), "usable".to_owned())).then_some(())
            })
            .await;
        scenario.holds(2);
        eventually("the end of the doubt", SOON, async || stage.usable(3).await).await;
        let gone = (fourth.addr().to_string(), "usable".to_owned());
        assert!(!stage.sidecar.states("web").await.contains(&gone), "it was registered after the snapshot");
        scenario.end().await;
    }
}

/// An instance that is listed and never called.
fn idle(number: u16) -> String {
    format!(r#"{{"host":"127.9.{}.{}","port":9,"weight":0}}"#, number / 250, number % 250)
}
