//! An upstream service: its targets, the rules for using them, and the one pointer that requests read.

mod book;
mod booth;
mod changes;
mod eligible;
mod keeper;
mod memory;
mod relist;
mod room;
mod roster;
mod snapshot;
mod tallies;
mod ticket;
mod vanish;

pub use book::Origin;
pub use booth::Booth;
pub use keeper::{Keeper, Upkeep};
pub use memory::Memory;
pub use snapshot::{Member, Presence, Snapshot};
pub use tallies::{ServiceTally, Totals};
pub use ticket::Ticket;
pub use vanish::Graces;

use self::room::Room;
use crate::balance::Algorithm;
use crate::discovery::Status;
use crate::health::Ejections;
use crate::model::ServiceName;
use crate::policy::{
    Budget, BudgetSettings, Limits, OutlierSettings, Protocol, ProxyProtocol, RetrySettings, Subset, Timeouts,
};
use crate::upstream::ConnectionSettings;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The rules of one cluster.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    pub name: ServiceName,
    pub algorithm: Algorithm,
    pub retry: RetrySettings,
    pub budget: BudgetSettings,
    pub timeouts: Timeouts,
    pub connections: ConnectionSettings,
    pub limits: Limits,
    pub outlier: OutlierSettings,
    /// Where a smaller share of the targets is usable, our own verdicts are ignored, 0 to 1; 0 turns that off.
    pub panic: f64,
    /// New targets are unproven until their first check.
    pub checked: bool,
    pub mode: Mode,
    pub protocol: Protocol,
    pub proxy_protocol: ProxyProtocol,
    /// Parts of the service that routes lead to, each with a picker of its own.
    pub subsets: Vec<Subset>,
}

impl ClusterSettings {
    pub const PANIC: f64 = 0.3;

    /// Everything as it is where nothing is configured; no checks.
    pub fn new(name: ServiceName) -> Self {
        Self {
            name,
            algorithm: Algorithm::default(),
            retry: RetrySettings::default(),
            budget: BudgetSettings::default(),
            timeouts: Timeouts::default(),
            connections: ConnectionSettings::default(),
            limits: Limits::default(),
            outlier: OutlierSettings::default(),
            panic: Self::PANIC,
            checked: false,
            mode: Mode::default(),
            protocol: Protocol::default(),
            proxy_protocol: ProxyProtocol::default(),
            subsets: Vec::new(),
        }
    }
}

/// How several sources of one cluster go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// In order: the next one serves only while those before it have nothing usable.
    #[default]
    Failover,
    /// All together, one target for each address.
    Union,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Failover, Self::Union];

    /// The word in configuration and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Union => "union",
        }
    }
}

/// One upstream service. Shared by all workers; what it points to is replaced by its keeper alone.
#[derive(Debug)]
pub struct Cluster {
    pub settings: ClusterSettings,
    pub budget: Budget,
    /// The discovery sources' states, in their order; at least one.
    pub sources: Vec<Arc<Status>>,
    snapshot: ArcSwap<Snapshot>,
    /// True once any list was seen.
    discovered: watch::Sender<bool>,
    tallies: Box<[ServiceTally]>,
    room: Room,
    /// Traffic says that the list may be out of date.
    doubted: Notify,
    pub ejections: Arc<Ejections>,
}

/// Why there is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    #[error("no list of instances was ever received")]
    Undiscovered,
    #[error("the list of instances is empty")]
    Empty,
    #[error("instances are known, but none is usable")]
    NoneEligible,
    #[error("every usable instance was tried")]
    Exhausted,
    #[error("every usable instance is at its limit of requests in flight")]
    Saturated,
}

impl Cluster {
    pub fn new(
        settings: ClusterSettings,
        sources: Vec<Arc<Status>>,
        workers: usize,
        now: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(settings.budget.clone(), workers, now),
            snapshot: ArcSwap::from_pointee(Snapshot::undiscovered(settings.algorithm)),
            discovered: watch::channel(false).0,
            tallies: (0..workers.max(1)).map(|_| ServiceTally::default()).collect(),
            room: Room::default(),
            doubted: Notify::new(),
            ejections: Arc::default(),
            sources,
            settings,
        })
    }

    pub fn name(&self) -> &ServiceName {
        &self.settings.name
    }

    /// What requests see now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The cells of one worker, which it alone writes to; the first one's for a number that no worker has.
    #[expect(clippy::indexing_slicing, reason = "`new` makes at least one")]
    pub fn tally(&self, worker: usize) -> &ServiceTally {
        self.tallies.get(worker).unwrap_or_else(|| &self.tallies[0])
    }

    pub fn tallies(&self) -> &[ServiceTally] {
        &self.tallies
    }

    /// Picks as [`Booth::pick`] does, but waits in the queue while all targets are full: at most as long as the limits
    /// and `left` say.
    ///
    /// # Errors
    /// [`PickError::Saturated`] at once when too many wait already, or when the time is over; any other error at once.
    pub async fn pick_in_turn(
        &self,
        left: Duration,
        is_retry: bool,
        pick: impl FnMut() -> Result<Ticket, PickError>,
    ) -> Result<Ticket, PickError> {
        let limits = &self.settings.limits;
        self.room.wait(limits.waiting, limits.wait.min(left), is_retry, pick).await
    }

    /// How many targets may be picked.
    pub fn usable(&self) -> usize {
        self.snapshot.load().usable()
    }

    /// Waits for the first list, at most `limit`.
    pub async fn wait_discovered(&self, limit: Duration) -> bool {
        let mut discovered = self.discovered.subscribe();
        matches!(tokio::time::timeout(limit, discovered.wait_for(|seen| *seen)).await, Ok(Ok(_)))
    }

    /// Takes back what requests have brought up against the target at an address; `false` if there is none.
    pub fn pardon(&self, addr: SocketAddr) -> bool {
        let snapshot = self.snapshot.load();
        let Some(member) = snapshot.members.iter().find(|member| member.target.endpoint.addr == addr) else {
            return false;
        };
        member.target.history.pardon();
        self.ejections.news.notify_one();
        true
    }

    /// Requests that wait for room now.
    pub fn waiting(&self) -> u32 {
        self.room.waiting()
    }
}
