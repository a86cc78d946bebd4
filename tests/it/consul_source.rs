//! Consul as a source, against real agents.

use crate::support::consul::{ConsulAgent, service, with_ttl};
use crate::support::{eventually, server_binary};
use outrigger::discovery::consul::{Consul, SERF_HEALTH};
use outrigger::discovery::{
    Answer, ConsulQuery, Discover, DiscoverError, Feed, Link, Trust, WatchSettings, watch,
};
use outrigger::model::{Endpoint, ServiceName, Standing};
use outrigger::registry::consul::ConsulSettings;
use outrigger::registry::{Credential, TlsFiles};
use outrigger::rt::Tasks;
use outrigger::telemetry::{Events, Kind, Secret};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Generous: the machine may be busy. What is asserted of speed is asserted elsewhere.
const SOON: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn source(settings: ConsulSettings, query: ConsulQuery) -> Consul {
    Consul::new(settings, query, rng()).unwrap()
}

/// The source as it runs in the sidecar, and every answer that it published.
struct Watched {
    tasks: Tasks,
    feed: Feed,
    seen: Vec<Arc<Answer>>,
}

fn watched(settings: ConsulSettings, query: ConsulQuery) -> Watched {
    let tasks = Tasks::new(Events::default());
    let name = ServiceName::new("web").unwrap();
    let source = source(settings, query);
    let feed = watch(&tasks, name, "consul:web".into(), source, WatchSettings::default(), rng());
    Watched { tasks, feed, seen: Vec::new() }
}

impl Watched {
    /// Waits for an answer of which `check` is true; all answers on the way are kept in `seen`.
    async fn sees(&mut self, what: &str, check: impl Fn(&Answer) -> bool) -> Arc<Answer> {
        let search = async {
            loop {
                let newest = self.feed.answers.borrow_and_update().clone();
                if let Some(answer) = newest {
                    self.seen.push(Arc::clone(&answer));
                    if check(&answer) {
                        return answer;
                    }
                }
                self.feed.answers.changed().await.expect("the watch runs");
            }
        };
        match tokio::time::timeout(SOON, search).await {
            Ok(answer) => answer,
            Err(_) => panic!("not seen: {what}; last: {:#?}; {:?}", self.seen.last(), self.status()),
        }
    }

    async fn sees_addrs(&mut self, addrs: &[&str]) -> Arc<Answer> {
        self.sees(&format!("{addrs:?}"), |answer| addrs_of(answer) == addrs).await
    }

    async fn fails(&self, what: &str) -> String {
        eventually(what, SOON, async || {
            let view = self.status();
            view.failing_for.and(view.last_error).map(|error| error.to_string())
        })
        .await
    }

    fn status(&self) -> outrigger::discovery::StatusView {
        self.feed.status.view(Instant::now())
    }

    fn kept(&self) -> Vec<String> {
        self.feed.answers.borrow().as_deref().map(addrs_of).unwrap_or_default()
    }
}

fn addrs_of(answer: &Answer) -> Vec<String> {
    answer.set.iter().map(|e| e.addr.to_string()).collect()
}

fn by_id<'a>(answer: &'a Answer, id: &str) -> Option<&'a Endpoint> {
    answer.set.iter().find(|e| e.instance.as_str() == id)
}

/// `passing`, the reason for critical, or `missing`.
fn standing(answer: &Answer, id: &str) -> String {
    match by_id(answer, id).map(|e| &e.standing) {
        None => "missing".into(),
        Some(Standing::Passing) => "passing".into(),
        Some(Standing::Critical(reason)) => reason.to_string(),
    }
}

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
        |status: &str| json!({"Node": "n2", "CheckID": SERF_HEALTH, "Name": "serf", "Status": status});
    let service = json!({"ID": "web-1", "Service": "web", "Port": 81});
    let register = |status: &str| {
        let body = json!({"Node": "n2", "Address": "127.0.0.2", "Service": service, "Check": check(status)});
        agent.put("/v1/catalog/register", body)
    };
    register("passing").await;
    let mut watched = watched(agent.settings(), ConsulQuery::new("web"));
    watched.sees("passing", |a| standing(a, "web-1") == "passing").await;
    register("critical").await;
    watched.sees("a dead node", |a| standing(a, "web-1") == SERF_HEALTH).await;
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
async fn an_agent_that_comes_back_without_memory_is_not_believed() {
    let mut agent = ConsulAgent::dev().await;
    for port in [81, 82, 83] {
        agent.register(&service("web", &format!("web-{port}"), port)).await;
    }
    let mut watched = watched(agent.settings(), ConsulQuery::new("web"));
    watched.sees("the list", |a| a.set.len() == 3).await;
    agent.kill();
    let error = watched.fails("a dead agent").await;
    assert!(error.contains(&format!("127.0.0.1:{}: ", agent.port())), "{error}");
    assert_eq!((watched.kept().len(), watched.status().link), (3, Link::Stale));

    agent.restart().await;
    watched.sees("the empty list", |a| a.set.is_empty()).await;
    // Any registration moves the index of a service that has no instance.
    agent.register(&service("other", "other", 1)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    agent.register(&service("web", "web-81", 81)).await;
    watched.sees("one back", |a| a.set.len() == 1).await;
    let lost: Vec<_> = watched.seen.iter().filter(|a| a.set.len() < 3).collect();
    assert!(lost.iter().all(|a| matches!(a.trust, Trust::Doubtful(_))), "{lost:#?}");

    for port in [82, 83] {
        agent.register(&service("web", &format!("web-{port}"), port)).await;
    }
    watched.sees("all back, beyond doubt", |a| a.set.len() == 3 && a.trust == Trust::Trusted).await;
    agent.deregister("web-83").await;
    let fewer = watched.sees("one fewer", |a| a.set.len() == 2).await;
    assert_eq!(fewer.trust, Trust::Trusted, "the new history is as good as the old one");
    let count = |kind| watched.tasks.events().counts().find(|c| c.0 == kind).unwrap().1;
    assert_eq!((count(Kind::SourceFailing), count(Kind::SourceRecovered)), (1, 1));
}

#[tokio::test]
async fn an_agent_that_comes_back_with_its_memory_costs_nothing() {
    let mut agent = ConsulAgent::with_data().await;
    for port in [81, 82] {
        agent.register(&service("web", &format!("web-{port}"), port)).await;
    }
    let mut watched = watched(agent.settings(), ConsulQuery::new("web"));
    watched.sees("the list", |a| a.set.len() == 2).await;
    agent.kill();
    watched.fails("a dead agent").await;
    agent.restart().await;
    agent.register(&service("web", "web-83", 83)).await;
    watched.sees("a third", |a| a.set.len() == 3).await;
    assert!(watched.seen.iter().all(|a| a.set.len() >= 2), "{:#?}", watched.seen);
    agent.deregister("web-81").await;
    let fewer = watched.sees("one fewer", |a| a.set.len() == 2).await;
    assert_eq!(fewer.trust, Trust::Trusted);
}

#[tokio::test]
async fn an_older_state_that_was_restored_is_seen_at_once() {
    let agent = ConsulAgent::dev().await;
    agent.register(&service("web", "web-81", 81)).await;
    let folder = tempfile::tempdir().unwrap();
    let snapshot = |verb: &str| {
        let mut command = Command::new(server_binary("consul"));
        command.args(["snapshot", verb, "-http-addr", agent.url().as_str().trim_end_matches('/')]);
        let output = command.arg(folder.path().join("snapshot")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    snapshot("save");
    // Beside the agent, so that its own repair does not interfere.
    let body = json!({"Node": "n2", "Address": "127.0.0.2", "Service": {"Service": "web", "Port": 82}});
    agent.put("/v1/catalog/register", body).await;
    let mut watched = watched(agent.settings(), ConsulQuery::new("web"));
    watched.sees("both", |a| a.set.len() == 2).await;
    eventually("the next question", SOON, async || (watched.status().questions > 1).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = Instant::now();
    snapshot("restore");
    let restored = watched.sees("the older state", |a| a.set.len() == 1).await;
    assert!(before.elapsed() < Duration::from_secs(8), "{:?}: not for the whole wait", before.elapsed());
    assert!(matches!(restored.trust, Trust::Doubtful(_)), "{restored:#?}");
}

#[tokio::test]
async fn absurd_entries_are_skipped_beside_good_ones() {
    let agent = ConsulAgent::dev().await;
    agent.register(&service("web", "good-1", 81)).await;
    agent.register(&service("web", "good-2", 82)).await;
    for (id, port) in [("minus", -1), ("zero", 0), ("huge", 70_000)] {
        agent.register(&json!({"Name": "web", "ID": id, "Port": port})).await;
    }
    for (id, address) in [("text", "not an ip"), ("socket", "127.0.0.1:80"), ("brackets", "[::1]")] {
        agent.register(&json!({"Name": "web", "ID": id, "Port": 80, "Address": address})).await;
    }
    let mut watched = watched(agent.settings(), ConsulQuery::new("web"));
    let answer = watched.sees_addrs(&["127.0.0.1:81", "127.0.0.1:82"]).await;
    let skipped: Vec<_> = answer.skipped.iter().map(|s| s.entry.as_str()).collect();
    assert_eq!(skipped, ["brackets", "huge", "minus", "socket", "text", "zero"]);
    let huge = &answer.skipped[1].reason;
    assert!(huge.contains("70000"), "{huge}");
    let events = watched.tasks.events().recent();
    assert_eq!(events.iter().filter(|e| e.kind == Kind::EntrySkipped).count(), 6);
}

#[tokio::test]
async fn a_token_without_rights_never_empties_what_is_known() {
    let agent = ConsulAgent::dev_with_acls().await;
    agent.register(&service("web", "web-81", 81)).await;
    let services = "service_prefix \"\" { policy = \"read\" }";
    let good = agent.token("good", &format!("{services} node_prefix \"\" {{ policy = \"read\" }}")).await;
    let half = agent.token("half", services).await;
    let with = |token| ConsulSettings { token, ..agent.settings() };
    let text = |token: &str| Some(Credential::Text(Secret::new(token)));

    let unknown = "00000000-1111-2222-3333-444444444444";
    let error = source(with(text(unknown)), ConsulQuery::new("web")).next().await.unwrap_err();
    let DiscoverError::Refused(words) = &error else { panic!("{error:?}") };
    assert!(words.contains("ACL not found") && words.contains("node:read"), "{words}");
    assert!(!words.contains(unknown), "{words}");
    let answer = source(with(text(&good)), ConsulQuery::new("web")).next().await.unwrap();
    assert_eq!(addrs_of(&answer), ["127.0.0.1:81"]);

    // Consul 1.8 answers 200 [] to whom it denies: only the unmoved index shows it, against what was known.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, &good).unwrap();
    let query = ConsulQuery { wait: Duration::from_secs(1), ..ConsulQuery::new("web") };
    let mut watched = watched(with(Some(Credential::File(path.clone()))), query);
    watched.sees("the list", |a| a.set.len() == 1).await;
    std::fs::write(&path, &half).unwrap();
    let empty = watched.sees("nothing", |a| a.set.is_empty()).await;
    assert!(matches!(empty.trust, Trust::Doubtful(_)), "{empty:?}");
    // A change that is hidden from this token moves the index all the same.
    agent.register(&service("web", "web-82", 82)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    watched.feed.nudge();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let still = watched.feed.answers.borrow_and_update().clone().unwrap();
    assert!(still.set.is_empty() && matches!(still.trust, Trust::Doubtful(_)), "{still:?}");

    std::fs::write(&path, &good).unwrap();
    watched.sees("both", |a| a.set.len() == 2).await;
    std::fs::remove_file(&path).unwrap();
    let error = watched.fails("a missing token file").await;
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert_eq!(watched.kept().len(), 2);
    std::fs::write(&path, &good).unwrap();
    eventually("live again", SOON, async || (watched.status().link == Link::Live).then_some(())).await;
}

#[tokio::test]
async fn without_any_token_nothing_is_found_and_nothing_is_known() {
    let agent = ConsulAgent::dev_with_acls().await;
    agent.register(&service("web", "web-81", 81)).await;
    let settings = ConsulSettings { token: None, ..agent.settings() };
    let answer = source(settings, ConsulQuery::new("web")).next().await.unwrap();
    assert!(answer.set.is_empty(), "Consul 1.8 does not say that it denies");
}

#[tokio::test]
async fn unrelated_registrations_do_not_disturb() {
    let agent = ConsulAgent::dev().await;
    agent.register(&service("web", "web-81", 81)).await;
    let mut populated = watched(agent.settings(), ConsulQuery::new("web"));
    let mut missing = watched(agent.settings(), ConsulQuery::new("later"));
    populated.sees("the list", |a| a.set.len() == 1).await;
    missing.sees("nothing", |a| a.set.is_empty()).await;
    // The catalog settles for a moment after the start of the agent.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = (populated.status(), missing.status(), Instant::now());
    for n in 0..500 {
        agent.register(&service("noise", &format!("noise-{n}"), 1000)).await;
    }
    let seconds = before.2.elapsed().as_secs();
    let after = (populated.status(), missing.status());
    assert!(after.0.questions - before.0.questions <= 1, "{after:?}");
    assert_eq!(after.0.updates, before.0.updates);
    assert!(after.1.questions - before.1.questions <= seconds + 2, "{after:?} in {seconds} s");
    assert_eq!(after.1.updates, before.1.updates);
    agent.register(&service("later", "later-1", 91)).await;
    missing.sees_addrs(&["127.0.0.1:91"]).await;
}

#[tokio::test]
async fn a_thousand_instances_come_compressed() {
    let agent = ConsulAgent::dev().await;
    for first in (0..1200).step_by(60) {
        let put = |n: u16| {
            let service = json!({"ID": format!("web-{n}"), "Service": "web", "Port": 2000 + n});
            json!({"Service": {"Verb": "set", "Node": "n1", "Service": service}})
        };
        agent.put("/v1/txn", (first..first + 60).map(put).collect()).await;
    }
    let relay = relay::Relay::start(agent.port()).await;
    let mut settings = agent.settings();
    settings.addresses[0].set_port(Some(relay.port)).unwrap();
    let mut watched = watched(settings, ConsulQuery::new("web"));
    watched.sees("all", |a| a.set.len() == 1200).await;
    let bytes = relay.bytes();
    assert!((10_000..400_000).contains(&bytes), "{bytes} bytes for 1200 instances");
}

#[tokio::test]
async fn the_next_agent_takes_over_and_the_preferred_one_is_taken_back() {
    let (mut first, second) = (ConsulAgent::dev().await, ConsulAgent::dev().await);
    // Two clusters, so that it shows who answered.
    first.register(&service("web", "web-81", 81)).await;
    second.register(&service("web", "web-82", 82)).await;
    let mut settings = first.settings();
    settings.addresses.push(second.url());
    let query = ConsulQuery {
        reread: Duration::from_secs(1),
        wait: Duration::from_millis(500),
        ..ConsulQuery::new("web")
    };
    let mut watched = watched(settings, query);
    watched.sees_addrs(&["127.0.0.1:81"]).await;
    first.kill();
    watched.sees_addrs(&["127.0.0.1:82"]).await;
    let errors = watched.status().errors;
    assert_eq!(errors, 1, "one error, then the other agent");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(watched.status().errors, errors, "looking whether the preferred one is back is no error");
    first.restart().await;
    first.register(&service("web", "web-83", 83)).await;
    watched.sees_addrs(&["127.0.0.1:83"]).await;
}

#[tokio::test]
async fn a_frozen_agent_is_given_up_at_the_deadline() {
    let (mut first, second) = (ConsulAgent::dev().await, ConsulAgent::dev().await);
    second.register(&service("web", "web-82", 82)).await;
    let mut settings = first.settings();
    settings.addresses.push(second.url());
    let mut source =
        source(settings, ConsulQuery { wait: Duration::from_millis(500), ..ConsulQuery::new("web") });
    assert!(source.next().await.unwrap().set.is_empty());
    // It still accepts connections: only the deadline can tell.
    first.process().signal("STOP");
    let error = tokio::time::timeout(Duration::from_secs(25), async {
        loop {
            if let Err(error) = source.next().await {
                return error.to_string();
            }
        }
    });
    let error = error.await.expect("an end of patience");
    assert!(error.ends_with(": no whole answer within 15.5 s"), "{error}");
    assert_eq!(addrs_of(&source.next().await.unwrap()), ["127.0.0.1:82"]);
}

#[tokio::test]
async fn certificates_are_shown_and_checked() {
    let agent = ConsulAgent::dev_with_tls().await;
    agent.register(&service("web", "web-81", 81)).await;
    let settings = agent.tls_settings();
    let answer = source(settings.clone(), ConsulQuery::new("web")).next().await.unwrap();
    assert_eq!(addrs_of(&answer), ["127.0.0.1:81"]);

    let fails = async |tls| {
        let settings = ConsulSettings { tls, ..settings.clone() };
        source(settings, ConsulQuery::new("web")).next().await.unwrap_err().to_string()
    };
    let error = fails(TlsFiles { ca: None, ..settings.tls.clone() }).await;
    assert!(error.contains("cannot connect: invalid peer certificate: UnknownIssuer"), "{error}");
    let anonymous = TlsFiles { cert: None, key: None, ..settings.tls.clone() };
    let error = fails(anonymous).await;
    assert!(error.contains("client certificate"), "{error}");
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

mod relay {
    //! A relay that counts what comes back.

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    pub struct Relay {
        pub port: u16,
        bytes: Arc<AtomicU64>,
    }

    impl Relay {
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        pub async fn start(to: u16) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let bytes = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&bytes);
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                    let count = Arc::clone(&count);
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 64 << 10];
                        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                            count.fetch_add(n as u64, Ordering::Relaxed);
                            to_client.write_all(&buffer[..n]).await.unwrap();
                        }
                    });
                }
            });
            Self { port, bytes }
        }

        pub fn bytes(&self) -> u64 {
            self.bytes.load(Ordering::Relaxed)
        }
    }
}
