//! Uploads that break off, are overtaken by their answer, or belong to an attempt that is over.

use crate::support::client::Connection;
use crate::support::web::web;
use crate::support::{Instance, Sidecar};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const CHUNKED: &str = "HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";

/// An instance that is played by the test: its connections come as they are made.
#[expect(clippy::disallowed_methods, reason = "a server of a test, which ends with it")]
async fn by_hand() -> (SocketAddr, mpsc::UnboundedReceiver<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (addr, (hand, streams)) = (listener.local_addr().unwrap(), mpsc::unbounded_channel());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if hand.send(stream).is_err() {
                return;
            }
        }
    });
    (addr, streams)
}

/// Reads until the end of `text` has come.
async fn read_to(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(text.as_bytes()) {
        let count = timeout(SOON, stream.read_buf(&mut seen)).await.expect("in time").unwrap();
        assert!(count > 0, "{text:?} is not at the end of {:?}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_body_that_is_spoilt_from_its_beginning_reaches_no_instance() {
    let live = Instance::start("live").await;
    let sidecar = Sidecar::start(&format!("workers = 1\n{}", web(&[live.addr()], ""))).await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    for _ in 0..3 {
        // There is a connection that could be taken for a stale one.
        client.send("GET /hello HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 200);
        let mut spoilt = Connection::open(sidecar.service("web")).await.unwrap();
        spoilt.send(format!("POST /digest {CHUNKED}xyz\r\n")).await.unwrap();
        assert_eq!(spoilt.response().await.unwrap().status, 400);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(live.count("/digest").await, 0, "an empty body was made of a spoilt one");
}

#[tokio::test]
async fn a_connection_whose_answer_is_still_read_carries_no_other_request() {
    let (addr, mut instance) = by_hand().await;
    let sidecar = Sidecar::start(&format!("workers = 1\n{}", web(&[addr], ""))).await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    // The answer is complete before the upload ...
    client.send(format!("POST /1 {CHUNKED}1\r\na\r\n")).await.unwrap();
    let mut first = instance.recv().await.unwrap();
    read_to(&mut first, "1\r\na\r\n").await;
    first.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 401);
    client.send("0\r\n\r\n").await.unwrap();
    read_to(&mut first, "0\r\n\r\n").await;
    // ... and on the same connection one that begins before the upload ends, and ends after it.
    client.send(format!("POST /2 {CHUNKED}1\r\nb\r\n")).await.unwrap();
    read_to(&mut first, "1\r\nb\r\n").await;
    first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfour").await.unwrap();
    // Once its head is here, the answer goes on beside the upload.
    let head = client.head().await.unwrap();
    assert_eq!(head.status(), Some(200));
    client.send("0\r\n\r\n").await.unwrap();
    read_to(&mut first, "0\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut other = Connection::open(sidecar.service("web")).await.unwrap();
    other.send("GET /3 HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut second = timeout(SOON, instance.recv()).await.expect("a connection of its own").unwrap();
    read_to(&mut second, "\r\n\r\n").await;
    second.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother").await.unwrap();
    assert_eq!(other.response().await.unwrap().text(), "other");
    first.write_all(b"more").await.unwrap();
    assert_eq!(client.body_of(head).await.unwrap().text(), "fourmore");
}

#[tokio::test]
async fn what_broke_off_between_two_attempts_is_not_sent_as_a_whole() {
    let ((one, mut ones), (two, mut twos)) = (by_hand().await, by_hand().await);
    let rules = "[service.web.retry]\nbackoff_base = \"400ms\"\nbackoff_cap = \"400ms\"\n";
    let sidecar = Sidecar::start(&web(&[one, two], rules)).await;
    for round in 0..5 {
        let mut client = Connection::open(sidecar.service("web")).await.unwrap();
        client.send(format!("PUT /digest {CHUNKED}1\r\na\r\n")).await.unwrap();
        let (mut first, others) = tokio::select! {
            Some(stream) = ones.recv() => (stream, &mut twos),
            Some(stream) = twos.recv() => (stream, &mut ones),
        };
        read_to(&mut first, "1\r\na\r\n").await;
        first.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        // Amid the back-off, mostly.
        tokio::time::sleep(Duration::from_millis(30)).await;
        client.send("xyz\r\n").await.unwrap();
        let answer = client.response().await;
        assert!(answer.as_ref().map_or(true, |answer| answer.status >= 400), "{round}: {answer:?}");
        if let Ok(mut second) = others.try_recv() {
            let mut seen = Vec::new();
            let _ = timeout(SOON, second.read_to_end(&mut seen)).await.expect("it is cut");
            assert!(!seen.ends_with(b"0\r\n\r\n"), "{round}: half a body was sent as a whole one");
        }
    }
}

#[tokio::test]
async fn an_attempt_that_is_over_keeps_no_connection() {
    let (addr, mut busy) = by_hand().await;
    let live = Instance::start("live").await;
    let sidecar = Sidecar::start(&web(&[addr, live.addr()], "")).await;
    let mut refused = Vec::new();
    for _ in 0..4 {
        let mut client = Connection::open(sidecar.service("web")).await.unwrap();
        client.send(format!("PUT /digest {CHUNKED}1\r\na\r\n")).await.unwrap();
        if let Ok(Some(mut first)) = timeout(Duration::from_millis(200), busy.recv()).await {
            read_to(&mut first, "1\r\na\r\n").await;
            first.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            refused.push(first);
        }
        // Time for the other attempt to begin.
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.send("0\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    assert!(!refused.is_empty());
    for mut first in refused {
        let mut rest = Vec::new();
        let ended = timeout(SOON, first.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection of an attempt that is over stays open");
    }
}
