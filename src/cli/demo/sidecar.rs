//! The demo's sidecar, on the usual ports if nobody else has them.

use crate::app::{self, Running, StartError};
use crate::config::{self, Environment, Settings};
use crate::health::{CheckKind, CheckSettings, HttpCheck};
use crate::model::ServiceName;
use crate::telemetry::Events;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

/// Somebody may take a port between the look at it and the listening; so often that is no accident.
const TRIES: usize = 10;

/// A running sidecar in front of the service `hello`.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub running: Running,
    pub port: u16,
    pub admin: u16,
    /// A line for each port that was in use.
    pub moved: Vec<String>,
}

impl Sidecar {
    /// Takes `port` and `admin_port` if they are free, else others.
    pub fn start(port: u16, admin_port: u16, source: &str, events: &Events) -> Result<Self, String> {
        let mut tries = 0;
        loop {
            let mut moved = Vec::new();
            let port = free(port, "the sidecar", &mut moved)?;
            let admin = free(admin_port, "the admin address", &mut moved)?;
            tries += 1;
            match app::start(settings(port, admin, source)?, events.clone()) {
                Ok(running) => return Ok(Self { running, port, admin, moved }),
                Err(StartError::Listen(_)) if tries < TRIES => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn settings(port: u16, admin: u16, source: &str) -> Result<Settings, String> {
    let pair = (format!("127.0.0.1:{port}"), source.to_owned());
    let admin = format!("127.0.0.1:{admin}");
    let loaded = config::from_pairs(&[pair], &[], Some(&admin), &Environment::Process);
    let mut settings = loaded.map_err(|problems| problems.to_string())?.settings;
    for service in &mut settings.services {
        service.name = ServiceName::new("hello").map_err(|error| error.to_string())?;
        let mut check = CheckSettings::new(CheckKind::Http(HttpCheck::get("/health")));
        check.interval = Duration::from_secs(1);
        check.timeout = Duration::from_secs(1);
        check.unhealthy_interval = Duration::from_secs(1);
        check.unhealthy_interval_max = Duration::from_secs(2);
        service.check = Some(check);
    }
    Ok(settings)
}

/// `port`, or a free one in its place.
fn free(port: u16, whose: &str, moved: &mut Vec<String>) -> Result<u16, String> {
    if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
        return Ok(port);
    }
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let other = other.map_err(|error| format!("no free port: {error}"))?.port();
    moved.push(format!("Port {port} is in use: {whose} takes {other}."));
    Ok(other)
}
