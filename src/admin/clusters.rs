//! `/api/services`: what is known of each service and its endpoints.

use super::answer::{Answer, json};
use super::desk::{Desk, Seen};
use super::state::{State, reasons};
use crate::cluster::{Cluster, Member, Origin, Presence};
use crate::discovery::StatusView;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    generation: u64,
    balance: &'static str,
    /// How several sources go together.
    mode: &'static str,
    /// How many may be picked.
    usable: usize,
    /// So few are usable that checks and ejections are ignored.
    panic: bool,
    /// Requests that wait for room at some instance.
    waiting: u32,
    sources: Vec<Source<'a>>,
    /// By address.
    endpoints: Vec<Endpoint<'a>>,
}

#[derive(Serialize)]
struct Source<'a> {
    url: &'a str,
    state: &'static str,
    /// Since the last good answer.
    age_seconds: Option<f64>,
    last_error: Option<&'a str>,
    /// What somebody may have to mend, although it answers.
    hint: Option<&'a str>,
    /// Consul's index, etcd's revision.
    position: Option<u64>,
    /// Endpoints in its last good answer.
    listed: usize,
    /// Entries that cannot be used.
    skipped: usize,
    updates: u64,
    errors: u64,
    questions: u64,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    addr: SocketAddr,
    instance: &'a str,
    weight: u16,
    zone: Option<&'a str>,
    meta: &'a BTreeMap<String, String>,
    state: &'static str,
    reasons: Vec<String>,
    in_flight: u32,
    latency_ms: Option<f64>,
    requests: u64,
    failures: u64,
    /// When this process first saw it, RFC 3339.
    since: String,
    source: &'a str,
    /// `live`: its source says so; `snapshot`: it was kept on disk; `held`: it is kept although its source lost it.
    provenance: &'static str,
    /// How old that word is, as far as is known.
    age_seconds: Option<f64>,
    /// Its registry calls it passing, and our checks or requests do not reach it.
    disputed: bool,
}

pub(super) fn all(desk: &Desk) -> Answer {
    let seen: Vec<_> = desk.clusters(Instant::now()).collect();
    json(&seen.iter().map(|seen| service(desk, seen)).collect::<Vec<_>>())
}

pub(super) fn one(desk: &Desk, cluster: &Cluster) -> Answer {
    json(&service(desk, &Seen::new(cluster, Instant::now())))
}

fn service<'a>(desk: &Desk, seen: &'a Seen<'_>) -> Service<'a> {
    let mut members: Vec<_> = seen.snapshot.members.iter().collect();
    members.sort_by_key(|member| (member.target.endpoint.addr, member.target.id()));
    Service {
        name: seen.name(),
        generation: seen.snapshot.generation,
        balance: seen.cluster.settings.algorithm.as_str(),
        mode: seen.cluster.settings.mode.as_str(),
        usable: seen.snapshot.usable(),
        panic: seen.snapshot.panic,
        waiting: seen.cluster.waiting(),
        sources: seen.sources.iter().map(source).collect(),
        endpoints: members.into_iter().map(|member| endpoint(desk, seen, member)).collect(),
    }
}

fn source(source: &StatusView) -> Source<'_> {
    Source {
        url: &source.url,
        state: source.link.as_str(),
        age_seconds: source.age.map(|age| to_thousandths(age.as_secs_f64())),
        last_error: source.last_error.as_deref(),
        hint: source.hint.as_deref(),
        position: source.position,
        listed: source.listed,
        skipped: source.skipped,
        updates: source.updates,
        errors: source.errors,
        questions: source.questions,
    }
}

fn endpoint<'a>(desk: &Desk, seen: &'a Seen<'_>, member: &'a Member) -> Endpoint<'a> {
    let (endpoint, history) = (&member.target.endpoint, &member.target.history);
    let source = seen.sources.get(member.source);
    let (provenance, age) = match (member.origin, member.presence) {
        (Origin::Snapshot(as_of), _) => ("snapshot", SystemTime::now().duration_since(as_of).ok()),
        (Origin::Live, Presence::Suspect(_)) => {
            ("held", member.held_since.map(|since| Instant::now().saturating_duration_since(since)))
        }
        (Origin::Live, _) => ("live", source.and_then(|source| source.age)),
    };
    Endpoint {
        addr: endpoint.addr,
        instance: endpoint.instance.as_str(),
        weight: endpoint.weight.get(),
        zone: endpoint.zone.as_ref().map(|zone| zone.as_str()),
        meta: &endpoint.meta,
        state: State::of(member).as_str(),
        reasons: reasons(member),
        in_flight: history.load.in_flight(),
        latency_ms: history.load.latency().map(to_millis),
        requests: history.tally.attempts(),
        failures: history.tally.failures(),
        since: humantime::format_rfc3339_millis(desk.wall(history.since())).to_string(),
        source: source.map_or("", |source| &source.url),
        provenance,
        age_seconds: age.map(|age| to_thousandths(age.as_secs_f64())),
        disputed: member.is_disputed(),
    }
}

fn to_millis(latency: Duration) -> f64 {
    to_thousandths(latency.as_secs_f64() * 1e3)
}

fn to_thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
