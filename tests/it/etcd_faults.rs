//! The etcd source when etcd fails: resumption, and what is believed after a loss.

use crate::support::etcd::{Cluster, delete, key, put, query, request, value};
use crate::support::{Following, Relay, follow};
use outrigger::discovery::etcd::Etcd;
use outrigger::discovery::{Answer, EtcdQuery, Link, Trust};
use outrigger::registry::etcd::{EtcdError, EtcdSettings};
use std::time::Duration;
use tokio::time::Instant;

fn watching(settings: EtcdSettings, query: EtcdQuery) -> Following {
    follow(Etcd::new(settings, query))
}

crate::support::etcd::on_both! {
    a_compaction_while_disconnected_is_listed_again_and_never_empty
    a_stopped_member_is_noticed_and_another_one_used
    a_restarted_cluster_is_picked_up_where_it_was
    lost_data_is_doubted
    lost_data_that_has_grown_again_is_doubted
    silence_is_asked_about
}

/// What the tests that run against both versions do.
mod scenario {
    use super::*;

    pub async fn a_compaction_while_disconnected_is_listed_again_and_never_empty(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let mut etcd = cluster.client();
        for port in 1..=4 {
            put(&mut etcd, &key(port), value(port)).await;
        }
        let relay = Relay::to(cluster.addr(0)).await;
        let following = watching(cluster.settings_by(&relay), query());
        following.sees(1..=4, Duration::from_secs(10)).await;
        relay.cut();
        following.fails("Failed", Duration::from_secs(5)).await;
        delete(&mut etcd, &key(1)).await;
        put(&mut etcd, &key(5), value(5)).await;
        for _ in 0..10 {
            put(&mut etcd, "elsewhere", "x").await;
        }
        let revision = put(&mut etcd, &key(2), value(6)).await;
        cluster.ctl(&["compact", &revision.to_string()]);
        relay.mend();
        following.sees([3, 4, 5, 6], Duration::from_secs(5)).await;
        following.never_said_less_than(4);
        let answer = following.last().unwrap();
        assert!(matches!(answer.trust, Trust::Doubtful(_)), "a key is gone and nobody saw it go");
        // The watch stands again.
        put(&mut etcd, &key(7), value(7)).await;
        following.sees([3, 4, 5, 6, 7], Duration::from_secs(5)).await;
        // Also behind the list, with nothing missing, the answer is trusted.
        put(&mut etcd, &key(1), value(1)).await;
        put(&mut etcd, &key(8), value(8)).await;
        following.sees([1, 3, 4, 5, 6, 7, 8], Duration::from_secs(5)).await;
        put(&mut etcd, &key(9), value(9)).await;
        following.sees([1, 3, 4, 5, 6, 7, 8, 9], Duration::from_secs(5)).await;
        assert_eq!(following.last().unwrap().trust, Trust::Trusted);
    }

    pub async fn a_stopped_member_is_noticed_and_another_one_used(binary: &'static str) {
        let cluster = Cluster::start(binary, 3).await;
        let mut etcd = cluster.client_of(1);
        put(&mut etcd, &key(1), value(1)).await;
        let following = watching(cluster.settings(), query());
        following.sees([1], Duration::from_secs(10)).await;
        cluster.stop(0);
        let stopped = Instant::now();
        // Member 0 may have been the leader: until there is another, a put waits or fails.
        let mut etcd = cluster.client_of(2);
        while etcd.put(request(&key(2), &value(2))).await.is_err() {
            assert!(stopped.elapsed() < Duration::from_secs(30), "no leader");
        }
        following.sees([1, 2], Duration::from_secs(15)).await;
        let noticed = stopped.elapsed();
        assert!(noticed < Duration::from_secs(12), "{noticed:?}");
        following.never_said_less_than(1);
        following.trusted_all_along();
        cluster.resume(0);
    }

    pub async fn a_restarted_cluster_is_picked_up_where_it_was(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 1).await;
        let mut etcd = cluster.client();
        for port in 1..=3 {
            put(&mut etcd, &key(port), value(port)).await;
        }
        let following = watching(cluster.settings(), query());
        following.sees(1..=3, Duration::from_secs(10)).await;
        cluster.kill_all();
        following.fails("refused", Duration::from_secs(5)).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(following.feed.status.view(Instant::now()).link, Link::Stale);
        assert_eq!(following.last().unwrap().set.len(), 3, "kept while nobody answers");
        cluster.restart_all().await;
        delete(&mut cluster.client(), &key(1)).await;
        following.sees([2, 3], Duration::from_secs(10)).await;
        assert_eq!(following.feed.status.view(Instant::now()).link, Link::Live);
        following.never_said_less_than(2);
        following.trusted_all_along();
    }

    pub async fn lost_data_is_doubted(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 1).await;
        let mut etcd = cluster.client();
        for port in 1..=5 {
            put(&mut etcd, &key(port), value(port)).await;
        }
        let following = watching(cluster.settings(), query());
        following.sees(1..=5, Duration::from_secs(10)).await;
        cluster.kill_all();
        cluster.wipe(0);
        cluster.restart_all().await;
        let empty = |answer: &Answer| answer.set.is_empty();
        let answer = following.answers_with("the loss", Duration::from_secs(10), empty).await;
        assert!(matches!(answer.trust, Trust::Doubtful(_)), "{answer:?}");
        // Asking again does not make it more credible, and neither does the first one to come back.
        following.feed.nudge();
        put(&mut cluster.client(), &key(1), value(1)).await;
        following.sees([1], Duration::from_secs(5)).await;
        for answer in following.answers().iter().skip(1) {
            assert!(answer.set.len() == 5 || answer.trust != Trust::Trusted, "{answer:?}");
        }
        // All are back: the doubt is over.
        for port in 2..=6 {
            put(&mut cluster.client(), &key(port), value(port)).await;
        }
        following.sees(1..=6, Duration::from_secs(5)).await;
        delete(&mut cluster.client(), &key(6)).await;
        following.sees(1..=5, Duration::from_secs(5)).await;
        assert_eq!(following.last().unwrap().trust, Trust::Trusted);
    }

    pub async fn lost_data_that_has_grown_again_is_doubted(binary: &'static str) {
        let mut cluster = Cluster::start(binary, 1).await;
        let mut etcd = cluster.client();
        for port in 1..=5 {
            put(&mut etcd, &key(port), value(port)).await;
        }
        let relay = Relay::to(cluster.addr(0)).await;
        let following = watching(cluster.settings_by(&relay), query());
        following.sees(1..=5, Duration::from_secs(10)).await;
        relay.cut();
        cluster.kill_all();
        cluster.wipe(0);
        cluster.restart_all().await;
        let mut etcd = cluster.client();
        for _ in 0..20 {
            put(&mut etcd, "elsewhere", "x").await;
        }
        put(&mut etcd, &key(1), value(1)).await;
        relay.mend();
        following.sees([1], Duration::from_secs(10)).await;
        assert!(matches!(following.last().unwrap().trust, Trust::Doubtful(_)));
    }

    pub async fn silence_is_asked_about(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        put(&mut cluster.client(), &key(1), value(1)).await;
        let query = EtcdQuery {
            silence: Duration::from_millis(500),
            progress_timeout: Duration::from_secs(1),
            ..query()
        };
        let mut settings = cluster.settings();
        // Not HTTP/2's own keep-alive is to notice here.
        settings.keep_alive = Duration::from_secs(300);
        let following = watching(settings, query);
        following.sees([1], Duration::from_secs(10)).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(following.errors(), Vec::<String>::new(), "it answers when asked");
        cluster.stop(0);
        following.fails("no sign of life", Duration::from_secs(5)).await;
        // The kernel still accepts connections for it: that is not enough to call it reachable.
        let asked = Instant::now();
        let answer = cluster.client().put(request(&key(3), &value(3))).await;
        assert!(matches!(answer, Err(EtcdError::Unavailable(_))), "{answer:?}");
        assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
        cluster.resume(0);
        put(&mut cluster.client(), &key(2), value(2)).await;
        following.sees([1, 2], Duration::from_secs(10)).await;
        following.trusted_all_along();
    }
}

#[tokio::test]
async fn without_a_quorum_the_list_is_kept_and_the_lack_is_named() {
    let mut cluster = Cluster::start("etcd", 3).await;
    let mut etcd = cluster.client();
    put(&mut etcd, &key(1), value(1)).await;
    let following = watching(cluster.settings(), query());
    following.sees([1], Duration::from_secs(10)).await;
    cluster.kill(1);
    cluster.kill(2);
    following.fails("no leader", Duration::from_secs(15)).await;
    let before = following.said().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let tries = following.said().len() - before;
    assert!(tries < 30, "{tries} questions in 3 s although a member refuses at once");
    cluster.restart_all().await;
    put(&mut cluster.client_of(1), &key(2), value(2)).await;
    following.sees([1, 2], Duration::from_secs(15)).await;
    following.never_said_less_than(1);
    following.trusted_all_along();
}

#[tokio::test]
async fn a_quiet_watch_is_no_nuisance_to_the_server() {
    let cluster = Cluster::start("etcd", 1).await;
    put(&mut cluster.client(), &key(1), value(1)).await;
    // etcd closes connections that ping more often than every 5 s: only pings go over the wire here.
    let query = EtcdQuery { silence: Duration::from_secs(300), ..query() };
    let following = watching(cluster.settings(), query);
    following.sees([1], Duration::from_secs(10)).await;
    tokio::time::sleep(Duration::from_secs(32)).await;
    assert_eq!(following.errors(), Vec::<String>::new());
    put(&mut cluster.client(), &key(2), value(2)).await;
    following.sees([1, 2], Duration::from_secs(5)).await;
}
