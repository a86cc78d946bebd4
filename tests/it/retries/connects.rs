//! Connections that never come about: nothing was sent, so anything may be sent elsewhere.

use super::{code, digest, post, send};
use crate::support::client::{self, Response};
use crate::support::raw::FullQueue;
use crate::support::web::{refusing, web};
use crate::support::{Instance, Sidecar};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn what_one_instance_refuses_another_gets_exactly_once_whatever_the_method() {
    let (a, b) = (Instance::start("a").await, Instance::start("b").await);
    let sidecar = Sidecar::start(&web(&[a.addr(), refusing(), b.addr()], "")).await;
    for _ in 0..30 {
        assert_eq!(sidecar.get("web", "/get").await.status, 200);
        let answer = send(&sidecar, post(1000, None)).await;
        assert_eq!((answer.status, answer.text()), (200, digest(1000)));
    }
    for path in ["/get", "/digest"] {
        assert_eq!(a.count(path).await + b.count(path).await, 30, "{path}");
    }
    let refused = sidecar.attempted("connect_failed").await;
    assert!(refused >= 20, "a third of the turns were the refusing one's: {refused}");
    assert_eq!(sidecar.retried("connect_failed").await, refused);
}

#[tokio::test]
async fn a_connect_that_hangs_costs_its_time_limit_and_no_more() {
    let live = Instance::start("a").await;
    let full = tokio::task::spawn_blocking(FullQueue::new).await.unwrap();
    let rules = "[service.web.timeouts]\nconnect = \"400ms\"";
    let sidecar = Sidecar::start(&web(&[live.addr(), full.addr()], rules)).await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(sidecar.get("web", "/").await.status, 200);
        waits.push(begun.elapsed());
        let begun = Instant::now();
        assert_eq!(send(&sidecar, post(10, None)).await.text(), digest(10));
        waits.push(begun.elapsed());
    }
    let hung = waits.iter().filter(|wait| **wait >= Duration::from_millis(400)).count();
    assert_eq!(hung as u64, sidecar.retried("connect_failed").await, "{waits:?}");
    assert!(hung >= 2, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(3)), "{waits:?}");
}

#[tokio::test]
async fn when_everyone_refuses_the_client_is_told_so() {
    let sidecar = Sidecar::start(&web(&[refusing(), refusing(), refusing()], "")).await;
    let get = sidecar.get("web", "/").await;
    assert_eq!((get.status, code(&get)), (502, "connect_failed"));
    let facts = get.header("x-outrigger-error").unwrap();
    assert!(facts.contains("service=web; known=3; usable=3"), "{facts}");
    let body: Value = get.json();
    assert_eq!((&body["error"], &body["service"]), (&json!("connect_failed"), &json!("web")));
    assert_eq!(sidecar.attempted("connect_failed").await, 3);
    assert_eq!(sidecar.retried("connect_failed").await, 2);
    assert_eq!(sidecar.denied("attempts").await, 1);
}

#[tokio::test]
async fn a_single_instance_that_refuses_leaves_no_other() {
    let sidecar = Sidecar::start(&web(&[refusing()], "")).await;
    let answers: [Response; 2] = [sidecar.get("web", "/").await, send(&sidecar, post(10, None)).await];
    for answer in answers {
        assert_eq!((answer.status, code(&answer)), (502, "connect_failed"));
    }
    assert_eq!(sidecar.denied("no_other_target").await, 2);
    assert_eq!(sidecar.attempted("connect_failed").await, 2);
}

/// Nothing was sent to anyone: such retries multiply no load, and with one of three down they are half of all requests.
#[tokio::test]
async fn refused_connections_do_not_draw_on_the_budget() {
    let live = Instance::start("a").await;
    let rules = "[service.web.retry]\nbudget_ratio = \"0%\"\nbudget_floor = 0";
    let sidecar = Sidecar::start(&web(&[live.addr(), refusing()], rules)).await;
    let mut client = client::Client::new(sidecar.service("web"));
    for _ in 0..50 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    // A retry takes its turn like anyone, so that every request but perhaps the first meets the one that refuses.
    assert!(sidecar.retried("connect_failed").await >= 49);
    assert_eq!(sidecar.denied("budget").await, 0);
}
