//! `/api/services`: what is known of each service and its endpoints.

use super::answer::{Answer, json};
use super::desk::{Desk, Seen};
use super::state::{State, reasons};
use crate::cluster::{Cluster, Member};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    generation: u64,
    balance: &'static str,
    /// How many may be picked.
    usable: usize,
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
    /// Consul's index, etcd's revision.
    position: Option<u64>,
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
        usable: seen.snapshot.usable(),
        waiting: seen.cluster.waiting(),
        sources: vec![source(seen)],
        endpoints: members.into_iter().map(|member| endpoint(desk, seen, member)).collect(),
    }
}

fn source<'a>(seen: &'a Seen<'_>) -> Source<'a> {
    let source = &seen.source;
    Source {
        url: &source.url,
        state: source.link.as_str(),
        age_seconds: source.age.map(|age| to_thousandths(age.as_secs_f64())),
        last_error: source.last_error.as_deref(),
        position: source.position,
        skipped: source.skipped,
        updates: source.updates,
        errors: source.errors,
        questions: source.questions,
    }
}

fn endpoint<'a>(desk: &Desk, seen: &'a Seen<'_>, member: &'a Member) -> Endpoint<'a> {
    let (endpoint, history) = (&member.target.endpoint, &member.target.history);
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
        source: &seen.source.url,
    }
}

fn to_millis(latency: Duration) -> f64 {
    to_thousandths(latency.as_secs_f64() * 1e3)
}

fn to_thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
