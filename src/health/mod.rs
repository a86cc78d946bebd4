//! Judging instances by asking them.

mod checker;
mod dial;
mod ejector;
mod grpc;
mod http;
mod http2;
mod pace;
mod probe;
mod rounds;
mod schedule;
#[cfg(test)]
mod tests;
mod verdict;

pub use checker::check;
pub use ejector::{Ejections, eject};
pub use grpc::GrpcRefusal;
pub use pace::Pace;
pub use probe::{Probe, ProbeError};
pub use schedule::Schedule;
pub use verdict::{State as VerdictState, Verdict};

use crate::net::tls::TlsClient;
use crate::upstream::HttpVersion;
use ::http::{HeaderName, HeaderValue, Method};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Active checks of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSettings {
    pub kind: CheckKind,
    /// Between two checks of one healthy target.
    pub interval: Duration,
    /// For the whole check, connection included.
    pub timeout: Duration,
    /// Passes in a row that bring a failed target back.
    pub rise: u32,
    /// Failures in a row that take a target out. The first verdict on a new target needs one check only.
    pub fall: u32,
    /// Share by which each interval varies, 0 to 1.
    pub jitter: f64,
    /// Interval of a failed target: begins at `unhealthy_interval` and doubles ...
    pub unhealthy_interval: Duration,
    /// ... up to this.
    pub unhealthy_interval_max: Duration,
    /// Checked instead of the endpoint's own port.
    pub port: Option<u16>,
    /// HTTPS, or a TCP check whose TLS handshake must succeed too.
    pub tls: Option<TlsClient>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    Http(HttpCheck),
    /// gRPC's health checking protocol, about this service; about the server as a whole if it has no name.
    Grpc(String),
    /// The connection is accepted, and TLS over it if the check has it.
    Tcp,
}

/// What is asked, and which answer passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `Host` instead of the endpoint's address.
    pub host: Option<String>,
    /// Statuses that pass.
    pub expect: Vec<RangeInclusive<u16>>,
    /// Text that the first 64 KiB of the body must contain.
    pub body: Option<String>,
    /// In which it is asked: `Auto` is what TLS agrees on, and HTTP/1.1 without it.
    pub version: HttpVersion,
}

impl HttpCheck {
    /// `GET path`, any 2xx passes.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            headers: Vec::new(),
            host: None,
            expect: vec![200..=299],
            body: None,
            version: HttpVersion::One,
        }
    }
}

impl CheckSettings {
    /// The defaults for a kind of check.
    pub fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            jitter: 0.2,
            unhealthy_interval: Duration::from_secs(5),
            unhealthy_interval_max: Duration::from_secs(30),
            port: None,
            tls: None,
        }
    }

    /// The defaults for the local app: asking it costs nothing, and whoever calls it waits for the answer.
    pub fn of_the_app(kind: CheckKind) -> Self {
        Self {
            interval: Duration::from_secs(2),
            unhealthy_interval: Duration::from_secs(1),
            unhealthy_interval_max: Duration::from_secs(2),
            ..Self::new(kind)
        }
    }
}
