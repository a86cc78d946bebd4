//! etcd's v3 API over gRPC.
//!
//! The messages are written by hand from etcd's published protocol, so that a build needs no protoc. A client keeps
//! one connection to one member at a time and goes to the next member by itself: a balancer below it would hand
//! calls to dead members, and a list and the watch that continues it must come from the same one.

mod auth;
mod client;
mod error;
mod links;
mod member;
mod messages;
mod watch;

pub use client::{EtcdClient, prefix_end};
pub use error::EtcdError;
pub use links::Links;
pub use messages::{
    DeleteRangeRequest, DeleteRangeResponse, Event, EventType, KeyValue, LeaseGrantResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, ResponseHeader,
};
pub use watch::{Update, Watch, WatchRange};

use super::{Credential, TlsFiles};
use std::time::Duration;
use url::Url;

/// How to reach etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// Members; used one at a time, the next when one fails. `http` or `https`; only host and port are read.
    pub endpoints: Vec<Url>,
    /// User and password; simple-token authentication.
    pub user: Option<(String, Credential)>,
    pub tls: TlsFiles,
    /// Connection to a member, until it has answered a first question.
    pub dial_timeout: Duration,
    /// A whole unary call, or the opening of a stream.
    pub request_timeout: Duration,
    /// HTTP/2 PING after this much silence ...
    pub keep_alive: Duration,
    /// ... answered within this.
    pub keep_alive_timeout: Duration,
    /// Clients whose settings are clones share their connections.
    pub links: Links,
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
            links: Links::default(),
        }
    }
}
