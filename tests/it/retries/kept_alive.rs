//! Kept-alive connections that the instance closes when the next request comes.

use super::{digest, post};
use crate::support::raw::{RawServer, Request, Step};
use crate::support::web::web;
use crate::support::{Sidecar, pattern};
use std::time::Duration;

/// Answers, and ends the connection without having announced it, at once or after `pause`.
async fn closing_after(pause: Duration) -> RawServer {
    RawServer::start(move |request: &Request| {
        let mut digest = pattern::Digest::new();
        digest.add(&request.body);
        let text = format!("{} {}\n", request.body.len(), digest.text());
        vec![Step::ok(&text), Step::Wait(pause), Step::Close]
    })
    .await
}

#[tokio::test]
async fn no_get_fails_when_the_instance_closes_right_before_or_amid_the_next_request() {
    // From "closed long before" to "closed while the request is on its way".
    for pause in [0, 100, 300, 1_000, 2_000].map(Duration::from_micros) {
        let server = closing_after(pause).await;
        let sidecar = Sidecar::start(&web(&[server.addr()], "retry.budget_floor = 1000")).await;
        let mut client = sidecar.client("web");
        for turn in 0..150 {
            let answer = client.get("/").await.unwrap();
            assert_eq!(answer.status, 200, "turn {turn}, {pause:?}: {}", answer.text());
            if turn % 3 == 0 {
                tokio::time::sleep(pause).await;
            }
        }
        let retries = sidecar.count("outrigger_retries_total").await;
        assert_eq!(retries, sidecar.retried("stale_connection").await);
        assert_eq!(sidecar.attempted("success").await, 150);
    }
}

#[tokio::test]
async fn a_post_on_a_connection_that_was_closed_before_goes_out_on_a_fresh_one() {
    let server = closing_after(Duration::ZERO).await;
    let sidecar = Sidecar::start(&web(&[server.addr()], "")).await;
    let mut client = sidecar.client("web");
    for turn in 0..60 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = client.send(post(2_000, None)).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, digest(2_000)), "turn {turn}");
    }
    assert_eq!((server.requests().len(), server.connections()), (60, 60));
    assert_eq!(sidecar.count("outrigger_retries_total").await, 0);
}

#[tokio::test]
async fn a_post_that_met_the_close_on_its_way_is_never_sent_twice() {
    // Answers the first request of a connection and resets the second one when it has read it.
    let server = RawServer::start(|request: &Request| match request.turn {
        1 => vec![Step::ok("fine")],
        _ => vec![Step::Reset],
    })
    .await;
    let sidecar = Sidecar::start(&web(&[server.addr()], "")).await;
    let mut client = sidecar.client("web");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client.send(post(100, None)).await.unwrap().status);
    }
    assert_eq!(statuses, [200, 502, 200, 502]);
    assert_eq!(server.requests().len(), 4);
    // What is safe to repeat goes out on a fresh connection.
    for _ in 0..4 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
}

/// Three instances that answer, but for `/poison`, at which they do these steps.
async fn three(poison: Vec<Step>) -> Vec<RawServer> {
    let mut servers = Vec::new();
    for _ in 0..3 {
        let poison = poison.clone();
        let script = move |request: &Request| match request.head.start.contains("/poison") {
            true => poison.clone(),
            false => vec![Step::ok("fine")],
        };
        servers.push(RawServer::start(script).await);
    }
    servers
}

/// Warms the connections to `servers` up, sends `/poison`; how often it was delivered, and the retries by reason.
async fn poisoned(servers: &[RawServer], rules: &str) -> (usize, u64, u64) {
    let addrs: Vec<_> = servers.iter().map(RawServer::addr).collect();
    let sidecar = Sidecar::start(&format!("workers = 1\n{}", web(&addrs, rules))).await;
    let mut client = sidecar.client("web");
    for _ in 0..12 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    assert!(servers.iter().all(|server| server.connections() >= 1));
    let before: usize = servers.iter().map(|server| server.requests().len()).sum();
    assert_eq!(client.get("/poison").await.unwrap().status, 502);
    let after: usize = servers.iter().map(|server| server.requests().len()).sum();
    (after - before, sidecar.retried("stale_connection").await, sidecar.retried("reset").await)
}

#[tokio::test]
async fn a_request_that_kills_every_instance_is_repeated_on_a_fresh_connection_only_once() {
    for (attempts, delivered, retried) in [(3, 4, 2), (2, 3, 1), (1, 2, 0)] {
        let servers = three(vec![Step::Reset]).await;
        let rules = format!("retry.attempts = {attempts}");
        assert_eq!(poisoned(&servers, &rules).await, (delivered, 1, retried), "{attempts} attempts");
    }
}

#[tokio::test]
async fn nothing_is_repeated_on_a_fresh_connection_without_a_budget() {
    let servers = three(vec![Step::Reset]).await;
    let rules = "retry.attempts = 1\nretry.budget_ratio = \"0%\"\nretry.budget_floor = 0";
    assert_eq!(poisoned(&servers, rules).await, (1, 0, 0));
}

#[tokio::test]
async fn a_connection_that_broke_amid_an_answer_was_not_stale() {
    let servers = three(vec![Step::send("HTTP/1.1 200 OK\r\nContent-"), Step::Close]).await;
    assert_eq!(poisoned(&servers, "retry.attempts = 2").await, (2, 0, 1));
}
