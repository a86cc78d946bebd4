//! Talking to a target: this worker's connections to it, and what a failed exchange says about what was sent.

mod body;
mod chunks;
mod connect;
mod error;
mod exchange;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod h2;
mod head;
mod multiplex;
mod outgoing;
mod pool;
mod socket;
mod tunnel;
mod wire;

use crate::net::tls::TlsClient;
use std::time::Duration;

pub use body::{BrokenBody, UpstreamBody};
pub use connect::connect_for_bytes;
pub use error::{Cause, SendError, Stage};
pub use exchange::{Reply, Sending};
pub use head::{Fields, Head};
pub use outgoing::Framing;
pub use pool::Upstream;
pub use socket::Socket;
pub use tunnel::Tunnel;

/// How long what is left of a request may stand still after its answer was complete.
const STUCK: Duration = Duration::from_secs(300);

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
    pub http: HttpVersion,
    /// What instances are reached with over TLS; `None` is plain TCP.
    pub tls: Option<TlsClient>,
}

/// Which HTTP instances are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// What TLS agrees on; without it HTTP/2 for gRPC and HTTP/1.1 for all others.
    #[default]
    Auto,
    /// HTTP/1.1.
    One,
    /// HTTP/2, without TLS by prior knowledge (RFC 9113, section 3.3).
    Two,
}

impl HttpVersion {
    pub const ALL: [Self; 3] = [Self::Auto, Self::One, Self::Two];

    /// As the configuration calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::One => "1",
            Self::Two => "2",
        }
    }

    /// What is offered over TLS (RFC 7301), the preferred one first.
    pub fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Auto => &[b"h2", b"http/1.1"],
            Self::One => &[b"http/1.1"],
            Self::Two => &[b"h2"],
        }
    }
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            keep_alive: Duration::from_secs(15),
            keep_alive_connections: 256,
            drain: Duration::from_secs(30),
            http: HttpVersion::default(),
            tls: None,
        }
    }
}
