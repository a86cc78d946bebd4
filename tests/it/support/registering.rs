//! A sidecar that registers its app, and what can be seen of that.

use super::consul::ConsulAgent;
use super::etcd::Cluster;
use super::{Instance, Sidecar, eventually};
use crate::scenarios::{Bounds, Scenario, Servers};
use outrigger::registry::etcd::{KeyValue, RangeRequest};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Generous: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(15);
/// The shortest that is accepted, and the beat that belongs to it.
pub const TTL: Duration = Duration::from_secs(5);
pub const BEAT: Duration = Duration::from_millis(1667);
/// `shutdown.withdraw`, then the second that `run` gives an app that is still there, and some time for the rest.
pub const EXIT: Duration = Duration::from_millis(4800);

/// A stop that waits for nobody, a service `web` that leads to the app, and `[register.web]` with this registry, checks
/// that are fast, and lines of the test's own.
pub fn config(app: &Instance, to: &str, more: &str) -> String {
    let health = "{ http = \"/health\", interval = \"200ms\", timeout = \"200ms\", fall = 2, \
                  unhealthy_interval = \"100ms\", unhealthy_interval_max = \"100ms\" }";
    let (addr, port) = (app.addr(), app.addr().port());
    let id = if more.lines().any(|line| line.starts_with("id ")) { "" } else { "id = \"web-1\"\n" };
    format!(
        "[shutdown]\ndelay = \"0s\"\ngrace = \"0s\"\n[service.web]\nfrom = \"static://{addr}\"\n[register.web]\nport = {port}\nto = \"{to}\"\naddress = \"127.0.0.1\"\n{id}ttl = \"5s\"\nhealth = {health}\n{more}"
    )
}

/// The first registration, as the API tells it.
pub async fn told(sidecar: &Sidecar) -> Value {
    sidecar.api("/api/registrations").await[0].take()
}

/// Waits until what the API tells of the registration is as wanted, asking seldom enough to cost the sidecar little.
pub async fn tells<T>(
    sidecar: &Sidecar,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&Value) -> Option<T>,
) -> T {
    eventually(what, limit, async || {
        let wanted = wanted(&told(sidecar).await);
        if wanted.is_none() {
            sleep(Duration::from_millis(90)).await;
        }
        wanted
    })
    .await
}

/// Waits until the registration is in this state; what the API tells then.
pub async fn reaches(sidecar: &Sidecar, state: &str, limit: Duration) -> Value {
    let what = format!("the registration is {state}");
    tells(sidecar, &what, limit, |told| (told["state"] == state).then(|| told.clone())).await
}

/// Waits until this error stands in the way; its text.
pub async fn error(sidecar: &Sidecar, limit: Duration) -> String {
    tells(sidecar, "an error", limit, |told| told["last_error"].as_str().map(ToOwned::to_owned)).await
}

/// Waits until so many losses were noticed.
pub async fn has_lost(sidecar: &Sidecar, times: u64) {
    tells(sidecar, "a loss", SOON, |told| (told["losses"] == times).then_some(())).await;
}

/// How long after the first event of one kind the first of another came, by the sidecar's own clock.
pub async fn between(sidecar: &Sidecar, one: &str, other: &str) -> Duration {
    let events = sidecar.api("/api/events").await;
    let at = |kind: &str| {
        let event = events.as_array().expect("events").iter().find(|event| event["kind"] == kind);
        let at = event.unwrap_or_else(|| panic!("no {kind}: {events}"))["at"].as_str().expect("a time");
        humantime::parse_rfc3339(at).expect("a time")
    };
    at(other).duration_since(at(one)).unwrap_or_default()
}

/// A scenario of a sidecar that registers its app with this agent; requests go through it from now on.
pub fn with_consul(number: u8, title: &str, agent: &ConsulAgent, sidecar: &Sidecar) -> Scenario {
    let bounds = Bounds::consul([agent.port()], 1).registering(Servers::Consul(agent.log()));
    let scenario = Scenario::begin(number, title, ConsulAgent::VERSION, sidecar, bounds);
    scenario.serves(1);
    scenario
}

/// The same with etcd. The servers' own count leaves reads out, which are mostly those of the test.
pub fn with_etcd(number: u8, title: &str, cluster: &Cluster, sidecar: &Sidecar) -> Scenario {
    let members = (0..cluster.size()).map(|member| cluster.addr(member)).collect::<Vec<_>>();
    let ports = members.iter().map(std::net::SocketAddr::port);
    let bounds = Bounds::etcd(ports).registering(Servers::Etcd(members.clone()));
    let mut scenario = Scenario::begin(number, title, cluster.version(), sidecar, bounds);
    scenario.note("registry requests without reads");
    scenario.serves(1);
    scenario
}

/// Takes the place of a registry that died, hangs up on everybody, and counts whom.
pub async fn hangs_up(port: u16, span: Duration) -> usize {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("its port");
    let mut calls = 0;
    let _ = tokio::time::timeout(span, async {
        loop {
            drop(listener.accept().await);
            calls += 1;
        }
    })
    .await;
    calls
}

/// Lets a sidecar stop that was told to; its end must be within `limit` of `since`.
pub async fn ends(
    scenario: &mut Scenario,
    what: &str,
    sidecar: &mut Sidecar,
    since: Instant,
    limit: Duration,
) {
    sidecar.stop_was_asked().await;
    scenario.converged(what, since.elapsed(), limit);
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
