//! What a configuration comes to: the checked settings of every part.

use crate::balance::Algorithm;
use crate::cluster::{Graces, Mode};
use crate::discovery::{SourceSettings, WatchSettings};
use crate::health::CheckSettings;
use crate::model::ServiceName;
use crate::net::tls::server::TlsServer;
use crate::policy::{
    BudgetSettings, ClientLimits, Limits, OutlierSettings, Protocol, ProxyProtocol, RetrySettings, Route,
    Subset, Timeouts,
};
use crate::registration::RegistrationSettings;
use crate::telemetry::logging::Format;
use crate::upstream::ConnectionSettings;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The whole of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub admin: AdminSettings,
    pub log: LogSettings,
    /// Threads that carry requests, 1 to 1024; `None` is one for each CPU this process may use.
    pub workers: Option<usize>,
    pub client: ClientLimits,
    pub shutdown: ShutdownSettings,
    pub snapshot: SnapshotSettings,
    /// In the order of the file; each name once. At least one, unless something is registered.
    pub services: Vec<ServiceSettings>,
    /// Ports that several of them share; in the order of the file.
    pub listeners: Vec<ListenerSettings>,
    /// The local app, and where it is announced.
    pub registrations: Vec<RegistrationSettings>,
}

/// The window on the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// `None` turns it off.
    pub listen: Option<SocketAddr>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: Some((Ipv4Addr::LOCALHOST, 9901).into()) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter in tracing's syntax.
    pub level: String,
    pub format: Format,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// How long the registries have to take the local app out.
    pub withdraw: Duration,
    /// How long others have to learn of it, before the app is told to end.
    pub delay: Duration,
    /// How long the app has to end; its own calls are served until then.
    pub grace: Duration,
    /// How long running requests may go on after SIGTERM.
    pub drain: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self {
            withdraw: Duration::from_secs(3),
            delay: Duration::from_secs(5),
            grace: Duration::from_secs(25),
            drain: Duration::from_secs(5),
        }
    }
}

/// What is remembered on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// `None` remembers nothing.
    pub folder: Option<PathBuf>,
    /// The folder is the service manager's gift, not the user's wish: if it is of no use, nothing is missing.
    pub is_default: bool,
    /// Older lists are refused.
    pub max_age: Duration,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self { folder: None, is_default: true, max_age: Duration::from_secs(24 * 3600) }
    }
}

/// Where instances come from.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedSource {
    pub settings: SourceSettings,
    /// The source's URL for people, without user and password.
    pub url: String,
}

/// One service that the application calls.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSettings {
    pub name: ServiceName,
    /// At least one, unless a listener's routes lead to it.
    pub listen: Vec<SocketAddr>,
    /// TLS there.
    pub listen_tls: Option<TlsServer>,
    /// At least one, in order; each URL once.
    pub sources: Vec<NamedSource>,
    pub mode: Mode,
    pub balance: Algorithm,
    pub check: Option<CheckSettings>,
    pub retry: RetrySettings,
    pub budget: BudgetSettings,
    pub timeouts: Timeouts,
    pub connections: ConnectionSettings,
    pub limits: Limits,
    pub outlier: OutlierSettings,
    /// A share, 0 to 1.
    pub panic: f64,
    pub watch: WatchSettings,
    pub graces: Graces,
    pub protocol: Protocol,
    pub proxy_protocol: ProxyProtocol,
    /// Parts of it that routes lead to; each once.
    pub subsets: Vec<Subset>,
}

/// A port whose requests are routed.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSettings {
    /// No service has it.
    pub name: ServiceName,
    /// At least one.
    pub listen: Vec<SocketAddr>,
    /// TLS there.
    pub listen_tls: Option<TlsServer>,
    /// What comes ahead of a connection there.
    pub proxy_protocol: ProxyProtocol,
    /// What the routes' numbers stand for.
    pub places: Vec<Place>,
    /// The first that matches counts; at least one.
    pub routes: Vec<Route>,
}

/// A service that a route leads to, or some of its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub service: ServiceName,
    /// Empty: all of them.
    pub subset: Subset,
}
