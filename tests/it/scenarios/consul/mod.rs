//! Consul as a source on its bad days: scenarios 1 to 21.
//!
//! The waits are a tenth of the default (3 s instead of 30 s), and the graces and outages with them.

mod agents;
mod changes;
mod cluster;
mod crowd;
mod entries;
mod faults;
mod memory;
mod rights;
mod start;

use crate::support::registry::source;
use crate::support::{Sidecar, client};
use serde_json::Value;
use std::time::Duration;

const HALF_A_SECOND: Duration = Duration::from_millis(500);
/// For the way to where a scenario begins; the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

/// The service `web` from this source; `more` is TOML that begins inside `[service.web]`.
fn config(from: &str, more: &str) -> String {
    format!("[consul]\nwait = \"3s\"\n[service.web]\nfrom = \"{from}\"\n{more}\n")
}

/// How many endpoints of `web` have this state.
async fn count(sidecar: &Sidecar, state: &str) -> usize {
    sidecar.states("web").await.iter().filter(|(_, its)| its == state).count()
}

/// Whether so many are usable and nobody else is listed.
async fn are_usable(sidecar: &Sidecar, number: usize) -> Option<()> {
    let states = sidecar.states("web").await;
    let listed: Vec<_> = states.iter().filter(|(_, state)| state != "draining").collect();
    (listed.len() == number && listed.iter().all(|(_, state)| state == "usable")).then_some(())
}

async fn is_live(sidecar: &Sidecar) -> Option<()> {
    (source(sidecar, "web").await["state"] == "live").then_some(())
}

async fn is_stale(sidecar: &Sidecar) -> Option<String> {
    let source = source(sidecar, "web").await;
    (source["state"] == "stale").then(|| source["last_error"].as_str().unwrap_or_default().to_owned())
}

async fn position(sidecar: &Sidecar) -> u64 {
    source(sidecar, "web").await["position"].as_u64().expect("an index")
}

async fn questions(sidecar: &Sidecar, service: &str) -> u64 {
    source(sidecar, service).await["questions"].as_u64().expect("a number")
}

/// The details of all events of this kind.
async fn told(sidecar: &Sidecar, kind: &str) -> Vec<String> {
    let events: Vec<Value> = client::get(sidecar.admin(), "/api/events").await.json();
    let of_kind = events.into_iter().filter(|event| event["kind"] == kind);
    of_kind.map(|event| event["detail"].as_str().unwrap_or_default().to_owned()).collect()
}
