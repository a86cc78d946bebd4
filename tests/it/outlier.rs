//! Instances at which requests fail: taken out on that evidence, tried again, and when nearly all of them do.

use crate::support::client::{self, Client};
use crate::support::web::{defaults, list, refusing, service};
use crate::support::{Instance, Sidecar, eventually, free_port};
use http::Request;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// What fails is passed on, so that the tests count what instances answered.
const ONE_ATTEMPT: &str = "[service.web.retry]\nattempts = 1\n";

/// The same, and a time out that a test can wait for.
fn quick(term: &str) -> String {
    format!("{ONE_ATTEMPT}[service.web.outlier]\nejection = \"{term}\"\n")
}

async fn state(sidecar: &Sidecar, addr: SocketAddr) -> String {
    let states = sidecar.states("web").await;
    states
        .into_iter()
        .find(|(known, _)| *known == addr.to_string())
        .map_or_else(|| "gone".to_owned(), |(_, state)| state)
}

async fn is_in_state(sidecar: &Sidecar, addr: SocketAddr, wanted: &str) {
    eventually(&format!("{addr} is {wanted}"), SOON, async || {
        (state(sidecar, addr).await == wanted).then_some(())
    })
    .await;
}

/// So many GET requests on one connection: their statuses.
async fn ask(sidecar: &Sidecar, count: usize) -> Vec<u16> {
    let mut client = Client::new(sidecar.service("web"));
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(client.get("/").await.expect("an answer").status);
    }
    statuses
}

fn failures(statuses: &[u16]) -> usize {
    statuses.iter().filter(|status| **status != 200).count()
}

async fn five(bad: &[&str]) -> (Vec<Instance>, Vec<SocketAddr>) {
    let mut instances = Vec::new();
    for name in ["a", "b", "c", "d"] {
        instances.push(Instance::start(name).await);
    }
    instances.push(Instance::with_flags("bad", bad).await);
    let addrs = instances.iter().map(Instance::addr).collect();
    (instances, addrs)
}

#[tokio::test]
async fn one_of_five_that_answers_503_is_out_after_five_failures() {
    let (instances, addrs) = five(&["--status", "503"]).await;
    let sidecar = Sidecar::start(&defaults("web", &addrs, ONE_ATTEMPT)).await;
    let statuses = ask(&sidecar, 200).await;
    let failed = failures(&statuses);
    assert!((5..=25).contains(&failed), "{failed} of 200");
    assert_eq!(failures(&statuses[100..]), 0, "none once it is out");
    assert_eq!(state(&sidecar, addrs[4]).await, "ejected");
    assert_eq!(sidecar.count("outrigger_ejections_total{service=\"web\",reason=\"consecutive\"}").await, 1);
    let service: Value = sidecar.api("/api/services/web").await;
    let reasons = &service["endpoints"].as_array().unwrap().iter().find(|e| e["state"] == "ejected").unwrap()
        ["reasons"];
    assert_eq!(reasons[0], "outlier: 5 requests in a row failed");
    let events = sidecar.api("/api/events").await;
    let told =
        events.as_array().unwrap().iter().find(|event| event["kind"] == "endpoint_ejected").unwrap().clone();
    assert!(told["detail"].as_str().unwrap().starts_with("5 requests in a row failed; out for "), "{told}");
    assert_eq!(told["endpoint"], addrs[4].to_string());
    drop(instances);
}

#[tokio::test]
async fn with_retries_no_request_fails_although_one_of_five_does() {
    let (_instances, addrs) = five(&["--status", "503"]).await;
    let sidecar = Sidecar::start(&defaults("web", &addrs, "")).await;
    assert_eq!(failures(&ask(&sidecar, 200).await), 0);
    assert_eq!(state(&sidecar, addrs[4]).await, "ejected");
}

#[tokio::test]
async fn of_two_one_may_be_out_and_the_last_one_never_is() {
    let good = Instance::start("good").await;
    let bad = Instance::with_flags("bad", &["--status", "503"]).await;
    let sidecar = Sidecar::start(&defaults("web", &[good.addr(), bad.addr()], ONE_ATTEMPT)).await;
    let failed = failures(&ask(&sidecar, 100).await);
    assert!((5..=25).contains(&failed), "{failed} of 100");
    assert_eq!(state(&sidecar, bad.addr()).await, "ejected");
    let alone = Sidecar::start(&defaults("web", &[bad.addr()], ONE_ATTEMPT)).await;
    assert_eq!(ask(&alone, 50).await, [503; 50], "its own answers, not ours");
    assert_eq!(state(&alone, bad.addr()).await, "usable");
}

#[tokio::test]
async fn errors_of_the_program_are_no_evidence() {
    let good = Instance::start("good").await;
    let bad = Instance::with_flags("bad", &["--status", "500"]).await;
    let sidecar = Sidecar::start(&defaults("web", &[good.addr(), bad.addr()], ONE_ATTEMPT)).await;
    assert_eq!(failures(&ask(&sidecar, 100).await), 50);
    assert_eq!(state(&sidecar, bad.addr()).await, "usable");
}

#[tokio::test]
async fn a_low_share_of_successes_is_evidence_too() {
    let good = Instance::start("good").await;
    let other = Instance::start("other").await;
    let sidecar = Sidecar::start(&defaults("web", &[good.addr(), other.addr()], ONE_ATTEMPT)).await;
    let mut client = Client::new(sidecar.service("web"));
    // Four requests in turn: each instance sees one failure in two, never two in a row.
    for _ in 0..60 {
        for path in ["/", "/", "/status/503", "/status/503"] {
            client.get(path).await.unwrap();
        }
    }
    let out = || async {
        let states = sidecar.states("web").await;
        (states.iter().filter(|(_, state)| state == "ejected").count() == 1).then_some(())
    };
    eventually("one of both is out, never the last", SOON, out).await;
    assert_eq!(sidecar.count("outrigger_ejections_total{service=\"web\",reason=\"success_rate\"}").await, 1);
}

#[tokio::test]
async fn who_was_out_is_tried_with_one_request_and_comes_back_if_it_is_well() {
    let good = Instance::start("good").await;
    let port = free_port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let sidecar = Sidecar::start(&defaults("web", &[good.addr(), addr], &quick("1s"))).await;
    // Nobody listens there.
    ask(&sidecar, 20).await;
    is_in_state(&sidecar, addr, "ejected").await;
    let mended = Instance::at("mended", addr, &["--delay", "300"]).await;
    is_in_state(&sidecar, addr, "usable").await;
    // Twenty at once: one is the trial, the others go elsewhere.
    let asked = (0..20).map(|_| client::get(sidecar.service("web"), "/"));
    let answers = futures_util::future::join_all(asked).await;
    let theirs = answers.iter().filter(|answer| answer.instance() == "mended").count();
    assert_eq!((theirs, answers.len()), (1, 20));
    let back = async || {
        let events = sidecar.api("/api/events").await;
        events.as_array()?.iter().any(|event| event["kind"] == "endpoint_readmitted").then_some(())
    };
    eventually("it is readmitted", SOON, back).await;
    let asked = (0..20).map(|_| client::get(sidecar.service("web"), "/"));
    let answers = futures_util::future::join_all(asked).await;
    let theirs = answers.iter().filter(|answer| answer.instance() == "mended").count();
    assert_eq!(theirs, 10, "one like the other");
    drop(mended);
}

#[tokio::test]
async fn who_fails_its_trial_is_out_again() {
    let good = Instance::start("good").await;
    let dead = refusing();
    let sidecar = Sidecar::start(&defaults("web", &[good.addr(), dead], &quick("1s"))).await;
    ask(&sidecar, 20).await;
    is_in_state(&sidecar, dead, "ejected").await;
    is_in_state(&sidecar, dead, "usable").await;
    let failed = failures(&ask(&sidecar, 20).await);
    assert_eq!(failed, 1, "one request was its trial");
    assert_eq!(state(&sidecar, dead).await, "ejected");
    assert_eq!(sidecar.count("outrigger_ejections_total{service=\"web\",reason=\"trial\"}").await, 1);
}

#[tokio::test]
async fn a_check_that_passes_ends_the_trial() {
    let good = Instance::start("good").await;
    let bad = Instance::with_flags("bad", &["--status", "503"]).await;
    let rules =
        quick("1s") + "[service.web.health]\nhttp = \"/health\"\ninterval = \"1s\"\ntimeout = \"1s\"\n";
    let sidecar = Sidecar::start(&defaults("web", &[good.addr(), bad.addr()], &rules)).await;
    for addr in [good.addr(), bad.addr()] {
        is_in_state(&sidecar, addr, "usable").await;
    }
    ask(&sidecar, 20).await;
    is_in_state(&sidecar, bad.addr(), "ejected").await;
    let back = async || {
        let events = sidecar.api("/api/events").await;
        events.as_array()?.iter().any(|event| event["kind"] == "endpoint_readmitted").then_some(())
    };
    eventually("it is readmitted without a request", SOON, back).await;
}

#[tokio::test]
async fn an_operator_takes_an_ejection_back_and_pages_of_others_cannot() {
    let (_instances, addrs) = five(&["--status", "503"]).await;
    let sidecar = Sidecar::start(&defaults("web", &addrs, ONE_ATTEMPT)).await;
    ask(&sidecar, 50).await;
    is_in_state(&sidecar, addrs[4], "ejected").await;
    let post = async |path: String, origin: Option<&str>| {
        let mut request = Request::post(path);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        client::request(sidecar.admin(), request.body(client::empty()).unwrap()).await.unwrap()
    };
    let path = |addr: &dyn std::fmt::Display| format!("/api/services/web/endpoints/{addr}/readmit");
    assert_eq!(post(path(&addrs[4]), Some("http://evil.test")).await.status, 403);
    assert_eq!(state(&sidecar, addrs[4]).await, "ejected");
    assert_eq!(post(path(&"127.0.0.1:1"), None).await.status, 404);
    assert_eq!(post(path(&"somewhere"), None).await.status, 400);
    let answer = post(path(&addrs[4]), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json::<Value>()["done"], "readmit");
    is_in_state(&sidecar, addrs[4], "usable").await;
    assert_eq!(failures(&ask(&sidecar, 20).await), 4, "it is one like the others");
    let got = client::get(sidecar.admin(), &path(&addrs[4])).await;
    assert_eq!((got.status, got.header("allow")), (405, Some("POST")));
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let (_instances, addrs) = five(&["--status", "503"]).await;
    let sidecar = Sidecar::start(&service("web", &addrs, ONE_ATTEMPT)).await;
    assert_eq!(failures(&ask(&sidecar, 100).await), 20);
}

#[tokio::test]
async fn in_panic_all_that_are_listed_get_requests_and_metric_and_event_say_so() {
    let mut instances = Vec::new();
    for name in ["a", "b", "c", "d"] {
        instances.push(Instance::start(name).await);
    }
    let addrs: Vec<_> = instances.iter().map(Instance::addr).collect();
    let check = "[service.web.health]\nhttp = \"/health\"\ninterval = \"1s\"\ntimeout = \"1s\"\nunhealthy_interval = \"1s\"\nfall = 1\nrise = 1\n";
    let sidecar = Sidecar::start(&defaults("web", &addrs, check)).await;
    let panic = async || sidecar.count("outrigger_panic{service=\"web\"}").await;
    for instance in &instances[1..3] {
        instance.set_health(500).await;
        is_in_state(&sidecar, instance.addr(), "unhealthy").await;
    }
    assert_eq!(panic().await, 0, "two of four are left");
    instances[3].set_health(500).await;
    is_in_state(&sidecar, addrs[3], "unhealthy").await;
    eventually("panic", SOON, async || (panic().await == 1).then_some(())).await;
    let mut who: Vec<_> = Vec::new();
    for _ in 0..8 {
        who.push(sidecar.get("web", "/").await.instance().to_owned());
    }
    who.sort();
    assert_eq!(who, ["a", "a", "b", "b", "c", "c", "d", "d"]);
    let service: Value = sidecar.api("/api/services/web").await;
    assert_eq!((&service["panic"], &service["usable"]), (&Value::Bool(true), &Value::from(1)));
    for instance in &instances[1..] {
        instance.set_health(200).await;
    }
    eventually("calm", SOON, async || (panic().await == 0).then_some(())).await;
    let events = sidecar.api("/api/events").await;
    let kinds: Vec<_> =
        events.as_array().unwrap().iter().filter_map(|event| event["kind"].as_str()).collect();
    let told = kinds.iter().filter(|kind| kind.starts_with("panic_")).collect::<Vec<_>>();
    assert_eq!(told, [&"panic_began", &"panic_ended"]);
}

#[tokio::test]
async fn whom_nobody_is_left_beside_gets_the_requests_although_it_is_out() {
    let good = Instance::start("good").await;
    let bad = Instance::with_flags("bad", &["--status", "503"]).await;
    let folder = tempfile::tempdir().unwrap();
    list(folder.path(), "web.toml", &[(good.addr(), 1), (bad.addr(), 1)]);
    let from = format!("file:{}", folder.path().join("web.toml").display());
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{from}\"\n{ONE_ATTEMPT}")).await;
    ask(&sidecar, 20).await;
    is_in_state(&sidecar, bad.addr(), "ejected").await;
    list(folder.path(), "web.toml", &[(bad.addr(), 1)]);
    eventually("the good one is gone", SOON, async || {
        (state(&sidecar, good.addr()).await != "usable").then_some(())
    })
    .await;
    let answered = async || (sidecar.get("web", "/").await.instance() == "bad").then_some(());
    eventually("the other one answers", SOON, answered).await;
    for _ in 0..10 {
        let answer = sidecar.get("web", "/").await;
        assert_eq!((answer.status, answer.instance()), (503, "bad"), "its own answers, not ours");
    }
}
