//! Consul as a source while real agents die, freeze, forget or deny.

use crate::support::consul::{ConsulAgent, service};
use crate::support::eventually;
use crate::support::watched::{SOON, addrs_of, source, watched};
use outrigger::discovery::{ConsulQuery, Discover, DiscoverError, Link, Trust};
use outrigger::registry::consul::ConsulSettings;
use outrigger::registry::{Credential, TlsFiles};
use outrigger::telemetry::{Kind, Secret};
use std::time::Duration;

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
    let error = watched.fails("a denial").await;
    assert!(error.contains("hide every instance") && error.contains("node:read"), "{error}");
    // A change that is hidden from this token moves the index all the same.
    agent.register(&service("web", "web-82", 82)).await;
    std::fs::write(&path, format!("{half}\n")).unwrap();
    let errors = watched.status().errors;
    eventually("another denial", SOON, async || (watched.status().errors > errors).then_some(())).await;
    assert_eq!((watched.kept().len(), watched.status().link), (1, Link::Stale));

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
    let hint = answer.hint.unwrap();
    assert!(hint.contains("no token is given") && hint.contains("node:read"), "{hint}");
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
async fn certificates_that_change_are_in_use_at_once_and_spoilt_ones_change_nothing() {
    let agent = ConsulAgent::dev_with_tls().await;
    agent.register(&service("web", "web-81", 81)).await;
    let settings = agent.tls_settings();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let other = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=other", "-keyout", "/dev/null", "-out"])
        .arg(&ca)
        .output()
        .unwrap();
    assert!(other.status.success(), "{other:?}");
    let tls = TlsFiles { ca: Some(ca.clone()), ..settings.tls.clone() };
    let mut source = source(ConsulSettings { tls, ..settings.clone() }, ConsulQuery::new("web"));
    let error = source.next().await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");

    std::fs::copy(settings.tls.ca.unwrap(), &ca).unwrap();
    assert_eq!(addrs_of(&source.next().await.unwrap()), ["127.0.0.1:81"]);
    std::fs::write(&ca, "half a certi").unwrap();
    agent.register(&service("web", "web-82", 82)).await;
    assert_eq!(addrs_of(&source.next().await.unwrap()), ["127.0.0.1:81", "127.0.0.1:82"]);
}
