//! What a configuration comes to: the checked settings of every part.

use crate::balance::Algorithm;
use crate::discovery::{SourceSettings, WatchSettings};
use crate::health::CheckSettings;
use crate::model::ServiceName;
use crate::policy::{BudgetSettings, ClientLimits, Limits, RetrySettings, Timeouts};
use crate::telemetry::logging::Format;
use crate::upstream::ConnectionSettings;
use std::net::{Ipv4Addr, SocketAddr};
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
    /// At least one, in the order of the file; each name once.
    pub services: Vec<ServiceSettings>,
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
    /// How long running requests may go on after SIGTERM.
    pub drain: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { drain: Duration::from_secs(5) }
    }
}

/// One service that the application calls.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSettings {
    pub name: ServiceName,
    /// At least one.
    pub listen: Vec<SocketAddr>,
    pub source: SourceSettings,
    /// The source's URL for people, without user and password.
    pub source_url: String,
    pub balance: Algorithm,
    pub check: Option<CheckSettings>,
    pub retry: RetrySettings,
    pub budget: BudgetSettings,
    pub timeouts: Timeouts,
    pub connections: ConnectionSettings,
    pub limits: Limits,
    pub watch: WatchSettings,
    /// How long endpoints are kept after a doubtful answer that took them away; `None` is forever.
    pub empty_grace: Option<Duration>,
}

impl ServiceSettings {
    /// The default of `empty_grace`.
    pub const EMPTY_GRACE: Option<Duration> = Some(Duration::from_secs(30));
}
