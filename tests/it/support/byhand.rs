//! A server whose every move the test makes itself, and a sidecar in front of one address.

use super::Sidecar;
use super::client::Connection;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpListener;

/// Listens, and hands every connection to the test.
#[derive(Debug)]
pub struct ByHand(TcpListener);

impl ByHand {
    pub async fn start() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port"))
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// The next connection; fails the test when there is none for 10 s.
    pub async fn accept(&self) -> Connection {
        let accepted = tokio::time::timeout(Duration::from_secs(10), self.0.accept()).await;
        Connection::from(accepted.expect("a connection in time").expect("a connection").0)
    }

    /// Whether nobody connects for so long.
    pub async fn is_left_alone(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.0.accept()).await.is_err()
    }
}

/// A sidecar with one worker and the service `web` at one address, tried once; `more` is TOML that begins inside
/// `[service.web]`.
pub async fn facing(addr: SocketAddr, more: &str) -> Sidecar {
    Sidecar::start(&format!(
        "workers = 1\n[service.web]\nfrom = \"static://{addr}\"\nretry.attempts = 1\n{more}"
    ))
    .await
}
