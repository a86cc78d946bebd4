//! Where instances come from: one cancel-safe question per source, one loop that asks it.

pub mod cache;
pub mod consul;
pub mod dns;
pub mod etcd;
mod etcd_keys;
mod etcd_losses;
pub mod etcd_value;
pub mod file;
pub mod fixed;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod watch;

pub use watch::{Feed, Link, Status, StatusView, WatchSettings, watch};

use crate::model::EndpointSet;
use crate::registry::consul::ConsulSettings;
use crate::registry::dns::{DnsName, DnsSettings, Family};
use crate::registry::etcd::EtcdSettings;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// Which source a service's instances come from, checked and ready to be built.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceSettings {
    /// `static://`
    Fixed(EndpointSet),
    /// `file:`
    File(FileQuery),
    /// `consul://`
    Consul(ConsulSettings, ConsulQuery),
    /// `etcd://`
    Etcd(EtcdSettings, EtcdQuery),
    /// `dns://`, `srv://`
    Dns(DnsSettings, DnsQuery),
}

/// Where in which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileQuery {
    /// Ends in `.toml` or `.json`.
    pub path: PathBuf,
    /// The table `[services.NAME]` is read if the file has one, else the top level.
    pub service: String,
}

/// Which instances Consul is asked for, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulQuery {
    pub service: String,
    /// All of them must be on the instance.
    pub tags: Vec<String>,
    pub dc: Option<String>,
    /// Consul's filter language.
    pub filter: Option<String>,
    /// Also instances with a warning, at their warning weight.
    pub warning: bool,
    /// Any server may answer: survives the loss of quorum, costs about 80 ms of propagation.
    pub stale: bool,
    /// Longest hold of a blocking query.
    pub wait: Duration,
    /// A full read without index at least this often, plus or minus 20 %.
    pub reread: Duration,
}

impl ConsulQuery {
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            tags: Vec::new(),
            dc: None,
            filter: None,
            warning: false,
            stale: false,
            wait: Duration::from_secs(30),
            reread: Duration::from_secs(300),
        }
    }
}

/// Which keys of etcd hold the instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdQuery {
    /// Always ends in `/`, so that a neighbour with a longer name is left alone.
    pub prefix: String,
    /// After this much silence ask for progress ...
    pub silence: Duration,
    /// ... and without an answer within this, go to the next member.
    pub progress_timeout: Duration,
}

impl EtcdQuery {
    /// Adds the final `/` that a prefix must have.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{}/", prefix.trim_end_matches('/')),
            silence: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(3),
        }
    }
}

/// Which records of DNS are the instances, and how long they are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsQuery {
    pub name: DnsName,
    pub records: Records,
    pub family: Family,
    /// A shorter lifetime counts as this; at least a second.
    pub min_ttl: Duration,
    /// A longer lifetime counts as this.
    pub max_ttl: Duration,
}

/// What a name is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// A and AAAA: all instances are at this port.
    Addresses { port: u16 },
    /// SRV: each has a port of its own.
    Services,
}

impl DnsQuery {
    pub fn new(name: DnsName, records: Records) -> Self {
        Self {
            name,
            records,
            family: Family::Any,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(30),
        }
    }
}

/// A place that knows the instances of one service.
///
/// A source never spawns, retries, backs off or paces itself: [`watch`] does that once for all of them.
pub trait Discover: Send + 'static {
    /// The whole answer: at once when first asked, after an error and after [`Discover::rewind`]; from then on as
    /// soon as there may be something new. Cancel-safe: a dropped call loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Answer, DiscoverError>> + Send;

    /// Forgets the place in the source's history, so that the next answer is read afresh.
    fn rewind(&mut self) {}

    /// After a refusal: ends when what was refused may have been mended, such as a token file that changed. Cancel-safe.
    fn mended(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The least time between the starts of two questions, given the last answer.
    fn pace(&self, _last: Option<&EndpointSet>) -> Duration {
        Duration::ZERO
    }
}

/// What a source says, whole.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Answer {
    pub set: EndpointSet,
    /// Entries that could not be used.
    pub skipped: Vec<Skipped>,
    pub trust: Trust,
    /// Consul's index, etcd's revision: for people.
    pub position: Option<u64>,
    /// What somebody may have to mend, although this is an answer; told when it begins.
    pub hint: Option<String>,
}

/// A registry entry that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// Which entry: a service id, a key, a line.
    pub entry: String,
    pub reason: String,
}

impl Skipped {
    pub fn new(entry: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { entry: entry.into(), reason: reason.into() }
    }
}

/// How much an answer deserves to be obeyed when it takes endpoints away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Trust {
    /// It continues an unbroken history.
    #[default]
    Trusted,
    /// It continues an unbroken history, but what it takes away went for a reason that need not be anybody's intent, such
    /// as many leases that ran out together; the text says which.
    Unmeant(&'static str),
    /// It may be the registry's loss of memory; the text says why.
    Doubtful(&'static str),
}

/// A question without an answer. What was known stays known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// It may work again by itself.
    #[error("{0}")]
    Failed(String),
    /// Somebody must mend something first (a token, a name, a filter): tried again every 30 s only, or when
    /// [`Discover::mended`] ends.
    #[error("{0}")]
    Refused(String),
}
