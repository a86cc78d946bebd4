//! Speaking each registry's wire, once: discovery reads through it, registration writes through it.

pub mod consul;
pub mod dns;
pub mod etcd;
mod names;
mod tls;

pub use crate::net::tls::{TlsError, install_provider};
pub use names::{Names, Unresolved};

use crate::telemetry::Secret;
use std::path::PathBuf;

/// A secret given in the configuration, or a file that is read again when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Text(Secret),
    File(PathBuf),
}

/// Certificates towards a registry, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Trusted in addition to the system's own.
    pub ca: Option<PathBuf>,
    /// Client certificate (chain) and key; both or neither.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}
