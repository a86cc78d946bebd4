//! Leases that run out together, which nobody can have meant, and those that somebody revoked.

use super::SOON;
use crate::support::etcd::{Cluster, PREFIX, put_leased, query, value};
use crate::support::{Following, Process, eventually, follow, server_binary};
use outrigger::discovery::Trust;
use outrigger::discovery::etcd::Etcd;
use std::process::Command;
use std::time::Duration;

crate::support::etcd::on_both! {
    leases_that_run_out_together_are_unmeant
    one_revoked_lease_and_one_deletion_are_meant
}

/// A lease that `etcdctl` keeps alive until it is stopped.
struct Kept {
    id: i64,
    keeper: Process,
}

async fn keep(cluster: &Cluster, ttl: u64) -> Kept {
    let id = cluster.client().lease_grant(Duration::from_secs(ttl)).await.unwrap().id;
    let mut command = Command::new(server_binary("etcdctl35"));
    command.arg(format!("--endpoints={}", cluster.url(0))).args(["lease", "keep-alive", &format!("{id:x}")]);
    let keeper = Process::start(&mut command, &cluster.folder().join(format!("lease-{id:x}")));
    eventually("a beat", SOON, async || keeper.output().contains("keepalived").then_some(())).await;
    Kept { id, keeper }
}

fn watching(cluster: &Cluster) -> Following {
    follow(Etcd::new(cluster.settings(), query()))
}

mod scenario {
    use super::*;

    pub async fn leases_that_run_out_together_are_unmeant(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let mut leases = Vec::new();
        for port in 1..=5 {
            let lease = keep(&cluster, 2).await;
            put_leased(&mut cluster.client(), &format!("{PREFIX}{port}"), value(port), lease.id).await;
            leases.push(lease);
        }
        let following = watching(&cluster);
        following.sees(1..=5, SOON).await;
        // They are beaten until here.
        tokio::time::sleep(Duration::from_secs(4)).await;
        following.trusted_all_along();
        assert_eq!(following.last().unwrap().set.len(), 5);
        for lease in &leases {
            lease.keeper.signal("STOP");
        }
        following.sees([], SOON).await;
        let last = following.last().unwrap();
        assert!(matches!(last.trust, Trust::Unmeant(_)), "{:?}", following.answers());
        // However etcd's looks at its leases cut them up: the three that make it a mass loss go in one answer.
        let sizes: Vec<_> = following.answers().iter().map(|answer| answer.set.len()).collect();
        assert!(sizes.windows(2).any(|pair| pair[0] >= pair[1] + 3), "{sizes:?}");
        // Once they are back, a deletion is a deletion.
        for port in 1..=5 {
            crate::support::etcd::put(&mut cluster.client(), &format!("{PREFIX}{port}"), value(port)).await;
        }
        following.sees(1..=5, SOON).await;
        assert_eq!(following.last().unwrap().trust, Trust::Trusted);
        assert_eq!(following.errors(), Vec::<String>::new());
    }

    pub async fn one_revoked_lease_and_one_deletion_are_meant(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let mut etcd = cluster.client();
        let shared = etcd.lease_grant(Duration::from_secs(60)).await.unwrap().id;
        for port in 1..=5 {
            put_leased(&mut etcd, &format!("{PREFIX}{port}"), value(port), shared).await;
        }
        let following = watching(&cluster);
        following.sees(1..=5, SOON).await;
        etcd.lease_revoke(shared).await.unwrap();
        following.sees([], SOON).await;
        for port in 1..=5 {
            let own = etcd.lease_grant(Duration::from_secs(60)).await.unwrap().id;
            put_leased(&mut etcd, &format!("{PREFIX}{port}"), value(port), own).await;
        }
        following.sees(1..=5, SOON).await;
        cluster.ctl(&["del", "--prefix", PREFIX]);
        following.sees([], SOON).await;
        following.trusted_all_along();
    }
}
