//! Several real Consul servers, and client agents that know them.

use super::consul::{ConsulAgent, Ports};
use super::eventually;
use std::time::Duration;

/// A running cluster. Its agents are killed when it is dropped.
#[derive(Debug)]
pub struct ConsulCluster {
    /// Their nodes are called `s1`, `s2` ...
    pub servers: Vec<ConsulAgent>,
    /// `c1`, `c2` ...
    pub clients: Vec<ConsulAgent>,
    /// Of the servers.
    ports: Vec<Ports>,
}

impl ConsulCluster {
    /// Starts servers and clients, and waits until each of them answers.
    pub async fn start(servers: usize, clients: usize) -> Self {
        let ports: Vec<_> = (0..servers).map(|_| Ports::free()).collect();
        let mut join: Vec<_> = ports.iter().map(|p| format!("-retry-join=127.0.0.1:{}", p.serf)).collect();
        join.push("-retry-interval=1s".to_owned());
        let mut expect = join.clone();
        expect.push(format!("-bootstrap-expect={servers}"));
        // A server that was killed stays a member, and votes as soon as it is back.
        expect.push("-hcl=autopilot { cleanup_dead_servers = false }".to_owned());
        let server = |(n, ports): (usize, &Ports)| {
            ConsulAgent::member(true, &format!("s{}", n + 1), *ports, expect.clone())
        };
        let client =
            |n: usize| ConsulAgent::member(false, &format!("c{}", n + 1), Ports::free(), join.clone());
        let cluster = Self {
            servers: ports.iter().enumerate().map(server).collect(),
            clients: (0..clients).map(client).collect(),
            ports,
        };
        for agent in cluster.servers.iter().chain(&cluster.clients) {
            agent.ready().await;
        }
        cluster
    }

    /// Waits until a server other than `not` leads; its number. `not` is not asked, and may be dead.
    pub async fn leader(&self, not: Option<usize>) -> usize {
        eventually("a leader", Duration::from_secs(60), async || {
            for (n, server) in self.servers.iter().enumerate() {
                if Some(n) == not {
                    continue;
                }
                let leader = server.leader().await?;
                let number = self.ports.iter().position(|p| leader.ends_with(&format!(":{}", p.server)))?;
                return (Some(number) != not).then_some(number);
            }
            None
        })
        .await
    }
}
