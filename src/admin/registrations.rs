//! `/api/registrations`: what was announced of the local app, and how that stands.

use super::answer::{Answer, json};
use super::desk::Desk;
use crate::health::VerdictState;
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Serialize)]
struct Told {
    name: String,
    service: String,
    registry: String,
    id: String,
    address: SocketAddr,
    state: &'static str,
    /// RFC 3339.
    since: String,
    ttl_seconds: u64,
    lease: Option<String>,
    last_error: Option<String>,
    losses: u64,
    app: App,
}

#[derive(Serialize)]
struct App {
    state: &'static str,
    reason: Option<String>,
}

pub(super) fn all(desk: &Desk) -> Answer {
    let told = desk.window.registrations.iter().map(|status| {
        let view = status.view();
        Told {
            name: view.name,
            service: view.service,
            registry: view.registry,
            id: view.id,
            address: view.address,
            state: view.state.as_str(),
            since: humantime::format_rfc3339_millis(desk.wall(view.since)).to_string(),
            ttl_seconds: view.ttl.as_secs(),
            lease: view.lease.map(|id| format!("{id:x}")),
            last_error: view.last_error,
            losses: view.losses,
            app: App { state: word(view.app), reason: view.app_note },
        }
    });
    json(&told.collect::<Vec<_>>())
}

fn word(state: VerdictState) -> &'static str {
    match state {
        VerdictState::Unproven => "unproven",
        VerdictState::Healthy => "healthy",
        VerdictState::Unhealthy => "unhealthy",
    }
}
