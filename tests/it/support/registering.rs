//! A sidecar that registers its app, and what can be seen of that.

use super::consul::ConsulAgent;
use super::etcd::Cluster;
use super::{Instance, Sidecar, eventually};
use outrigger::registry::etcd::{KeyValue, RangeRequest};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// Generous: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(15);
/// The shortest that is accepted.
pub const TTL: Duration = Duration::from_secs(5);

/// A stop that waits for nobody, and `[register.web]` with this registry, checks that are fast, and lines of the test's own.
pub fn config(app: &Instance, to: &str, more: &str) -> String {
    let health = "{ http = \"/health\", interval = \"200ms\", timeout = \"200ms\", fall = 2, \
                  unhealthy_interval = \"100ms\", unhealthy_interval_max = \"100ms\" }";
    let port = app.addr().port();
    let id = if more.lines().any(|line| line.starts_with("id ")) { "" } else { "id = \"web-1\"\n" };
    format!(
        "[shutdown]\ndelay = \"0s\"\ngrace = \"0s\"\n[register.web]\nport = {port}\nto = \"{to}\"\naddress = \"127.0.0.1\"\n{id}ttl = \"5s\"\nhealth = {health}\n{more}"
    )
}

/// The first registration, as the API tells it.
pub async fn told(sidecar: &Sidecar) -> Value {
    sidecar.api("/api/registrations").await[0].take()
}

/// Waits until the registration is in this state; what the API tells then.
pub async fn reaches(sidecar: &Sidecar, state: &str, limit: Duration) -> Value {
    let what = format!("the registration is {state}");
    eventually(&what, limit, async || {
        let told = told(sidecar).await;
        (told["state"] == state).then_some(told)
    })
    .await
}

/// A scenario of registration: its number, with a word on which part of it in brackets. One row of the table of
/// scenarios; nobody sends requests meanwhile.
pub fn converged(scenario: &str, since: Instant, limit: Duration) -> Duration {
    let took = since.elapsed();
    let (number, part) = scenario.split_once(' ').unwrap_or((scenario, ""));
    let number = number.parse().expect("a number");
    let title = match number {
        22 => "app announced when it passes",
        23 => "agent that forgot is told again",
        24 => "entry removed by others comes back",
        25 => "sidecar SIGSTOPped longer than the TTL",
        26 => "sidecar SIGKILLed",
        27 => "SIGTERM, also without an agent",
        28 => "token mended",
        29 => "no quorum at registration",
        45 => "key with the app, gone with the sidecar",
        46 => "sidecar SIGSTOPped, key removed, overwritten",
        47 => "member, leader, cluster, data lost",
        48 => "etcd full",
        other => panic!("no title for scenario {other}"),
    };
    // The test's name says which of the two etcds it is.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    let registry = match number {
        ..45 => ConsulAgent::VERSION,
        _ if test.contains("3_4") => "etcd 3.4.23",
        _ => "etcd 3.5.16",
    };
    let title = format!("{title} {part}");
    crate::scenarios::Row::of_registration(number, title.trim_end(), registry, took, limit).tell();
    assert!(took < limit, "{scenario}: after {took:?}, not within {limit:?}");
    took
}

/// What the catalogue has under `web`: id, port, and whether all checks pass.
pub async fn entries(agent: &ConsulAgent) -> Vec<(String, u64, bool)> {
    let entries = agent.get("/v1/health/service/web").await;
    let entries = entries.as_array().expect("a list").iter();
    let read = |entry: &Value| {
        let checks = entry["Checks"].as_array().expect("checks");
        let id = entry["Service"]["ID"].as_str().expect("an id").to_owned();
        let passing = checks.iter().all(|check| check["Status"] == "passing");
        (id, entry["Service"]["Port"].as_u64().unwrap_or_default(), passing)
    };
    entries.map(read).collect()
}

/// Waits until the catalogue has exactly `web-1`, passing or not, or nothing.
pub async fn catalogue_has(agent: &ConsulAgent, passing: Option<bool>, limit: Duration) {
    let what = format!("the catalogue has the app, passing: {passing:?}");
    eventually(&what, limit, async || {
        let entries = entries(agent).await;
        match (passing, &entries[..]) {
            (None, []) => Some(()),
            (Some(wanted), [(id, _, passing)]) => (id == "web-1" && *passing == wanted).then_some(()),
            _ => None,
        }
    })
    .await;
}

/// Everything under `/services/web/`.
pub async fn keys(cluster: &Cluster, member: usize) -> Vec<KeyValue> {
    let request = RangeRequest {
        key: b"/services/web/".to_vec(),
        range_end: b"/services/web0".to_vec(),
        ..RangeRequest::default()
    };
    cluster.client_of(member).range(request).await.expect("an answer").kvs
}

/// Waits until there is one key, with a lease that is not `other`; that lease.
pub async fn key_is_there(cluster: &Cluster, member: usize, other: i64, limit: Duration) -> i64 {
    eventually("the app's key", limit, async || {
        let keys = keys(cluster, member).await;
        assert!(keys.len() <= 1, "two entries: {keys:?}");
        keys.first().map(|kv| kv.lease).filter(|lease| *lease != 0 && *lease != other)
    })
    .await
}

pub async fn key_is_gone(cluster: &Cluster, member: usize, limit: Duration) {
    eventually("no key", limit, async || keys(cluster, member).await.is_empty().then_some(())).await;
}
