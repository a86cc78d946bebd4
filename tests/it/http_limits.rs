//! What is refused, what is cut, and what the sidecar answers by itself.

use crate::support::client::{Connection, Response};
use crate::support::raw::{RawServer, Step};
use crate::support::{ByHand, Instance, Sidecar, facing};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(5);

async fn open(sidecar: &Sidecar) -> Connection {
    Connection::open(sidecar.service("web")).await.unwrap()
}

/// Our own answer, checked for what all of them have; its `x-outrigger-error`.
fn own<'a>(answer: &'a Response, status: u16, code: &str) -> &'a str {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body: Value = answer.json();
    assert_eq!((&body["error"], &body["service"]), (&code.into(), &"web".into()));
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let facts = answer.header("x-outrigger-error").unwrap();
    assert!(facts.starts_with(&format!("{code}; service=web")), "{facts}");
    facts
}

/// Sends a head that must be refused without a word to the instance, and the connection closed.
async fn refused(sidecar: &Sidecar, server: &ByHand, request: &[u8], status: u16) {
    let shown = String::from_utf8_lossy(request);
    let mut client = open(sidecar).await;
    // Also what is not read is taken, or many a client would stop at the failing write.
    client.send(request).await.unwrap();
    let answer =
        timeout(SOON, client.response()).await.unwrap_or_else(|_| panic!("no answer: {shown:.200?}"));
    let answer = answer.unwrap_or_else(|e| panic!("{e}: {shown:.200?}"));
    own(&answer, status, "bad_request");
    assert_eq!(answer.header("connection"), Some("close"), "{shown:.200?}");
    assert!(client.is_closed(SOON).await, "{shown:.200?}");
    assert!(server.is_left_alone(Duration::ZERO).await, "{shown:.200?}");
}

#[tokio::test]
async fn heads_that_are_too_large_are_a_431() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let large = |size: usize| format!("GET / HTTP/1.1\r\nHost: t\r\nX-Large: {}\r\n\r\n", "a".repeat(size));
    let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "X-A: 1\r\n".repeat(count));
    refused(&sidecar, &server, large(65 << 10).as_bytes(), 431).await;
    refused(&sidecar, &server, large(1 << 20).as_bytes(), 431).await;
    refused(&sidecar, &server, many(100).as_bytes(), 431).await;
    refused(&sidecar, &server, format!("GET /{} HTTP/1.1\r\n", "a".repeat(70_000)).as_bytes(), 431).await;
    // Nearly as large, and as many, as they may be.
    for request in [large(63 << 10), many(99)] {
        let mut client = open(&sidecar).await;
        client.send(request).await.unwrap();
        let mut instance = server.accept().await;
        instance.head().await.unwrap();
        instance.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 204);
    }
}

#[tokio::test]
async fn a_target_beyond_what_can_be_read_is_a_414() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "[limits]\nhead_bytes = \"256KiB\"\n").await;
    let request = format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "a".repeat(100_000));
    refused(&sidecar, &server, request.as_bytes(), 414).await;
    assert_eq!(sidecar.metric("outrigger_requests_total{code=\"414\"}").await, 1.0);
}

#[tokio::test]
async fn malformed_heads_are_a_400_and_reach_nobody() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    for request in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on: TLS\r\n\r\n"[..],
        b"complete nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Y : 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Y: 1\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Y: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
        b"GET relative HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        refused(&sidecar, &server, request, 400).await;
    }
    let total = sidecar.metric("outrigger_upstream_attempts_total").await;
    assert_eq!(total, 0.0);
    // Also those that could not be read as a request at all.
    assert_eq!(sidecar.metric("outrigger_requests_total{code=\"400\"}").await, 23.0);
}

#[tokio::test]
async fn two_framings_never_reach_an_instance() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "").await;
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";
    for fields in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked", smuggled.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}", smuggled.len()),
        format!("Transfer-Encoding:\x0bchunked\r\nContent-Length: {}", smuggled.len()),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\nContent-Length: {}", smuggled.len()),
        "Content-Length: 5\r\nTransfer-Encoding: chunked".to_owned(),
        "Connection: content-length\r\nContent-Length: 5".to_owned(),
        "Connection: transfer-encoding\r\nTransfer-Encoding: chunked".to_owned(),
    ] {
        let mut client = open(&sidecar).await;
        let _ = client.send(format!("POST /first HTTP/1.1\r\nHost: t\r\n{fields}\r\n\r\n{smuggled}")).await;
        let first = client.response().await.unwrap();
        assert!([200, 400].contains(&first.status), "{fields}: {}", first.status);
        // Whatever more is answered was read as a request by us, so that client and sidecar agree.
        while let Ok(Ok(_)) = timeout(SHORT, client.response()).await {}
    }
    for request in server.requests() {
        let fields: Vec<_> = request.head.fields.iter().map(|(name, _)| name.to_lowercase()).collect();
        let framings =
            fields.iter().filter(|name| ["content-length", "transfer-encoding"].contains(&&***name));
        assert!(framings.count() <= 1, "{:?}", request.head);
    }
    // A whole length is a body, and what it looks like is nobody's business.
    let before = server.requests().len();
    let mut client = open(&sidecar).await;
    let head = format!("POST /last HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", smuggled.len());
    client.send(head + smuggled).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(server.requests().len(), before + 1);
    assert_eq!(server.requests().pop().unwrap().body, smuggled.as_bytes());
}

#[tokio::test]
async fn a_bad_chunk_ends_the_connection_and_the_instance_sees_no_whole_body() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    for bad in ["xyz\r\nabc\r\n", "-1\r\n", "5\r\nabcdefgh\r\n", "fffffffffffffffff\r\n"] {
        let mut client = open(&sidecar).await;
        client
            .send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .await
            .unwrap();
        let mut instance = server.accept().await;
        instance.head().await.unwrap();
        instance.reads(b"3\r\nabc\r\n").await;
        client.send(bad).await.unwrap();
        own(&client.response().await.unwrap(), 400, "bad_request");
        assert!(client.is_closed(SOON).await, "{bad:?}");
        let mut seen = Vec::new();
        while let Ok(bytes) = instance.some().await {
            if bytes.is_empty() {
                break;
            }
            seen.extend(bytes);
        }
        assert!(!seen.ends_with(b"0\r\n\r\n"), "{bad:?}: {}", String::from_utf8_lossy(&seen));
    }
    let service = sidecar.api("/api/services/web").await;
    assert_eq!(service["endpoints"][0]["failures"], 0, "{service}");
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_the_connection() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), "[limits]\nhead_timeout = \"700ms\"\n").await;
    let begun = Instant::now();
    let mut dripping = open(&sidecar).await;
    let mut kept = open(&sidecar).await;
    assert_eq!(kept.get("/").await.unwrap().status, 200);
    let mut silent = open(&sidecar).await;
    kept.send("GET / HT").await.unwrap();
    dripping.send("GET / HTTP/1.1\r\n").await.unwrap();
    // Each byte must not buy more time.
    let drip = async {
        for _ in 0..100 {
            if dripping.send("X-A: 1\r\n").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ((), closed) = tokio::join!(drip, kept.is_closed(SOON));
    assert!(closed);
    assert!(begun.elapsed() >= Duration::from_millis(700) && begun.elapsed() < SOON, "{:?}", begun.elapsed());
    // No head at all is another limit's business.
    assert_eq!(silent.get("/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_after_a_while() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), "[limits]\nkeep_alive = \"700ms\"\n").await;
    let mut fresh = open(&sidecar).await;
    let mut used = open(&sidecar).await;
    // A long answer is no idle connection.
    assert_eq!(used.get("/delay/1500").await.unwrap().status, 200);
    assert_eq!(used.get("/slow-body/150").await.unwrap().status, 200);
    let begun = Instant::now();
    assert!(used.is_closed(SOON).await);
    assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
    assert!(fresh.is_closed(Duration::ZERO).await);
}

#[tokio::test]
async fn a_body_that_stands_still_is_cut_and_never_ends_cleanly() {
    let server = RawServer::start(|request| match request.head.start.split(' ').nth(1).unwrap() {
        "/length" => vec![Step::half("0123456789"), Step::Hang],
        "/chunks" => {
            vec![Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), Step::Hang]
        }
        "/endless" => vec![Step::send("HTTP/1.1 200 OK\r\n\r\nabc"), Step::Hang],
        "/late" => vec![Step::Wait(Duration::from_millis(2500)), Step::ok("late")],
        _ => vec![
            Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Step::Wait(Duration::from_millis(500)),
            Step::send("1\r\na\r\n"),
            Step::Wait(Duration::from_millis(500)),
            Step::send("1\r\nb\r\n"),
            Step::Wait(Duration::from_millis(500)),
            Step::send("1\r\nc\r\n0\r\n\r\n"),
        ],
    })
    .await;
    let sidecar = facing(server.addr(), "timeouts.idle = \"1s\"\n").await;
    let cut = async |path: &str| {
        let begun = Instant::now();
        let error = open(&sidecar).await.get(path).await.expect_err(path);
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{path}");
        assert!(begun.elapsed() >= Duration::from_millis(900), "{path}: {:?}", begun.elapsed());
    };
    let whole = async |path: &str, text: &str| {
        let answer = open(&sidecar).await.get(path).await.unwrap();
        assert_eq!(answer.text(), text);
    };
    // Waiting for the head has a limit of its own, and a slow body is no idle one.
    tokio::join!(
        cut("/length"),
        cut("/chunks"),
        cut("/endless"),
        whole("/late", "late"),
        whole("/slow", "abc")
    );
    assert_eq!(sidecar.metric("outrigger_upstream_attempts_total{outcome=\"timeout\"}").await, 3.0);
}

#[tokio::test]
async fn an_upload_that_stands_still_is_the_fault_of_the_client() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar =
        facing(server.addr(), "timeouts = { connect = \"300ms\", request = \"300ms\", idle = \"1s\" }\n")
            .await;
    let mut client = open(&sidecar).await;
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n").await.unwrap();
    // While it moves, the time limit waits.
    for piece in ["a", "b", "c"] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.send(piece).await.unwrap();
    }
    let begun = Instant::now();
    let answer = client.response().await.unwrap();
    own(&answer, 400, "bad_request");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(server.requests().is_empty());
    assert_eq!(sidecar.metric("outrigger_upstream_attempts_total{outcome=\"abandoned\"}").await, 1.0);
    assert_eq!(sidecar.metric("outrigger_upstream_attempts_total").await, 1.0);
}

#[tokio::test]
async fn an_instance_that_has_the_whole_upload_has_no_longer_than_its_limit() {
    let server = RawServer::always(vec![Step::Hang]).await;
    let sidecar = facing(server.addr(), "timeouts.request = \"1s\"\n").await;
    let mut client = open(&sidecar).await;
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nab").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.send("cd").await.unwrap();
    let begun = Instant::now();
    own(&client.response().await.unwrap(), 504, "timeout");
    let took = begun.elapsed();
    assert!((Duration::from_millis(900)..SOON).contains(&took), "{took:?}");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let instance = Instance::start("a").await;
    // Two listeners (IPv4 and IPv6), which must not take connections' places.
    let sidecar = facing(instance.addr(), "[limits]\nconnections = 2\n").await;
    let mut first = open(&sidecar).await;
    let mut second = open(&sidecar).await;
    assert_eq!(first.get("/").await.unwrap().status, 200);
    assert_eq!(second.get("/").await.unwrap().status, 200);
    let (mut third, mut fourth) = (open(&sidecar).await, open(&sidecar).await);
    third.send("GET /third HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    fourth.send("GET /fourth HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert!(timeout(SHORT, third.some()).await.is_err());
    assert_eq!(instance.count("/third").await, 0);
    assert_eq!(first.get("/").await.unwrap().status, 200, "those that are in go on");
    drop(first);
    assert_eq!(third.response().await.unwrap().status, 200);
    drop(second);
    assert_eq!(fourth.response().await.unwrap().status, 200);
}

#[tokio::test]
async fn every_own_answer_says_what_it_is() {
    let free = || -> SocketAddr { format!("127.0.0.1:{}", crate::support::free_port()).parse().unwrap() };
    let garbage = RawServer::always(vec![Step::send("this is no HTTP\r\n\r\n"), Step::Close]).await;
    let closing = RawServer::always(vec![Step::Close]).await;
    let hanging = RawServer::always(vec![Step::Hang]).await;
    for (addr, more, status, code, retry_after) in [
        (free(), "", 502, "connect_failed", None),
        (garbage.addr(), "", 502, "upstream_protocol", None),
        (closing.addr(), "", 502, "upstream_reset", None),
        (hanging.addr(), "timeouts.request = \"1s\"\n", 504, "timeout", None),
        (
            hanging.addr(),
            "limits.in_flight_per_target = 1\nlimits.waiting = 0\n",
            503,
            "overloaded",
            Some("1"),
        ),
    ] {
        let sidecar = facing(addr, more).await;
        let mut busy = open(&sidecar).await;
        if code == "overloaded" {
            busy.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
            crate::support::eventually("the first request runs", SOON, async || {
                (hanging.requests().len() == 2).then_some(())
            })
            .await;
        }
        let mut client = open(&sidecar).await;
        let answer = client.get("/").await.unwrap();
        let facts = own(&answer, status, code);
        assert!(facts.contains("; known=1; usable=1; source_age="), "{facts}");
        assert_eq!(answer.header("retry-after"), retry_after, "{code}");
        assert_eq!(answer.header("connection"), None, "{code}: the client's connection is not at fault");
        client.send("HEAD / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        let head = client.head().await.unwrap();
        assert_eq!((head.status(), head.field("content-type")), (Some(status), Some("application/json")));
        assert!(sidecar.metric(&format!("outrigger_requests_total{{code=\"{status}\"}}")).await >= 2.0);
    }
}

#[tokio::test]
async fn an_empty_list_is_answered_with_a_wait() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("none.toml"), "endpoints = []\n").unwrap();
    let sidecar = Sidecar::launch_in(folder, "[service.web]\nfrom = \"file:none.toml\"\n", |_| {}).await;
    let answer = open(&sidecar).await.get("/").await.unwrap();
    let facts = own(&answer, 503, "no_endpoints");
    assert!(facts.contains("; known=0; usable=0"), "{facts}");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_request_that_comes_round_is_a_508() {
    let port = crate::support::free_port();
    let sidecar =
        Sidecar::start(&format!("[service.web]\nport = {port}\nfrom = \"static://127.0.0.1:{port}\"\n"))
            .await;
    own(&open(&sidecar).await.get("/").await.unwrap(), 508, "loop");
    // Two sidecars that send to each other; neither knows the other's addresses.
    let ports = [crate::support::free_port(), crate::support::free_port()];
    let circle = |from: u16, to: u16| {
        format!("[service.web]\nport = {from}\nfrom = \"static://127.0.0.1:{to}\"\nretry.attempts = 1\n")
    };
    let one = Sidecar::launch(&circle(ports[0], ports[1])).await;
    let _other = Sidecar::start(&circle(ports[1], ports[0])).await;
    let answer = open(&one).await.get("/").await.unwrap();
    own(&answer, 508, "loop");
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let via = |count: usize| {
        format!("GET / HTTP/1.1\r\nHost: t\r\nVia: {}\r\n\r\n", vec!["1.1 outrigger"; count].join(", "))
    };
    let mut client = open(&sidecar).await;
    client.send(via(8)).await.unwrap();
    own(&client.response().await.unwrap(), 508, "loop");
    assert!(server.is_left_alone(Duration::ZERO).await);
    client.send(via(7)).await.unwrap();
    server.accept().await.head().await.unwrap();
}
