//! How much may run at once, and how long anything may take.

use std::time::Duration;

/// Bounds on a service's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight at one target.
    pub in_flight_per_target: u32,
    /// Requests that wait for a target when all are at their limit; more are shed.
    pub waiting: u32,
    /// How long they wait.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight_per_target: 1024, waiting: 256, wait: Duration::from_secs(1) }
    }
}

/// Time limits of a service's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// How long a request may wait for the very first list of instances; within `request`.
    pub first_list: Duration,
    /// Request to response head, all attempts together. The clock stands still while an upload makes progress. For TCP,
    /// until an instance is connected.
    pub request: Duration,
    /// No byte of a body in either direction.
    pub idle: Duration,
    /// No byte through an upgraded connection, or one that is TCP from the beginning, in either direction.
    pub upgraded_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            first_list: Duration::from_secs(5),
            request: Duration::from_secs(15),
            idle: Duration::from_secs(300),
            upgraded_idle: Duration::from_secs(3600),
        }
    }
}

/// Bounds on the application's side, the same for all services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections from clients; more wait in the kernel's queue.
    pub connections: usize,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Header lines of a request.
    pub headers: usize,
    /// From the first byte of a request head to its last.
    pub head_timeout: Duration,
    /// A connection without a request.
    pub keep_alive: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of bodies kept for replay, in all.
    pub replay_bytes: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_bytes: 64 * 1024,
            headers: 100,
            head_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            streams: 256,
            replay_bytes: 16 * 1024 * 1024,
        }
    }
}
