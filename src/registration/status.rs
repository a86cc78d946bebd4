//! What is known of one registration, for whoever wants to see it.

use super::{Announcement, Lease, RegistrationSettings};
use crate::health::VerdictState;
use crate::telemetry::Counter;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Where a registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The app has not passed its check yet.
    Pending,
    /// The app is well, and the registry does not show it yet.
    Announcing,
    /// Everybody can see it.
    Announced,
    /// It is in the registry as critical, because the app fails.
    Failing,
    /// It was taken out, because the app fails or the sidecar stops.
    Withdrawn,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Announcing => "announcing",
            Self::Announced => "announced",
            Self::Failing => "failing",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// The record of one registration; its keeper and its check write, everybody reads.
#[derive(Debug)]
pub struct Status {
    name: String,
    announcement: Announcement,
    url: String,
    ttl: Duration,
    losses: Counter,
    /// Held for a few assignments or one copy, never across an await.
    now: Mutex<Now>,
}

#[derive(Clone, Debug)]
struct Now {
    state: State,
    since: Instant,
    lease: Option<i64>,
    last_error: Option<String>,
    app: VerdictState,
    app_note: Option<String>,
}

/// A copy of the record.
#[derive(Clone, Debug)]
pub struct StatusView {
    /// Of its table.
    pub name: String,
    pub service: String,
    pub registry: String,
    pub id: String,
    pub address: SocketAddr,
    pub state: State,
    /// When that state began.
    pub since: Instant,
    /// The lease's number, where leases have one.
    pub lease: Option<i64>,
    pub ttl: Duration,
    /// What stands in the way now.
    pub last_error: Option<String>,
    /// What the app's own check says.
    pub app: VerdictState,
    pub app_note: Option<String>,
    /// How often the registry has forgotten it.
    pub losses: u64,
}

impl Status {
    pub fn new(settings: &RegistrationSettings, announcement: Announcement) -> Self {
        let now = Now {
            state: State::Pending,
            since: Instant::now(),
            lease: None,
            last_error: None,
            app: VerdictState::Unproven,
            app_note: None,
        };
        Self {
            name: settings.name.to_string(),
            announcement,
            url: settings.url.clone(),
            ttl: settings.ttl,
            losses: Counter::default(),
            now: Mutex::new(now),
        }
    }

    pub fn view(&self) -> StatusView {
        let now = self.with(|now| now.clone());
        StatusView {
            name: self.name.clone(),
            service: self.announcement.service.to_string(),
            registry: self.url.clone(),
            id: self.announcement.id.to_string(),
            address: self.announcement.addr,
            state: now.state,
            since: now.since,
            lease: now.lease,
            ttl: self.ttl,
            last_error: now.last_error,
            app: now.app,
            app_note: now.app_note,
            losses: self.losses.get(),
        }
    }

    pub(super) fn announcement(&self) -> &Announcement {
        &self.announcement
    }

    /// What the registry is called in sentences.
    pub(super) fn registry(&self) -> &str {
        &self.url
    }

    pub(super) fn lost(&self) {
        self.losses.inc();
    }

    /// `lease`: what holds it in this state.
    pub(super) fn enter(&self, state: State, lease: Option<&Lease>) {
        self.with(|now| {
            if now.state != state {
                (now.state, now.since) = (state, Instant::now());
            }
            now.lease = lease.and_then(|lease| lease.id);
        });
    }

    /// Gives what was there before.
    pub(super) fn error(&self, error: Option<String>) -> Option<String> {
        self.with(|now| std::mem::replace(&mut now.last_error, error))
    }

    pub(super) fn app(&self, state: VerdictState, note: Option<String>) {
        self.with(|now| (now.app, now.app_note) = (state, note));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Now) -> T) -> T {
        act(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
