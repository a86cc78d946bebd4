//! Consul's HTTP API.

mod acl;
mod agent;
mod client;
mod entry;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod health;
mod http;
mod token;

pub use agent::{AgentCheck, AgentEntry, AgentService, AgentWeights, Beat, Report};
pub use client::ConsulClient;
pub use entry::{Check, Entry, Node, Service, Unreadable, Weights};
pub use error::{ConsulError, Refusal};
pub use health::{HealthAnswer, HealthQuery, Hold};

use super::{Credential, TlsFiles};
use url::Url;

/// How to reach Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulSettings {
    /// Agents, in order of preference: the next one is used while the one before fails. `http` or `https`.
    pub addresses: Vec<Url>,
    pub token: Option<Credential>,
    pub tls: TlsFiles,
    /// Consul Enterprise only.
    pub namespace: Option<String>,
}
