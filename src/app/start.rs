//! Boot and stop, in order.

use super::{Registrations, certificates, descriptors, routes, sources};
use crate::admin::{self, Window};
use crate::cluster::{Cluster, ClusterSettings, Keeper, Memory};
use crate::config::{NamedSource, ServiceSettings, Settings, ShutdownSettings, SnapshotSettings};
use crate::discovery::Status;
use crate::discovery::cache::Cache;
use crate::health::{self, Pace};
use crate::model::ServiceName;
use crate::proxy::{self, Bound, Crew, Shared};
use crate::rt::{Stop, Tasks, cores};
use crate::telemetry::{Events, Kind};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::time::Instant;

/// Why a sidecar cannot start; one line per cause.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", .0.join("\n"))]
    Listen(Vec<String>),
    #[error("{service}: {reason}")]
    Source { service: ServiceName, reason: String },
    #[error("register.{name}: {reason}")]
    Registration { name: String, reason: String },
    #[error("cannot start threads: {0}")]
    Threads(#[source] io::Error),
    #[error("cannot serve the admin address: {0}")]
    Admin(#[source] io::Error),
}

/// A sidecar that runs. Dropping it stops nothing: call [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    pub clusters: Vec<Arc<Cluster>>,
    pub events: Events,
    /// Where the admin address really listens.
    pub admin: Option<SocketAddr>,
    pub(super) registrations: Registrations,
    /// Where the registered apps listen, as seen from here.
    pub(super) apps: Vec<SocketAddr>,
    pub(super) shutdown: ShutdownSettings,
    pub(super) tasks: Tasks,
    /// It is about to stop: not ready any more.
    pub(super) leaving: Stop,
    /// The workers' own, so that the control plane outlives the requests.
    pub(super) workers: Stop,
    pub(super) crew: Crew,
}

/// Opens all listeners, starts all watches, checks and workers. Requests that come before the first list wait for it.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn start(settings: Settings, events: Events) -> Result<Running, StartError> {
    let mut rng = SmallRng::from_rng(&mut rand::rng());
    let mut sockets = open(&settings)?;
    let workers = settings.workers.unwrap_or_else(cores);
    let tasks = Tasks::new(events.clone());
    let pace = Arc::new(Pace::default());
    certificates::watch(&tasks, &settings);
    let mut clusters = Vec::new();
    let mut bound = Vec::new();
    let count = settings.services.len();
    for (service, listeners) in settings.services.into_iter().zip(sockets.services) {
        introduce(&service, &listeners);
        let tls = service.listen_tls.clone();
        let cluster = upstream(&tasks, service, &settings.snapshot, workers, &pace, &mut rng)?;
        bound.extend(listeners.into_iter().map(|listener| Bound {
            listener,
            cluster: Arc::clone(&cluster),
            tls: tls.clone(),
        }));
        clusters.push(cluster);
    }
    let client = descriptors::fit(settings.client);
    let tls: Vec<_> = settings.listeners.iter().map(|listener| listener.listen_tls.clone()).collect();
    let ports = settings.listeners.iter().map(routes::port).collect();
    let routed = routes::build(settings.listeners, &clusters, workers);
    for (((entrance, _), listeners), tls) in routed.iter().zip(sockets.shared).zip(tls) {
        let listen = shown(&listeners);
        tracing::info!(listener = entrance.name().as_str(), listen, "listening");
        bound.extend(listeners.into_iter().map(|listener| Bound {
            listener,
            cluster: Arc::clone(entrance),
            tls: tls.clone(),
        }));
    }
    let entrances: Vec<_> = routed.iter().map(|(entrance, _)| Arc::clone(entrance)).collect();
    let tables = routed.into_iter().map(|(entrance, table)| (entrance.name().clone(), table)).collect();
    let shared = Shared::with_tables(client, sockets.own.drain(..).collect(), workers, tables);
    let stop = Stop::new();
    let crew = Crew::start(workers, bound, &shared, &events, &stop, settings.shutdown.drain)
        .map_err(StartError::Threads)?;
    let leaving = Stop::new();
    let apps = settings.registrations.iter().flat_map(|app| app.app.iter().map(|ip| (*ip, app.port).into()));
    let apps = apps.collect();
    let shutdown = settings.shutdown;
    let registrations = Registrations::start(settings.registrations, &events, &mut rng)
        .map_err(|(name, reason)| StartError::Registration { name, reason })?;
    let admin = sockets.admin.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(listener) = sockets.admin {
        let window = Window {
            clusters: clusters.clone(),
            entrances,
            ports,
            registrations: registrations.statuses(),
            events: events.clone(),
            started: Instant::now(),
            stopping: leaving.clone(),
            connections: Arc::new(move || shared.connections()),
        };
        admin::serve(&tasks, listener, Arc::new(window)).map_err(StartError::Admin)?;
    }
    let registered = match registrations.statuses().len() {
        0 => String::new(),
        count => format!("{count} registration{}, ", plural(count)),
    };
    let window = admin.map_or_else(|| "off".to_owned(), |addr| addr.to_string());
    let detail = format!(
        "version {}, {count} service{}, {registered}{workers} worker{}, admin address {window}",
        env!("CARGO_PKG_VERSION"),
        plural(count),
        plural(workers),
    );
    events.emit(Kind::Started, "", None, detail);
    Ok(Running {
        clusters,
        events,
        admin,
        registrations,
        apps,
        shutdown,
        tasks,
        leaving,
        workers: stop,
        crew,
    })
}

/// One log line: who is called where, and where its instances come from.
fn introduce(service: &ServiceSettings, listeners: &[TcpListener]) {
    let sources: Vec<_> = service.sources.iter().map(|source| &*source.url).collect();
    let (listen, source) = (shown(listeners), sources.join(", "));
    tracing::info!(service = service.name.as_str(), listen, source, "listening");
}

fn shown(listeners: &[TcpListener]) -> String {
    let addrs = listeners.iter().filter_map(|listener| listener.local_addr().ok());
    addrs.map(|addr| addr.to_string()).collect::<Vec<_>>().join(", ")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// One service: its source watched, its cluster kept, its instances checked.
fn upstream(
    tasks: &Tasks,
    service: ServiceSettings,
    snapshot: &SnapshotSettings,
    workers: usize,
    pace: &Arc<Pace>,
    rng: &mut SmallRng,
) -> Result<Arc<Cluster>, StartError> {
    let name = service.name.clone();
    let mut feeds = Vec::new();
    for NamedSource { settings, url } in service.sources {
        let feed = sources::watch(tasks, name.clone(), url, settings, service.watch.clone(), rng);
        feeds.push(feed.map_err(|reason| StartError::Source { service: name.clone(), reason })?);
    }
    let statuses: Vec<_> = feeds.iter().map(|feed| Arc::clone(&feed.status)).collect();
    let settings = ClusterSettings {
        name: name.clone(),
        algorithm: service.balance,
        retry: service.retry,
        budget: service.budget,
        timeouts: service.timeouts,
        connections: service.connections,
        limits: service.limits,
        outlier: service.outlier,
        panic: service.panic,
        checked: service.check.is_some(),
        mode: service.mode,
        protocol: service.protocol,
        proxy_protocol: service.proxy_protocol,
        subsets: service.subsets,
    };
    let memory = remember(tasks, snapshot, &name, &statuses);
    let cluster = Cluster::new(settings, statuses, workers, Instant::now());
    let events = tasks.events().clone();
    let (keeper, upkeep) =
        Keeper::new(Arc::clone(&cluster), feeds, service.graces, memory, events, rng.random());
    keeper.spawn(tasks);
    let rules = cluster.settings.outlier.clone();
    if rules.enabled {
        let (ejections, dice) = (Arc::clone(&cluster.ejections), SmallRng::from_rng(rng));
        let (targets, changed) = (upkeep.targets.clone(), Arc::clone(&upkeep.health_changed));
        health::eject(tasks, name.clone(), rules, ejections, targets, changed, dice);
    }
    if let Some(check) = service.check {
        let dice = SmallRng::from_rng(rng);
        health::check(tasks, name, check, upkeep.targets, upkeep.health_changed, Arc::clone(pace), dice);
    }
    Ok(cluster)
}

/// What an earlier run left on disk, and where this one writes. A sidecar starts without it, too.
fn remember(
    tasks: &Tasks,
    settings: &SnapshotSettings,
    service: &ServiceName,
    sources: &[Arc<Status>],
) -> Memory {
    let Some(folder) = &settings.folder else { return Memory::none() };
    match Cache::open(folder, service.clone(), settings.max_age) {
        Ok(cache) => Memory::open(tasks, cache, service, sources),
        Err(error) => {
            let folder = folder.display().to_string();
            if settings.is_default {
                tracing::info!(folder, %error, "nothing is remembered: the state directory is not writable");
            } else {
                let detail = format!("snapshot.folder: nothing can be written to {folder}: {error}");
                tasks.events().emit(Kind::SnapshotRefused, service.as_str(), None, detail);
            }
            Memory::none()
        }
    }
}

/// The sockets of all services, in their order, and the admin address'.
struct Sockets {
    services: Vec<Vec<TcpListener>>,
    /// Of the ports that services share.
    shared: Vec<Vec<TcpListener>>,
    admin: Option<TcpListener>,
    /// Addresses that lead back to us.
    own: Vec<SocketAddr>,
}

/// Opens every listener, or says of all that cannot be opened why.
fn open(settings: &Settings) -> Result<Sockets, StartError> {
    let mut refused = Vec::new();
    let mut refuse = |owner: &str, addr: SocketAddr, error: &io::Error, other: &str| {
        refused.push(format!("{owner}: cannot listen on {addr}: {}", mend(addr, error, other)));
    };
    let mut own = Vec::new();
    let mut listen = |owner: String, addrs: &[SocketAddr]| {
        let mut listeners = Vec::new();
        for addr in addrs.iter().copied() {
            let twin = SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port()));
            match proxy::bind(addr) {
                Ok(listener) => listeners.push(listener),
                // A host without IPv6 has no [::1]; its IPv4 twin serves.
                Err(error)
                    if addr.ip() == Ipv6Addr::LOCALHOST && addrs.contains(&twin) && has_no_ipv6(&error) =>
                {
                    tracing::info!(owner, %addr, %error, "no IPv6 here");
                }
                Err(error) => refuse(&owner, addr, &error, "choose another port"),
            }
        }
        own.extend(addrs.iter().copied());
        listeners
    };
    let services =
        settings.services.iter().map(|s| listen(format!("service.{}", s.name), &s.listen)).collect();
    let shared =
        settings.listeners.iter().map(|l| listen(format!("listener.{}", l.name), &l.listen)).collect();
    let admin = settings.admin.listen.and_then(|addr| match proxy::bind(addr) {
        Ok(listener) => Some(listener),
        Err(error) => {
            let other = "choose another one or \"off\" ([admin] listen = ..., or --admin)";
            refuse("admin.listen", addr, &error, other);
            None
        }
    });
    if refused.is_empty() {
        Ok(Sockets { services, shared, admin, own })
    } else {
        Err(StartError::Listen(refused))
    }
}

/// Everything else is told: a port that is in use or privileged is so in both families.
fn has_no_ipv6(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// Why not, and what to do about it; `other` says where another port would be chosen.
fn mend(addr: SocketAddr, error: &io::Error, other: &str) -> String {
    let port = addr.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the port is in use; `ss -ltnp 'sport = :{port}'` shows by whom, or {other}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {port} is privileged: choose one from 1024 on, or grant CAP_NET_BIND_SERVICE")
        }
        io::ErrorKind::AddrNotAvailable => format!("this machine has no address {}", addr.ip()),
        _ => error.to_string(),
    }
}
