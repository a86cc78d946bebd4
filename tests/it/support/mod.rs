//! What the behaviour tests stand on: free ports, child processes, the real servers, waiting for events.
#![allow(dead_code, unused_imports, reason = "a harness offers more than one run of it uses")]

mod byhand;
pub mod client;
pub mod clients;
pub mod consul;
mod consul_cluster;
pub mod dns;
pub mod etcd;
mod following;
mod instance;
mod load;
mod message;
pub mod metrics;
mod process;
pub mod raw;
pub mod registering;
pub mod registry;
mod relay;
mod scripted;
mod sidecar;
pub mod sockets;
pub mod watched;
pub mod web;

pub use byhand::{ByHand, facing};
pub use consul_cluster::ConsulCluster;
pub use following::{Following, follow};
pub use instance::{Instance, pattern};
pub use load::{Load, Report};
pub use process::Process;
pub use registry::Registry;
pub use relay::Relay;
pub use scripted::{Line, Scripted};
pub use sidecar::Sidecar;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

/// A port that was free a moment ago, below the range that the kernel hands to outgoing connections.
///
/// Ports are handed out in turn, so that two tests of one process never get the same one; the start depends on the
/// process id, so that two processes seldom meet.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const SPAN: u32 = 20_000;
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(61));
        let port = u16::try_from(FIRST + turn % SPAN).expect("a port");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TcpListener::bind(("::1", port)).is_ok()
        {
            return port;
        }
    }
}

/// The folder with the real servers (`consul`, `etcd`, `etcdctl`, `etcd35`, `etcdctl35`), as `tests/servers` made it.
pub fn server_binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("OUTRIGGER_TEST_SERVERS").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"),
                PathBuf::from,
            );
            cache.join("outrigger-test-servers")
        },
        PathBuf::from,
    );
    let binary = folder.join(name);
    assert!(binary.exists(), "{} is missing: run tests/servers first", binary.display());
    binary
}

/// Waits until `check` gives `Some`, asking every 10 ms; fails the test with `what` after `limit`.
pub async fn eventually<T>(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "not seen within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Held by tests that load the machine or measure time, so that they do not disturb each other.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}
