//! Connections that break when the instance may have seen the request.

use super::{code, digest, post, send};
use crate::support::client;
use crate::support::raw::{RawServer, Step};
use crate::support::web::web;
use crate::support::{Instance, Sidecar};
use http::{Method, Request};

/// An instance that breaks after each request that it has read, one that works, and the sidecar before them.
async fn beside_a_breaking_one(steps: Vec<Step>, rules: &str) -> (RawServer, Instance, Sidecar) {
    let (broken, live) = (RawServer::always(steps).await, Instance::start("live").await);
    let sidecar = Sidecar::start(&web(&[broken.addr(), live.addr()], rules)).await;
    (broken, live, sidecar)
}

#[tokio::test]
async fn a_request_that_is_safe_to_repeat_is_repeated_elsewhere() {
    let (broken, live, sidecar) = beside_a_breaking_one(vec![Step::Reset], "").await;
    let methods = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];
    for method in &methods {
        for _ in 0..4 {
            let request = Request::builder().method(method).uri("/x").body(client::empty()).unwrap();
            let answer = send(&sidecar, request).await;
            assert_eq!((answer.status, answer.instance()), (200, "live"), "{method}");
        }
    }
    assert_eq!(live.count("/x").await, 24);
    let seen = broken.requests().len() as u64;
    assert!(seen >= 8, "{seen}");
    assert_eq!((sidecar.retried("reset").await, sidecar.attempted("reset").await), (seen, seen));
}

#[tokio::test]
async fn an_orderly_end_amid_the_head_is_a_reset_too() {
    let steps = vec![Step::send("HTTP/1.1 200 OK\r\nContent-Le"), Step::Close];
    let (broken, live, sidecar) = beside_a_breaking_one(steps, "").await;
    for _ in 0..6 {
        assert_eq!(sidecar.get("web", "/x").await.instance(), "live");
    }
    assert_eq!(live.count("/x").await, 6);
    assert_eq!(sidecar.retried("reset").await, broken.requests().len() as u64);
    assert!(broken.requests().len() >= 2);
}

#[tokio::test]
async fn a_post_that_may_have_been_seen_is_delivered_once_and_its_loss_is_told() {
    let (broken, live, sidecar) = beside_a_breaking_one(vec![Step::Reset], "").await;
    let mut lost = 0;
    for _ in 0..10 {
        let answer = send(&sidecar, post(100, None)).await;
        if answer.status == 200 {
            assert_eq!(answer.text(), digest(100));
        } else {
            assert_eq!((answer.status, code(&answer)), (502, "upstream_reset"));
            lost += 1;
        }
    }
    assert_eq!(lost, 5, "every other turn");
    assert_eq!((broken.requests().len(), live.count("/digest").await), (5, 5));
    assert_eq!((sidecar.denied("unsafe_method").await, sidecar.retried("reset").await), (5, 0));
}

#[tokio::test]
async fn a_post_with_an_idempotency_key_is_repeated_with_the_same_body_and_key() {
    let (broken, live, sidecar) = beside_a_breaking_one(vec![Step::Reset], "").await;
    for turn in 0..6 {
        let answer = send(&sidecar, post(5_000, Some(&format!("key-{turn}")))).await;
        assert_eq!((answer.status, answer.text()), (200, digest(5_000)));
    }
    assert_eq!(live.count("/digest").await, 6);
    let seen = broken.requests();
    assert!(seen.len() >= 2);
    for request in seen {
        assert!(request.head.field("idempotency-key").unwrap().starts_with("key-"));
        assert_eq!(request.body.len(), 5_000);
    }
}

#[tokio::test]
async fn a_service_that_opts_in_repeats_posts() {
    let rules = "[service.web.retry]\nunsafe_methods = true";
    let (broken, live, sidecar) = beside_a_breaking_one(vec![Step::Reset], rules).await;
    for _ in 0..6 {
        assert_eq!(send(&sidecar, post(100, None)).await.text(), digest(100));
    }
    assert_eq!(live.count("/digest").await, 6);
    assert_eq!(sidecar.retried("reset").await, broken.requests().len() as u64);
    assert!(broken.requests().len() >= 2);
}

#[tokio::test]
async fn nothing_is_repeated_once_the_client_has_the_head() {
    let steps = vec![Step::half("0123456789"), Step::Reset];
    let broken = [RawServer::always(steps.clone()).await, RawServer::always(steps).await];
    let sidecar = Sidecar::start(&web(&broken.each_ref().map(RawServer::addr), "")).await;
    let answer = client::try_get(sidecar.service("web"), "/").await;
    assert!(answer.is_err(), "an answer that broke off looks whole: {answer:?}");
    assert_eq!(broken.iter().map(|server| server.requests().len()).sum::<usize>(), 1);
    assert_eq!((sidecar.attempted("reset").await, sidecar.retried("reset").await), (1, 0));
}

#[tokio::test]
async fn what_is_no_http_is_not_asked_for_again() {
    let (broken, live, sidecar) =
        beside_a_breaking_one(vec![Step::send("\u{1}garbage\r\n\r\n"), Step::Close], "").await;
    for _ in 0..4 {
        let answer = sidecar.get("web", "/x").await;
        if answer.status != 200 {
            assert_eq!((answer.status, code(&answer)), (502, "upstream_protocol"));
        }
    }
    assert_eq!((broken.requests().len(), live.count("/x").await), (2, 2));
}
