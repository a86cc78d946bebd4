//! Members that die, freeze, lose their leader, and come back.

use super::wire::Wire;
use super::{SOON, Stage, delete, leader, put};
use crate::support::etcd::Cluster;
use crate::support::registry::three;
use crate::support::{Instance, Sidecar, eventually};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

crate::support::etcd::on_both! {
    s34_a_killed_member_hands_the_watch_to_another
    #[ignore = "slow: tests/run --all"]
    s36_many_services_share_their_connections
    #[ignore = "slow: tests/run --all"]
    s35_a_stopped_member_is_left_and_not_used_again
    #[ignore = "slow: tests/run --all"]
    s36_all_members_are_killed_and_stopped
    #[ignore = "slow: tests/run --all"]
    s37_without_a_quorum_the_lack_of_a_leader_is_told
    #[ignore = "slow: tests/run --all"]
    s38_a_killed_leader_is_not_felt_on_a_follower
}

/// Three members; and their addresses, the leader's last.
async fn three_members(binary: &'static str) -> (Cluster, Vec<usize>) {
    let cluster = Cluster::start(binary, 3).await;
    let leader = leader(&cluster, 3);
    let mut order: Vec<_> = (0..3).filter(|member| *member != leader).collect();
    order.push(leader);
    (cluster, order)
}

fn addrs(cluster: &Cluster, order: &[usize]) -> Vec<SocketAddr> {
    order.iter().map(|member| cluster.addr(*member)).collect()
}

mod scenario {
    use super::*;

    pub async fn s34_a_killed_member_hands_the_watch_to_another(binary: &'static str) {
        let (cluster, order) = three_members(binary).await;
        let addrs = addrs(&cluster, &order);
        let mut stage = Stage::over(binary, cluster, &addrs, "").await;
        let mut scenario = stage.scenario(34, "member with the watch SIGKILLed");
        let fourth = Instance::start("web-4").await;
        scenario.serves(3);
        stage.cluster.kill(order[0]);
        let killed = Instant::now();
        put(&stage.cluster, order[1], "web-4", &fourth.addr().to_string()).await;
        scenario
            .converges("a change", killed, Duration::from_millis(1500), async || stage.usable(4).await)
            .await;
        assert!(stage.errors().await >= 1, "the watch was at that member");
        scenario.holds(3);
        delete(&stage.cluster, order[1], "web-1").await;
        let limit = Duration::from_secs(1);
        scenario.converges("another", Instant::now(), limit, async || stage.usable(3).await).await;
        scenario.end().await;
    }

    pub async fn s35_a_stopped_member_is_left_and_not_used_again(binary: &'static str) {
        let (cluster, order) = three_members(binary).await;
        // The two that stay are reached by wires, so that the sidecar can be made to look for another member.
        let wires = [Wire::to(cluster.addr(order[1])).await, Wire::to(cluster.addr(order[2])).await];
        let addrs = [cluster.addr(order[0]), wires[0].addr(), wires[1].addr()];
        let stage = Stage::over(binary, cluster, &addrs, "").await;
        let mut scenario = stage.scenario(35, "member with the watch SIGSTOPped");
        scenario.serves(3);
        let fourth = Instance::start("web-4").await;
        stage.cluster.stop(order[0]);
        let stopped = Instant::now();
        put(&stage.cluster, order[1], "web-4", &fourth.addr().to_string()).await;
        scenario
            .converges("the stop is noticed", stopped, Duration::from_secs(8), async || {
                (stage.errors().await >= 1).then_some(())
            })
            .await;
        scenario
            .converges("a change on another", stopped, Duration::from_secs(10), async || {
                stage.usable(4).await
            })
            .await;
        // While another answers the stopped one is left alone ...
        let errors = stage.errors().await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(stage.errors().await, errors);
        // ... and when its turn comes, a question decides: it costs two seconds and not the connection's whole time.
        wires[1].cut();
        wires[0].cut();
        eventually("a failing source", SOON, async || stage.is("stale").await).await;
        wires[0].mend();
        wires[1].mend();
        let mended = Instant::now();
        let fifth = stage.another("web-5", order[1]).await;
        scenario
            .converges("past the stopped one", mended, Duration::from_secs(5), async || stage.usable(5).await)
            .await;
        stage.cluster.resume(order[0]);
        drop((scenario.end().await, fifth));
    }

    pub async fn s36_all_members_are_killed_and_stopped(binary: &'static str) {
        let mut stage = Stage::of(binary, 3, "").await;
        let mut scenario = stage.scenario(36, "all members SIGKILLed 10 s; SIGSTOPped 15 s");
        scenario.serves(3);
        stage.cluster.kill_all();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(stage.source().await["state"], "stale");
        assert_eq!(stage.usable(3).await, Some(()));
        stage.cluster.restart_all().await;
        let back = Instant::now();
        let fourth = stage.another("web-4", 0).await;
        let limit = Duration::from_secs(12);
        scenario.converges("a change after their death", back, limit, async || stage.usable(4).await).await;

        (0..3).for_each(|member| stage.cluster.stop(member));
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(stage.source().await["state"], "stale");
        (0..3).for_each(|member| stage.cluster.resume(member));
        let back = Instant::now();
        let fifth = stage.another("web-5", 0).await;
        scenario.converges("a change after the stop", back, limit, async || stage.usable(5).await).await;
        drop((scenario.end().await, fourth, fifth));
    }

    pub async fn s36_many_services_share_their_connections(binary: &'static str) {
        const SERVICES: usize = 20;
        let cluster = Cluster::start(binary, 1).await;
        let instances = three().await;
        let mut config = format!("[etcd]\nendpoints = [\"http://{}\"]\n", cluster.addr(0));
        for instance in &instances {
            put(&cluster, 0, instance.name(), &instance.addr().to_string()).await;
        }
        for number in 0..SERVICES {
            let name = if number == 0 { "web".to_owned() } else { format!("other-{number}") };
            config += &format!("[service.{name}]\nfrom = \"etcd:web\"\n");
        }
        let sidecar = Sidecar::start(&config).await;
        let ports = vec![cluster.addr(0).port()];
        let mut stage = Stage { binary, cluster, instances, sidecar, ports };
        let mut scenario = stage.scenario(36, "20 services share a connection, member SIGKILLed 3 times");
        scenario.serves(3);
        for _ in 0..3 {
            stage.cluster.kill_all();
            eventually("a stale source", SOON, async || stage.is("stale").await).await;
            stage.cluster.restart_all().await;
            scenario
                .converges("all live", Instant::now(), Duration::from_secs(12), async || {
                    let up = stage.sidecar.metric("outrigger_source_up").await;
                    (up == SERVICES as f64).then_some(())
                })
                .await;
        }
        scenario.end().await;
    }

    pub async fn s37_without_a_quorum_the_lack_of_a_leader_is_told(binary: &'static str) {
        let (cluster, order) = three_members(binary).await;
        let addrs = addrs(&cluster, &order);
        let stage = Stage::over(binary, cluster, &addrs, "").await;
        let mut scenario = stage.scenario(37, "2 of 3 stopped, watch on the third");
        scenario.serves(3);
        stage.cluster.stop(order[1]);
        stage.cluster.stop(order[2]);
        let stopped = Instant::now();
        scenario
            .converges("no leader is told", stopped, Duration::from_secs(6), async || {
                stage.says("no leader").await
            })
            .await;
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(stage.source().await["state"], "stale");
        assert_eq!(stage.usable(3).await, Some(()));
        stage.cluster.resume(order[1]);
        stage.cluster.resume(order[2]);
        let back = Instant::now();
        let fourth = stage.another("web-4", order[0]).await;
        scenario.converges("a change", back, Duration::from_secs(12), async || stage.usable(4).await).await;
        drop((scenario.end().await, fourth));
    }

    pub async fn s38_a_killed_leader_is_not_felt_on_a_follower(binary: &'static str) {
        let (cluster, order) = three_members(binary).await;
        let addrs = addrs(&cluster, &order);
        let mut stage = Stage::over(binary, cluster, &addrs, "").await;
        let mut scenario = stage.scenario(38, "leader SIGKILLed, watch on a follower");
        let fourth = Instance::start("web-4").await;
        scenario.serves(3);
        stage.cluster.kill(order[2]);
        let killed = Instant::now();
        put(&stage.cluster, order[0], "web-4", &fourth.addr().to_string()).await;
        let led = Instant::now();
        scenario
            .converges("a change once there is a leader", led, Duration::from_millis(500), async || {
                stage.usable(4).await
            })
            .await;
        scenario.note(format!("written {:.1?} after the kill", led - killed));
        if stage.errors().await > 0 {
            // etcd itself ends a watch after about three seconds without a leader.
            assert_eq!(stage.says("no leader").await, Some(()), "{}", stage.source().await);
            scenario.note("the election took too long for the watch");
        }
        scenario.end().await;
    }
}
