//! DNS: questions to servers, answers with their lifetime, and what kind of "no" a "no" is.

mod client;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod name;
mod reading;
mod system;

pub use client::DnsClient;
pub use error::DnsError;
pub use name::{DnsName, NameError};

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Whom to ask, and how patiently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    pub servers: Servers,
    /// Domains for names that do not end in a dot; `None` means those of the system, if its servers are asked.
    pub search: Option<Vec<DnsName>>,
    /// For one answer of one server.
    pub timeout: Duration,
    /// Rounds over all servers, at least 1.
    pub attempts: u32,
    /// By TCP at once, not only when an answer was cut: some servers leave out what does not fit a packet and do not
    /// say so.
    pub tcp: bool,
}

/// The servers that are asked: one at a time, the next when it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Those of a `resolv.conf`, which is read again when it changes.
    System(PathBuf),
    /// At least one.
    Given(Vec<SocketAddr>),
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            servers: Servers::System("/etc/resolv.conf".into()),
            search: None,
            timeout: Duration::from_secs(2),
            attempts: 2,
            tcp: false,
        }
    }
}

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Family {
    V4,
    V6,
    #[default]
    Any,
}

impl Family {
    pub fn has(self, ip: &IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
            Self::Any => true,
        }
    }
}

/// A server's word on a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<T> {
    Found(Found<T>),
    Absent(Absent),
}

/// Records, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    pub records: Vec<T>,
    /// The shortest lifetime of all that led to them.
    pub ttl: Duration,
    /// The zone's own server said so, not a resolver's memory.
    pub authoritative: bool,
}

/// A server's word that there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Not even the name (NXDOMAIN), else only no record of this kind (NODATA).
    pub no_name: bool,
    /// How long that holds.
    pub ttl: Duration,
}

/// One SRV record, RFC 2782.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// The root where the service is decidedly not available.
    pub target: DnsName,
    /// Addresses that came with the record; empty if none did.
    pub addresses: Vec<IpAddr>,
}
