//! Announces the local app: in the registry exactly while it can serve.
//!
//! One keeper per registration owns its state. It waits for the app's own check, announces, renews the lease, announces
//! anew when the registry has forgotten, and withdraws when the app fails or the sidecar stops. What a registry wants to
//! hear is behind [`Registrar`].

mod app;
mod consul;
mod damper;
mod etcd;
mod keeper;
mod status;

pub use consul::ConsulRegistrar;
pub use etcd::EtcdRegistrar;
pub use keeper::{Rhythm, register};
pub use status::{State, Status, StatusView};

use crate::health::CheckSettings;
use crate::model::{InstanceId, ServiceName, Weight, Zone};
use crate::registry::consul::ConsulSettings;
use crate::registry::etcd::EtcdSettings;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What the registry is told of the local app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub service: ServiceName,
    pub id: InstanceId,
    /// Where others reach it.
    pub addr: SocketAddr,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub weight: Weight,
    pub zone: Option<Zone>,
}

/// One registration of the local app.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistrationSettings {
    /// Of its table in the configuration.
    pub name: ServiceName,
    pub service: ServiceName,
    pub id: InstanceId,
    pub address: Advertise,
    /// Of the app, and of its announcement.
    pub port: u16,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub weight: Weight,
    pub zone: Option<Zone>,
    /// Where the app is asked; of several, each until one answers. At least one.
    pub app: Vec<IpAddr>,
    /// The app's own check.
    pub check: CheckSettings,
    /// After this long without a sign of life from us the registry drops the entry (etcd) or calls it critical (Consul).
    pub ttl: Duration,
    /// Between two signs of life; less than half of the TTL.
    pub beat: Duration,
    /// How often the entry is looked after although its lease holds: somebody else may have removed it.
    pub reassert: Duration,
    /// An app that fails stays in Consul, as critical, for this long.
    pub withdraw_after: Duration,
    pub to: Registry,
    /// The registry's URL for people, without user and password.
    pub url: String,
}

impl RegistrationSettings {
    pub const TTL: Duration = Duration::from_secs(15);
    pub const REASSERT: Duration = Duration::from_secs(30);
    /// Long enough for a restart of the app, which then costs no removal and no new entry.
    pub const WITHDRAW_AFTER: Duration = Duration::from_secs(30);
    /// As Consul's own documentation suggests; it rounds up to a minute, and looks every 30 s.
    pub const DEREGISTER_AFTER: Duration = Duration::from_secs(600);
}

/// The address that others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// And who said so.
    Given(IpAddr, &'static str),
    /// That of the default route.
    Route,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Registry {
    Consul {
        settings: ConsulSettings,
        check: ConsulCheck,
        /// Consul removes an entry that has been critical for this long.
        deregister_after: Duration,
    },
    Etcd {
        settings: EtcdSettings,
        /// Ends in `/`.
        prefix: String,
    },
}

/// Who tells Consul how the app is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsulCheck {
    /// We do, before the TTL is over.
    #[default]
    Ttl,
    /// The agent asks the app by itself.
    Agent,
}

/// What is said of the app's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Passing,
    Failing,
}

/// What holds an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number, where leases have one.
    pub id: Option<i64>,
    /// Others can see the entry. Consul's agent takes a registration that the servers have not heard of yet.
    pub seen: bool,
    /// What is amiss although it holds.
    pub doubt: Option<String>,
}

impl Lease {
    /// One with a number, of an entry that others can see.
    fn seen(id: i64) -> Self {
        Self { id: Some(id), seen: true, doubt: None }
    }
}

/// How a lease is after it was to be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    Kept(Lease),
    /// The entry is gone, or not ours any more; how that shows.
    Lost(String),
}

/// Why a registry did not do it, sorted by when to try again. The texts name the registry and what it said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrarError {
    /// Soon.
    #[error("{0}")]
    Unavailable(String),
    /// Not so soon: it has no room, or some such.
    #[error("{0}")]
    Full(String),
    /// Seldom: somebody must mend something first.
    #[error("{0}")]
    Refused(String),
}

/// What a registry wants to hear. Three verbs that may be repeated; each is bounded in time and cancel-safe, in that
/// [`Registrar::withdraw`] undoes also what a dropped call did.
pub trait Registrar: Send + 'static {
    /// An app that fails can stay there, marked as such.
    fn shows_failing(&self) -> bool;

    /// The registry asks the app by itself, and is not told how it is.
    fn asks_by_itself(&self) -> bool {
        false
    }

    /// Puts the app into the registry, or takes over the entry that an earlier life of ours left.
    fn announce(&mut self, standing: Standing) -> impl Future<Output = Result<Lease, RegistrarError>> + Send;

    /// Vouches for it anew.
    fn renew(&mut self, standing: Standing) -> impl Future<Output = Result<Renewal, RegistrarError>> + Send;

    /// Takes it out, if it is there and ours; whether it was.
    fn withdraw(&mut self) -> impl Future<Output = Result<bool, RegistrarError>> + Send;
}
