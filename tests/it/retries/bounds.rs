//! How many attempts, how long, and how much of the traffic may be retries.

use super::{code, post, send};
use crate::support::client;
use crate::support::raw::{RawServer, Step};
use crate::support::web::{service, web};
use crate::support::{Instance, Sidecar};
use http::Request;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

async fn busy(count: usize) -> Vec<RawServer> {
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(RawServer::always(vec![Step::status(503)]).await);
    }
    servers
}

fn addrs(servers: &[RawServer]) -> Vec<SocketAddr> {
    servers.iter().map(RawServer::addr).collect()
}

#[tokio::test]
async fn there_are_never_more_attempts_than_configured_and_never_two_at_one_instance() {
    let servers = busy(5).await;
    let mut config = String::new();
    for attempts in [1, 2, 3, 8] {
        let rules = format!(
            "[service.n{attempts}.retry]\nattempts = {attempts}\nbackoff_base = \"1ms\"\nbackoff_cap = \"1ms\""
        );
        config += &service(&format!("n{attempts}"), &addrs(&servers), &rules);
    }
    let sidecar = Sidecar::start(&config).await;
    for attempts in [1, 2, 3, 8_usize] {
        for turn in 0..10 {
            let request = Request::get(format!("/{attempts}/{turn}")).body(client::empty()).unwrap();
            let answer = client::request(sidecar.service(&format!("n{attempts}")), request).await;
            assert_eq!(answer.unwrap().status, 503);
        }
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    for server in &servers {
        let starts: Vec<_> = server.requests().into_iter().map(|request| request.head.start).collect();
        for start in &starts {
            assert_eq!(starts.iter().filter(|other| *other == start).count(), 1, "twice at one: {start}");
            *seen.entry(start.clone()).or_default() += 1;
        }
    }
    for (attempts, expected) in [(1, 1), (2, 2), (3, 3), (8, 5)] {
        for turn in 0..10 {
            let start = format!("GET /{attempts}/{turn} HTTP/1.1");
            assert_eq!(seen.get(&start), Some(&expected), "{start}");
        }
    }
    let denied = async |name: &str, reason: &str| {
        let series = format!("outrigger_retries_denied_total{{service=\"{name}\",reason=\"{reason}\"}}");
        sidecar.count(&series).await
    };
    assert_eq!(denied("n1", "attempts").await, 0, "retries are off");
    assert_eq!(denied("n3", "attempts").await, 10);
    assert_eq!(denied("n8", "no_other_target").await, 10);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let servers = busy(2).await;
    let rules = "[service.web.retry]\nbudget_ratio = \"10%\"\nbudget_floor = 1\nbackoff_base = \"1ms\"\n\
        backoff_cap = \"1ms\"";
    let sidecar = Sidecar::start(&web(&addrs(&servers), rules)).await;
    let mut client = sidecar.client("web");
    let begun = Instant::now();
    for _ in 0..300 {
        assert_eq!(client.get("/").await.unwrap().status, 503);
    }
    let attempts = servers.iter().map(|server| server.requests().len() as u64).sum::<u64>();
    let retries = sidecar.retried("status").await;
    assert_eq!(attempts, 300 + retries);
    // A tenth of the requests, and one per second over ten seconds; more only if the window moved on meanwhile.
    if begun.elapsed() < Duration::from_secs(10) {
        assert_eq!(retries, 40);
    }
    assert!((40..=60).contains(&retries), "{retries}");
    assert_eq!(sidecar.denied("budget").await, 300 - retries);
}

#[tokio::test]
async fn a_wait_that_would_outlast_the_request_is_not_begun() {
    let refusal = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    let servers = [
        RawServer::always(vec![Step::send(refusal)]).await,
        RawServer::always(vec![Step::send(refusal)]).await,
    ];
    let rules = "[service.web.timeouts]\nrequest = \"900ms\"\nconnect = \"900ms\"";
    let sidecar = Sidecar::start(&web(&addrs(&servers), rules)).await;
    let begun = Instant::now();
    let answer = sidecar.get("web", "/").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!((sidecar.denied("deadline").await, sidecar.retried("status").await), (1, 0));
}

#[tokio::test]
async fn one_that_hangs_costs_a_get_its_share_and_a_post_all_its_time() {
    let instances = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let rules = "[service.web.timeouts]\nrequest = \"3s\"";
    let sidecar = Sidecar::start(&web(&instances.each_ref().map(Instance::addr), rules)).await;
    for _ in 0..3 {
        assert_eq!(sidecar.get("web", "/warm").await.status, 200);
    }
    instances[1].stop();
    let mut slow = 0;
    for _ in 0..6 {
        let begun = Instant::now();
        let answer = sidecar.get("web", "/").await;
        assert_eq!(answer.status, 200);
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(2_500), "a share is one second: {took:?}");
        slow += u64::from(took >= Duration::from_secs(1));
    }
    assert!(slow >= 1);
    assert_eq!((sidecar.retried("timeout").await, sidecar.attempted("timeout").await), (slow, slow));
    let posts = async || {
        let begun = Instant::now();
        let answer = send(&sidecar, post(10, None)).await;
        (begun.elapsed(), answer)
    };
    let (a, b, c) = tokio::join!(posts(), posts(), posts());
    let mut failed: Vec<_> = [a, b, c].into_iter().filter(|(_, answer)| answer.status != 200).collect();
    let (took, answer) = failed.pop().expect("one went to the instance that hangs");
    assert_eq!((answer.status, code(&answer)), (504, "timeout"));
    assert!((Duration::from_secs(3)..Duration::from_secs(6)).contains(&took), "{took:?}");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(sidecar.denied("unsafe_method").await, 1);
}
