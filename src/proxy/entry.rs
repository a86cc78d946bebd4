//! Connections that are not HTTP from their first byte on: what comes ahead of it, and TCP.

use super::client::Client;
use super::connection::{self, Watched};
use super::error::Fault;
use super::place::Place;
use super::proxy_protocol::{self, Addresses};
use super::tcp;
use super::transport::Transport;
use super::welcome::Doorman;
use super::worker::{Seat, Worker};
use crate::cluster::Cluster;
use crate::policy::Protocol;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// HTTP, and nothing ahead of it.
pub(super) fn is_plain(cluster: &Cluster) -> bool {
    cluster.settings.protocol == Protocol::Http && !cluster.settings.proxy_protocol.accept
}

/// Serves one client connection to its end.
pub(super) async fn run(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    cluster: Arc<Cluster>,
    doorman: Option<Doorman>,
    place: Place,
) {
    let settings = &cluster.settings;
    let mut told = None;
    if settings.proxy_protocol.accept {
        let begun = Instant::now();
        let _entering = Entering::new(&worker);
        match proxy_protocol::read(&mut stream, worker.shared.limits.head_timeout).await {
            Ok(addresses) => told = addresses,
            Err(error) => {
                tracing::debug!(service = %cluster.name(), %peer, %error, "connection refused");
                let code = Fault::Malformed.status().as_u16();
                cluster.tally(worker.index).request(code, begun.elapsed());
                return tcp::reset(&stream);
            }
        }
    }
    let from = told.as_ref().map_or(peer, |told| told.source);
    let client = Client::new(from, doorman.is_some(), &cluster, worker.index, Instant::now());
    let seat = Rc::new(Seat::take(&worker, client, place));
    match settings.protocol {
        Protocol::Http => connection::run(seat, stream, doorman).await,
        Protocol::Tcp => {
            let to = |stream: &TcpStream| stream.local_addr().ok();
            let own = || Some(Addresses { source: peer, destination: to(&stream)? });
            let addresses = told.or_else(own);
            let stream = match doorman {
                None => Transport::Plain(stream),
                Some(doorman) => {
                    match Box::pin(doorman.welcome(&seat, stream, &mut Watched::default())).await {
                        Some(stream) => stream,
                        None => return,
                    }
                }
            };
            tcp::serve(seat, stream, addresses).await;
        }
    }
}

/// Counts as a client before it is one: a stop waits for it, too.
struct Entering<'a>(&'a Worker);

impl<'a> Entering<'a> {
    fn new(worker: &'a Worker) -> Self {
        worker.entering.set(worker.entering.get() + 1);
        Self(worker)
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.0.entering.set(self.0.entering.get().saturating_sub(1));
    }
}
