//! One instance as discovery describes it.

use super::{InstanceId, Meta, Zone};
use std::net::SocketAddr;
use std::sync::Arc;

/// One instance as discovery describes it: a value, compared and thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub addr: SocketAddr,
    pub instance: InstanceId,
    pub weight: Weight,
    pub zone: Option<Zone>,
    pub standing: Standing,
    pub meta: Meta,
}

impl Endpoint {
    /// An endpoint of which only the address is known: passing, weight 1, named after its address.
    pub fn at(addr: SocketAddr) -> Self {
        Self {
            addr,
            instance: InstanceId::new(addr.to_string()),
            weight: Weight::ONE,
            zone: None,
            standing: Standing::Passing,
            meta: Meta::default(),
        }
    }

    /// What its certificate is for, if the registry says so: its metadata `tls_server_name`.
    pub fn tls_server_name(&self) -> Option<&str> {
        self.meta.get("tls_server_name").map(String::as_str)
    }
}

/// Share of traffic relative to the others: 1 to 65535; 0 means listed, but no new traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    pub const ZERO: Self = Self(0);
    pub const ONE: Self = Self(1);

    pub const fn new(weight: u16) -> Self {
        Self(weight)
    }

    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What the registry itself says of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    Passing,
    /// The registry has lost sight of its node: a failure detector says so, not the instance's own check, and nobody
    /// meant it. The text says which detector.
    Lost(Arc<str>),
    /// Listed, but not to be used: a critical check or maintenance. The text says which, for people.
    Critical(Arc<str>),
}

impl Standing {
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Passing)
    }

    /// The registry's word against it.
    pub fn objection(&self) -> Option<&Arc<str>> {
        match self {
            Self::Passing => None,
            Self::Lost(why) | Self::Critical(why) => Some(why),
        }
    }
}
