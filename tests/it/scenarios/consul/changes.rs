//! Changes that are meant: one, many, all, somebody else's.

use super::{HALF_A_SECOND, SOON, are_usable, config, questions};
use crate::scenarios::{Bounds, Scenario};
use crate::support::client::Client;
use crate::support::consul::{ConsulAgent, service};
use crate::support::registry::{consul_entry, three};
use crate::support::sockets::connections;
use crate::support::{Instance, Relay, Sidecar, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test]
#[ignore = "slow: 150 changes, one after the other"]
async fn s02_each_change_is_seen_and_leaves_the_others_alone() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    let (one, other) = tokio::join!(Instance::start("web-4"), Instance::start("web-4"));
    agent.register_all("web", &instances).await;
    let sidecar = Sidecar::start(&config(&agent.source("web"), "")).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "a fourth comes, changes, goes: 50 times";
    let bounds = Bounds::consul([agent.port()], 1).busy();
    let mut scenario = Scenario::begin(2, title, ConsulAgent::VERSION, &sidecar, bounds);
    scenario.serves(3);
    // Until each of them has been called.
    sleep(HALF_A_SECOND).await;
    let ports: Vec<_> = instances.iter().map(|i| i.addr().port()).collect();
    let kept = connections(sidecar.id(), &ports);
    assert_eq!(kept.len(), 3, "one for each");

    let mut admin = Client::new(sidecar.admin());
    let mut took = Vec::new();
    let mut fourth = async |change: Option<&Value>, seen: &dyn Fn(Option<&Value>) -> bool| {
        // Longer than the pace, so that this measures the way of one change.
        sleep(Duration::from_millis(110)).await;
        let since = Instant::now();
        match change {
            Some(entry) => agent.register(entry).await,
            None => agent.deregister("web-4").await,
        }
        while !is_seen(&mut admin, seen).await {
            assert!(since.elapsed() < SOON, "not seen: {change:?}");
            sleep(Duration::from_millis(1)).await;
        }
        took.push(since.elapsed());
    };
    for round in 0..50_u16 {
        let mut entry = consul_entry("web", "web-4", one.addr(), 1);
        fourth(Some(&entry), &|it| it.is_some()).await;
        let (meta, weight) = (format!("{round}"), 2 + round);
        match round % 3 {
            0 => {
                entry["Port"] = json!(other.addr().port());
                let addr = other.addr().to_string();
                fourth(Some(&entry), &|it| it.is_some_and(|it| it["addr"] == addr.as_str())).await;
            }
            1 => {
                entry["Weights"]["Passing"] = json!(weight);
                fourth(Some(&entry), &|it| it.is_some_and(|it| it["weight"] == weight)).await;
            }
            _ => {
                entry["Meta"] = json!({"round": meta});
                fourth(Some(&entry), &|it| it.is_some_and(|it| it["meta"]["round"] == meta.as_str())).await;
            }
        }
        fourth(None, &|it| it.is_none()).await;
    }
    took.sort();
    let (median, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    scenario.note(format!("p50 {median:.1?}"));
    assert!(median <= Duration::from_millis(50), "p50 {median:?}");
    scenario.converged("p99", p99, HALF_A_SECOND);
    assert_eq!(connections(sidecar.id(), &ports), kept, "the others keep their connections");
    scenario.end().await;
}

/// Looks whether `web-4`, while it is not draining, is as it should be.
async fn is_seen(admin: &mut Client, seen: &dyn Fn(Option<&Value>) -> bool) -> bool {
    let told: Value = admin.get("/api/services/web").await.expect("an answer").json();
    let endpoints = told["endpoints"].as_array().expect("endpoints");
    seen(endpoints.iter().find(|e| e["instance"] == "web-4" && e["state"] != "draining"))
}

/// Registers instances, of which none runs, on a node of their own, or takes them away: in one step each time.
async fn many(agent: &ConsulAgent, verb: &str, numbers: impl Iterator<Item = u16>, weight: u16) {
    let one = |n: u16| {
        let weights = json!({"Passing": weight, "Warning": 1});
        let service =
            json!({"ID": format!("many-{n}"), "Service": "web", "Port": 2000 + n, "Weights": weights});
        json!({"Service": {"Verb": verb, "Node": "n2", "Service": service}})
    };
    agent.put("/v1/txn", numbers.map(one).collect()).await;
}

async fn second_node(agent: &ConsulAgent) {
    // The agent repairs what it does not know of its own.
    agent.put("/v1/catalog/register", json!({"Node": "n2", "Address": "127.0.0.2"})).await;
}

#[tokio::test]
async fn s04_what_is_meant_is_obeyed_at_once_even_if_it_is_all() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    agent.register_all("web", &instances[..1]).await;
    let sidecar = Sidecar::start(&config(&agent.source("web"), "")).await;
    let title = "the last one leaves; 60 of 100 leave in one step";
    let mut scenario =
        Scenario::begin(4, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 1));
    scenario.serves(1);
    sleep(HALF_A_SECOND).await;
    scenario.rests().await;
    let since = Instant::now();
    agent.deregister("web-1").await;
    scenario.converges("nobody", since, HALF_A_SECOND, async || are_usable(&sidecar, 0).await).await;
    let answer = sidecar.get("web", "/").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let why = answer.header("x-outrigger-error").unwrap_or_default().to_owned();
    assert!(why.starts_with("no_endpoints; service=web; known=0; usable=0; source_age="), "{why}");

    second_node(&agent).await;
    many(&agent, "set", 0..50, 1).await;
    many(&agent, "set", 50..100, 1).await;
    eventually("a hundred", SOON, async || are_usable(&sidecar, 100).await).await;
    sleep(Duration::from_millis(200)).await;
    let since = Instant::now();
    many(&agent, "delete", 40..100, 1).await;
    scenario.converges("forty", since, HALF_A_SECOND, async || are_usable(&sidecar, 40).await).await;
    scenario.end().await;
}

#[tokio::test]
async fn s05_a_storm_of_changes_ends_in_the_last_one() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    agent.register_all("web", &instances).await;
    let sidecar = Sidecar::start(&config(&agent.source("web"), "")).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let bounds = Bounds::consul([agent.port()], 1).busy();
    let title = "300 changes as fast as possible";
    let mut scenario = Scenario::begin(5, title, ConsulAgent::VERSION, &sidecar, bounds);
    scenario.serves(3);
    let (before, began) = (agent.health_queries("web").len(), Instant::now());
    for n in 1..=300 {
        agent.register(&consul_entry("web", "web-3", instances[2].addr(), 1 + n)).await;
    }
    let since = Instant::now();
    scenario
        .converges("the last weight", since, Duration::from_millis(600), async || {
            let told = sidecar.api("/api/services/web").await;
            told["endpoints"].as_array()?.iter().any(|e| e["weight"] == 301).then_some(())
        })
        .await;
    let time = began.elapsed().as_secs_f64();
    let asked = agent.health_queries("web").len() - before;
    scenario.note(format!("{asked} polls in {time:.1} s"));
    assert!(asked as f64 <= 10.0 * time + 2.0, "{asked} polls in {time:.1} s");
    scenario.end().await;
}

#[tokio::test]
async fn s06_what_happens_to_others_is_hardly_noticed() {
    let agent = ConsulAgent::dev().await;
    let instances = three().await;
    agent.register_all("web", &instances).await;
    let later = format!("[service.later]\nfrom = \"{}\"\n", agent.source("later"));
    // The whole wait, in which nothing is to be asked.
    let config = config(&agent.source("web"), &later).replace("\"3s\"", "\"30s\"");
    // Not ready: the other service has nobody yet.
    let sidecar = Sidecar::launch(&config).await;
    eventually("all", SOON, async || are_usable(&sidecar, 3).await).await;
    let title = "500 registrations of others";
    let mut scenario =
        Scenario::begin(6, title, ConsulAgent::VERSION, &sidecar, Bounds::consul([agent.port()], 2));
    scenario.serves(3);
    // The catalog settles for a moment after the start of the agent, and the first hold is a short one.
    sleep(Duration::from_secs(3)).await;
    let (before, began) =
        ([questions(&sidecar, "web").await, questions(&sidecar, "later").await], Instant::now());
    for n in 0..500 {
        agent.register(&service("noise", &format!("noise-{n}"), 1000)).await;
    }
    let seconds = began.elapsed().as_secs();
    let after = [questions(&sidecar, "web").await, questions(&sidecar, "later").await];
    let asked = [after[0] - before[0], after[1] - before[1]];
    scenario.note(format!("{} polls of a known service, {} of a missing one", asked[0], asked[1]));
    assert!(asked[0] <= 1, "{asked:?}");
    assert!(asked[1] <= seconds + 2, "{asked:?} in {seconds} s");
    let since = Instant::now();
    agent.register_all("later", &instances[..1]).await;
    scenario
        .converges("the first one", since, Duration::from_millis(1500), async || {
            (sidecar.states("later").await.len() == 1).then_some(())
        })
        .await;
    scenario.end().await;
}

#[tokio::test]
async fn s19_a_thousand_instances_change_often() {
    let agent = ConsulAgent::dev().await;
    second_node(&agent).await;
    for first in (0..1000).step_by(50) {
        many(&agent, "set", first..first + 50, 1).await;
    }
    let relay = Relay::to(SocketAddr::from(([127, 0, 0, 1], agent.port()))).await;
    let sidecar = Sidecar::start(&config(&format!("consul://{}/web", relay.addr()), "")).await;
    let title = "100 changes among 1000 instances in 3 s";
    let bounds = Bounds::consul([relay.addr().port()], 1).busy();
    let mut scenario = Scenario::begin(19, title, ConsulAgent::VERSION, &sidecar, bounds);
    eventually("a thousand", SOON, async || are_usable(&sidecar, 1000).await).await;
    scenario.holds(1000);
    // The catalog settles for a moment after the start of the agent.
    sleep(Duration::from_secs(2)).await;
    let (bytes, updates, rss) = (relay.bytes(), updates(&sidecar).await, sidecar.rss_kib());
    let mut turns = tokio::time::interval(Duration::from_millis(30));
    for n in 0..100 {
        turns.tick().await;
        many(&agent, "set", 10 * n..10 * n + 1, 7).await;
    }
    let since = Instant::now();
    scenario
        .converges("all changes", since, Duration::from_secs(2), async || {
            let told = sidecar.api("/api/services/web").await;
            let heavier = told["endpoints"].as_array()?.iter().filter(|e| e["weight"] == 7).count();
            (heavier == 100).then_some(())
        })
        .await;
    let answers = self::updates(&sidecar).await - updates;
    let each = (relay.bytes() - bytes) / answers.max(1);
    let grown = sidecar.rss_kib().saturating_sub(rss) / 1024;
    scenario.note(format!("{answers} answers of {} KiB, RSS +{grown} MiB", each / 1024));
    assert!(each <= 100_000, "{each} bytes an answer: not compressed?");
    assert!(sidecar.rss_kib() < 200 * 1024 && grown < 50, "{} KiB, {grown} MiB more", sidecar.rss_kib());
    scenario.end().await;
}

async fn updates(sidecar: &Sidecar) -> u64 {
    crate::support::registry::source(sidecar, "web").await["updates"].as_u64().expect("a number")
}
