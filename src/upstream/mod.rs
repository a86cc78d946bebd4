//! Talking to a target: this worker's connections to it, and what a failed exchange says about what was sent.

mod body;
mod chunks;
mod connect;
mod error;
mod exchange;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod head;
mod outgoing;
mod pool;
mod tunnel;
mod wire;

use std::time::Duration;

pub use body::{BrokenBody, UpstreamBody};
pub use error::{Cause, SendError, Stage};
pub use exchange::{Reply, Sending};
pub use head::{Fields, Head};
pub use outgoing::Framing;
pub use pool::Upstream;
pub use tunnel::Tunnel;

/// How the connections to a service's targets are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// For a new TCP connection to come about.
    pub connect: Duration,
    /// An unused connection is kept this long ...
    pub keep_alive: Duration,
    /// ... and so many of them, per target and worker.
    pub keep_alive_connections: usize,
    /// What runs at a removed target may go on this long.
    pub drain: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            keep_alive: Duration::from_secs(15),
            keep_alive_connections: 256,
            drain: Duration::from_secs(30),
        }
    }
}
