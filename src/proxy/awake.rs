//! The connections of one worker that do not rest, and whose turn it is to be asked whether they may.

use super::client::Client;
use std::sync::Arc;
use tokio::time::Instant;

/// How many are asked whenever one more wakes up. With more than one, a crowd of clients that come one by one and ask
/// once is never awake all at the same time.
const ASKED: usize = 4;

/// A list from which each can be taken in one step.
#[derive(Debug, Default)]
pub(super) struct Awake {
    clients: Vec<Arc<Client>>,
    turn: usize,
}

impl Awake {
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().map(|client| &**client)
    }

    /// Takes in one more, and lets some of the others rest who may.
    pub fn add(&mut self, client: &Arc<Client>, now: Instant) {
        for _ in 0..ASKED.min(self.clients.len()) {
            self.turn += 1;
            if self.turn >= self.clients.len() {
                self.turn = 0;
            }
            if let Some(next) = self.clients.get(self.turn) {
                next.tire(now);
            }
        }
        client.set_rank(self.clients.len());
        self.clients.push(Arc::clone(client));
    }

    pub fn remove(&mut self, client: &Client) {
        let rank = client.rank();
        if self.clients.get(rank).is_some_and(|one| std::ptr::eq(&**one, client)) {
            self.clients.swap_remove(rank);
            if let Some(moved) = self.clients.get(rank) {
                moved.set_rank(rank);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Cluster, ClusterSettings};
    use crate::model::ServiceName;
    use std::time::Duration;

    fn client(cluster: &Arc<Cluster>, now: Instant) -> Arc<Client> {
        Client::new("127.0.0.1:1".parse().unwrap(), false, cluster, 0, now)
    }

    fn cluster() -> Arc<Cluster> {
        let settings = ClusterSettings::new(ServiceName::new("web").unwrap());
        Cluster::new(settings, Vec::new(), 1, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn each_can_be_taken_from_the_list_in_any_order() {
        let (cluster, now) = (cluster(), Instant::now());
        let clients: Vec<_> = (0..5).map(|_| client(&cluster, now)).collect();
        let mut awake = Awake::default();
        clients.iter().for_each(|client| awake.add(client, now));
        for gone in [4, 0, 2, 1, 3] {
            awake.remove(&clients[gone]);
            // Taken twice is taken once.
            awake.remove(&clients[gone]);
            let left: Vec<_> = awake.iter().map(std::ptr::from_ref).collect();
            assert!(!left.contains(&Arc::as_ptr(&clients[gone])), "{gone}");
        }
        assert!(awake.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_comes_one_by_one_is_never_awake_together() {
        let (cluster, mut now) = (cluster(), Instant::now());
        let mut awake = Awake::default();
        let mut most = 0;
        for _ in 0..10_000 {
            now += Duration::from_micros(200);
            awake.add(&client(&cluster, now), now);
            let tired: Vec<_> = awake.clients.iter().filter(|client| client.is_tired()).cloned().collect();
            tired.iter().for_each(|client| awake.remove(client));
            most = most.max(awake.clients.len());
        }
        assert!(most < 40, "{most} awake, although each asked only once");
    }
}
