//! Answers that another instance might better, and those that stand.

use super::{post, send};
use crate::support::raw::{RawServer, Step};
use crate::support::web::{list, service, web};
use crate::support::{Instance, Sidecar, eventually};
use std::time::Duration;
use tokio::time::Instant;

/// An answer with this status, a body of its own, and these header lines.
fn answering(code: u16, lines: &str) -> Vec<Step> {
    vec![Step::send(format!("HTTP/1.1 {code} Scripted\r\n{lines}Content-Length: 8\r\n\r\nbody-{code}"))]
}

#[tokio::test]
async fn gateway_failures_are_retried_and_other_statuses_stand() {
    let live = Instance::start("live").await;
    let codes = [502, 503, 504, 400, 404, 429, 500, 501];
    let mut servers = Vec::new();
    let mut config = String::new();
    for code in codes {
        let server = RawServer::always(answering(code, "")).await;
        config += &service(&format!("s{code}"), &[server.addr(), live.addr()], "");
        servers.push(server);
    }
    let sidecar = Sidecar::start(&config).await;
    for (code, server) in codes.into_iter().zip(&servers) {
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(sidecar.get(&format!("s{code}"), "/").await.status);
        }
        statuses.sort_unstable();
        let expected = if (502..=504).contains(&code) { [200; 4] } else { [200, 200, code, code] };
        assert_eq!(statuses, expected, "{code}");
        assert!(server.requests().len() >= 2, "{code}");
    }
    assert_eq!(live.count("/").await, 3 * 4 + 5 * 2);
}

#[tokio::test]
async fn a_retried_answer_counts_against_its_instance_and_does_not_cost_its_connection() {
    let (busy, live) = (RawServer::always(answering(503, "")).await, Instance::start("live").await);
    let sidecar = Sidecar::start(&web(&[busy.addr(), live.addr()], "")).await;
    let mut client = sidecar.client("web");
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().instance(), "live");
    }
    let refused = busy.requests().len() as u64;
    assert!(refused >= 7, "{refused}");
    assert_eq!(sidecar.retried("status").await, refused);
    assert_eq!((sidecar.attempted("unavailable").await, sidecar.attempted("abandoned").await), (refused, 0));
    assert_eq!(busy.connections(), 1);
}

#[tokio::test]
async fn the_answer_to_a_post_stands_as_it_is() {
    let busy = [
        RawServer::always(answering(503, "X-Why: full\r\n")).await,
        RawServer::always(answering(503, "X-Why: full\r\n")).await,
    ];
    let sidecar = Sidecar::start(&web(&busy.each_ref().map(RawServer::addr), "")).await;
    let answer = send(&sidecar, post(100, None)).await;
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.header("x-why")),
        (503, "body-503", Some("full"))
    );
    assert_eq!(answer.header("x-outrigger-error"), None);
    assert_eq!(busy.iter().map(|server| server.requests().len()).sum::<usize>(), 1);
    assert_eq!(sidecar.denied("unsafe_method").await, 1);
    assert_eq!(sidecar.attempted("unavailable").await, 1);
}

#[tokio::test]
async fn when_every_instance_is_busy_the_last_answer_is_passed_on() {
    let mut busy = Vec::new();
    for name in ["a", "b", "c"] {
        busy.push(Instance::with_flags(name, &["--status", "503"]).await);
    }
    let addrs: Vec<_> = busy.iter().map(Instance::addr).collect();
    let sidecar = Sidecar::start(&web(&addrs, "")).await;
    let answer = sidecar.get("web", "/x").await;
    assert_eq!((answer.status, answer.header("x-outrigger-error")), (503, None));
    assert_eq!(answer.text(), answer.instance(), "an instance's own body");
    for instance in &busy {
        assert_eq!(instance.count("/x").await, 1);
    }
    assert_eq!((sidecar.retried("status").await, sidecar.denied("attempts").await), (2, 1));
    assert_eq!(sidecar.attempted("unavailable").await, 3);
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for_and_a_long_one_is_passed_on() {
    let live = Instance::start("live").await;
    let mut servers = Vec::new();
    let mut config = String::new();
    for (name, code, lines) in [
        ("soon503", 503, "Retry-After: 1\r\n"),
        ("soon429", 429, "Retry-After: 1\r\n"),
        ("late503", 503, "Retry-After: 5\r\n"),
        ("late429", 429, "Retry-After: 5\r\n"),
    ] {
        let server = RawServer::always(answering(code, lines)).await;
        config += &service(name, &[server.addr(), live.addr()], "");
        servers.push(server);
    }
    let sidecar = Sidecar::start(&config).await;
    let ask = async |name: &str| {
        let mut answers = Vec::new();
        for _ in 0..2 {
            let begun = Instant::now();
            let answer = sidecar.get(name, "/").await;
            answers.push((answer.status, begun.elapsed(), answer));
        }
        answers
    };
    let (soon503, soon429, late503, late429) =
        tokio::join!(ask("soon503"), ask("soon429"), ask("late503"), ask("late429"));
    for answers in [soon503, soon429] {
        assert!(answers.iter().all(|answer| answer.0 == 200), "{answers:?}");
        let slowest = answers.iter().map(|answer| answer.1).max().unwrap();
        assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&slowest), "{slowest:?}");
    }
    for (code, mut answers) in [(503, late503), (429, late429)] {
        answers.sort_by_key(|answer| answer.0);
        let [(200, ..), (status, took, answer)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((*status, answer.header("retry-after")), (code, Some("5")));
        assert!(*took < Duration::from_secs(3), "{took:?}");
    }
    let denied = sidecar.count("outrigger_retries_denied_total").await;
    assert_eq!(denied, 0, "who asks for more time than there is gets none");
}

#[tokio::test]
async fn an_instance_of_weight_0_is_nobody_to_retry_at() {
    let (busy, spare) = (RawServer::always(answering(503, "")).await, Instance::start("spare").await);
    let folder = tempfile::tempdir().unwrap();
    list(folder.path(), "web.toml", &[(busy.addr(), 1), (spare.addr(), 0)]);
    let config = "[service.web]\nfrom = \"file:web.toml\"";
    let mut sidecar = Sidecar::launch_in(folder, config, |_| {}).await;
    sidecar.ready(Duration::from_secs(10)).await;
    let answer = sidecar.get("web", "/x").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "body-503"));
    assert_eq!((sidecar.denied("no_other_target").await, sidecar.retried("status").await), (1, 0));
    assert_eq!(spare.count("/x").await, 0);
    assert_eq!(sidecar.api("/api/services/web").await["usable"], 1);
}

/// The only other instance is removed while the request waits for its turn there.
#[tokio::test]
async fn a_failure_is_passed_on_when_the_other_instance_is_gone_by_then() {
    let (busy, other) =
        (RawServer::always(answering(503, "Retry-After: 1\r\n")).await, Instance::start("other").await);
    let folder = tempfile::tempdir().unwrap();
    list(folder.path(), "web.toml", &[(busy.addr(), 1), (other.addr(), 1)]);
    let config = "[service.web]\nfrom = \"file:web.toml\"";
    let mut sidecar = Sidecar::launch_in(folder, config, |_| {}).await;
    sidecar.ready(Duration::from_secs(10)).await;
    // One of two turns is the busy one's; the other's answers at once.
    let ask = async || {
        let first = sidecar.get("web", "/").await;
        let second = sidecar.get("web", "/").await;
        if first.status == 503 { first } else { second }
    };
    let leave = async {
        eventually("the busy one was asked", Duration::from_secs(10), async || {
            (!busy.requests().is_empty()).then_some(())
        })
        .await;
        list(sidecar.folder(), "web.toml", &[(busy.addr(), 1)]);
    };
    let (answer, ()) = tokio::join!(ask(), leave);
    assert_eq!((answer.status, answer.text().as_str()), (503, "body-503"));
    assert_eq!(answer.header("x-outrigger-error"), None);
    assert!(sidecar.denied("no_other_target").await >= 1);
    assert_eq!(sidecar.retried("status").await, 0, "no retry was made");
}
