//! etcd's v3 API over gRPC.

use super::{Credential, TlsFiles};
use std::time::Duration;
use url::Url;

/// How to reach etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// Members; used one at a time, the next when one fails. `http` or `https`.
    pub endpoints: Vec<Url>,
    /// User and password; simple-token authentication.
    pub user: Option<(String, Credential)>,
    pub tls: TlsFiles,
    /// Connection to a member.
    pub dial_timeout: Duration,
    /// A whole unary call.
    pub request_timeout: Duration,
    /// HTTP/2 PING after this much silence ...
    pub keep_alive: Duration,
    /// ... answered within this.
    pub keep_alive_timeout: Duration,
}

impl EtcdSettings {
    pub fn new(endpoints: Vec<Url>) -> Self {
        Self {
            endpoints,
            user: None,
            tls: TlsFiles::default(),
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(2),
        }
    }
}
