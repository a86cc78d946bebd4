//! Consul as a source, against real agents that work: lists, changes, checks, choices.

use crate::support::consul::{ConsulAgent, service, with_ttl};
use crate::support::watched::{SOON, addrs_of, by_id, source, standing, watched};
use outrigger::discovery::{Answer, ConsulQuery, Discover, DiscoverError, Link, Trust};
use outrigger::registry::consul::ConsulSettings;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_list_is_complete_at_once_and_follows_every_change() {
    let agent = ConsulAgent::dev().await;
    let mut v6 = service("web", "web-3", 83);
    v6["Address"] = json!("::1");
    let mut given = service("web", "web-2", 82);
    given["Address"] = json!("127.0.0.9");
    given["Meta"] = json!({"zone": "eu-1"});
    for instance in [&service("web", "web-1", 81), &given, &v6] {
        agent.register(instance).await;
    }
    let started = Instant::now();
    let mut watched = watched(agent.settings(), ConsulQuery::new("web"));
    let first = watched.sees_addrs(&["127.0.0.1:81", "127.0.0.9:82", "[::1]:83"]).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(watched.seen.len(), 1, "the first answer is the whole list");
    assert_eq!(first.trust, Trust::Trusted);
    assert!(first.position.is_some());
    let second = by_id(&first, "web-2").unwrap();
    assert_eq!(second.zone.as_ref().unwrap().as_str(), "eu-1");
    assert_eq!(watched.status().link, Link::Live);

    let mut fourth = service("web", "web-4", 84);
    fourth["Weights"] = json!({"Passing": 5, "Warning": 1});
    agent.register(&fourth).await;
    watched.sees("web-4 of weight 5", |a| by_id(a, "web-4").is_some_and(|e| e.weight.get() == 5)).await;
    fourth["Weights"]["Passing"] = json!(9);
    agent.register(&fourth).await;
    watched.sees("web-4 of weight 9", |a| by_id(a, "web-4").is_some_and(|e| e.weight.get() == 9)).await;
    agent.deregister("web-4").await;
    watched.sees("no web-4", |a| by_id(a, "web-4").is_none()).await;
    assert!(watched.seen.iter().all(|a| a.trust == Trust::Trusted), "{:#?}", watched.seen);

    // Somebody meant it: the last one goes, and that is to be obeyed.
    for id in ["web-1", "web-2", "web-3"] {
        agent.deregister(id).await;
    }
    let last = watched.sees_addrs(&[]).await;
    assert_eq!(last.trust, Trust::Trusted);
    agent.register(&service("web", "web-1", 81)).await;
    watched.sees_addrs(&["127.0.0.1:81"]).await;
    assert_eq!(watched.status().errors, 0);
}

#[tokio::test]
async fn checks_and_maintenance_take_an_instance_out_and_say_why() {
    let agent = ConsulAgent::dev().await;
    let mut instance = with_ttl(service("web", "web-1", 81), HOUR);
    instance["Weights"] = json!({"Passing": 8, "Warning": 3});
    agent.register(&instance).await;
    let mut strict = watched(agent.settings(), ConsulQuery::new("web"));
    let mut lenient = watched(agent.settings(), ConsulQuery { warning: true, ..ConsulQuery::new("web") });
    strict.sees("passing", |a| standing(a, "web-1") == "passing").await;

    agent.report("web-1", "warn").await;
    strict.sees("a warning", |a| standing(a, "web-1") == "check service:web-1 warning").await;
    let weighs = |weight| move |a: &Answer| by_id(a, "web-1").is_some_and(|e| e.weight.get() == weight);
    let warned = lenient.sees("the warning weight", weighs(3)).await;
    assert_eq!(standing(&warned, "web-1"), "passing");

    agent.report("web-1", "fail").await;
    for watched in [&mut strict, &mut lenient] {
        watched.sees("critical", |a| standing(a, "web-1") == "check service:web-1 critical").await;
    }
    agent.report("web-1", "pass").await;
    lenient.sees("the passing weight", weighs(8)).await;
    strict.sees("passing", |a| standing(a, "web-1") == "passing").await;

    agent.service_maintenance("web-1", true).await;
    strict.sees("service maintenance", |a| standing(a, "web-1") == "service maintenance").await;
    agent.node_maintenance(true).await;
    strict.sees("node maintenance", |a| standing(a, "web-1") == "node maintenance").await;
    agent.node_maintenance(false).await;
    agent.service_maintenance("web-1", false).await;
    let back = strict.sees("passing", |a| standing(a, "web-1") == "passing").await;
    assert_eq!(back.trust, Trust::Trusted);
}

#[tokio::test]
async fn a_node_thought_dead_is_told_from_an_instance_that_failed() {
    let agent = ConsulAgent::dev().await;
    let check =
        |status: &str| json!({"Node": "n2", "CheckID": "serfHealth", "Name": "serf", "Status": status});
    let service = json!({"ID": "web-1", "Service": "web", "Port": 81});
    let register = |status: &str| {
        let body = json!({"Node": "n2", "Address": "127.0.0.2", "Service": service, "Check": check(status)});
        agent.put("/v1/catalog/register", body)
    };
    register("passing").await;
    let mut watched = watched(agent.settings(), ConsulQuery::new("web"));
    watched.sees("passing", |a| standing(a, "web-1") == "passing").await;
    register("critical").await;
    watched.sees("a dead node", |a| standing(a, "web-1") == "lost: serfHealth").await;
}

#[tokio::test]
async fn tags_and_filters_choose_and_wrong_ones_are_refused_with_consuls_words() {
    let agent = ConsulAgent::dev().await;
    for (port, tags) in [(81, json!(["blue", "v2"])), (82, json!(["blue"])), (83, json!(["v2"]))] {
        let mut instance = service("web", &format!("web-{port}"), port);
        instance["Tags"] = tags;
        instance["Meta"] = json!({"shard": format!("{}", port % 2)});
        agent.register(&instance).await;
    }
    let base = ConsulQuery::new("web");
    let both = ConsulQuery { tags: vec!["blue".into(), "v2".into()], ..base.clone() };
    let answer = source(agent.settings(), both).next().await.unwrap();
    assert_eq!(addrs_of(&answer), ["127.0.0.1:81"]);
    let filter = |text: &str| ConsulQuery { filter: Some(text.into()), ..base.clone() };
    let answer = source(agent.settings(), filter("Service.Meta.shard == \"0\"")).next().await.unwrap();
    assert_eq!(addrs_of(&answer), ["127.0.0.1:82"]);

    let odd_name = ConsulQuery::new("a/b ü?%");
    agent.register(&service("a/b ü?%", "odd", 99)).await;
    let answer = source(agent.settings(), odd_name).next().await.unwrap();
    assert_eq!(addrs_of(&answer), ["127.0.0.1:99"]);

    let wrong = [
        (filter("Nope == 1"), "Selector \"Nope\" is not valid"),
        (filter("bad("), "boolean expression"),
        (ConsulQuery { dc: Some("nope".into()), ..base.clone() }, "no datacenter \"nope\""),
    ];
    for (query, words) in wrong {
        let error = source(agent.settings(), query).next().await.unwrap_err();
        assert!(matches!(&error, DiscoverError::Refused(text) if text.contains(words)), "{error:?}");
    }
    let settings = ConsulSettings { namespace: Some("team".into()), ..agent.settings() };
    let error = source(settings, base).next().await.unwrap_err();
    assert!(matches!(&error, DiscoverError::Refused(text) if text.contains("Enterprise")), "{error:?}");
}

#[tokio::test]
async fn a_dropped_question_loses_nothing() {
    let agent = ConsulAgent::dev().await;
    agent.register(&service("web", "web-81", 81)).await;
    let mut source = source(agent.settings(), ConsulQuery::new("web"));
    source.next().await.unwrap();
    // The catalog settles for a moment after the start of the agent.
    while tokio::time::timeout(Duration::from_secs(2), source.next()).await.is_ok() {}
    agent.register(&service("web", "web-82", 82)).await;
    let answer = tokio::time::timeout(SOON, source.next()).await.expect("an answer").unwrap();
    assert_eq!((answer.set.len(), answer.trust), (2, Trust::Trusted));
    let waits = tokio::time::timeout(Duration::from_millis(300), source.next()).await;
    assert!(waits.is_err(), "the query is held: {waits:?}");
    source.rewind();
    let afresh = tokio::time::timeout(SOON, source.next()).await.expect("at once").unwrap();
    assert_eq!((afresh.set, afresh.trust), (answer.set, Trust::Trusted));
}
