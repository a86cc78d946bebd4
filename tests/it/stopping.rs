//! How the sidecar stops: what runs is finished, what is idle is closed, and nothing takes for ever.

use crate::support::client::Connection;
use crate::support::raw::{RawServer, Step};
use crate::support::{ByHand, Instance, Sidecar, eventually, facing};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(5);

async fn open(sidecar: &Sidecar) -> Connection {
    Connection::open(sidecar.service("web")).await.unwrap()
}

/// Waits until new connections are refused.
async fn closed(sidecar: &Sidecar) {
    let addr = sidecar.service("web");
    eventually("the listener is closed", SOON, async || TcpStream::connect(addr).await.err()).await;
}

#[tokio::test]
async fn invariant_11_stopping_finishes_what_runs_and_nothing_new_begins() {
    let server = ByHand::start().await;
    let mut sidecar = facing(server.addr(), "").await;
    // One request waits for its head, one is amid its body, one amid its upload; two connections are idle.
    let mut waiting = open(&sidecar).await;
    waiting.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut to_wait = server.accept().await;
    to_wait.head().await.unwrap();
    let mut reading = open(&sidecar).await;
    reading.send("GET /read HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut to_read = server.accept().await;
    to_read.head().await.unwrap();
    to_read.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await.unwrap();
    let read = reading.head().await.unwrap();
    let mut sending = open(&sidecar).await;
    sending.send("POST /send HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbo").await.unwrap();
    let mut to_send = server.accept().await;
    to_send.head().await.unwrap();
    let mut fresh = open(&sidecar).await;
    let mut kept = open(&sidecar).await;
    kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut to_keep = server.accept().await;
    to_keep.head().await.unwrap();
    to_keep.send("HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(kept.response().await.unwrap().status, 204);

    sidecar.signal("TERM");
    let (fresh, kept) = tokio::join!(fresh.is_closed(SOON), kept.is_closed(SOON));
    assert!(fresh && kept, "idle connections end at once: {fresh} {kept}");
    closed(&sidecar).await;
    assert!(sidecar.is_running());
    to_wait.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    let waited = waiting.response().await.unwrap();
    assert_eq!((waited.text().as_str(), waited.header("connection")), ("ok", Some("close")));
    to_read.send("lf").await.unwrap();
    assert_eq!(reading.body_of(read).await.unwrap().text(), "half");
    sending.send("dy").await.unwrap();
    let mut body = Vec::new();
    while body.len() < 4 {
        body.extend(to_send.some().await.unwrap());
    }
    assert_eq!(body, b"body");
    to_send.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(sending.response().await.unwrap().status, 201);
    let begun = Instant::now();
    sidecar.stop_was_asked().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "nothing left to wait for: {:?}", begun.elapsed());
}

#[tokio::test]
async fn invariant_11_stopping_has_a_deadline() {
    let server = ByHand::start().await;
    let mut sidecar = facing(server.addr(), "[shutdown]\ndrain = \"1s\"\n").await;
    let mut client = open(&sidecar).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    let mut tunnel = open(&sidecar).await;
    tunnel.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await.unwrap();
    let mut inside = server.accept().await;
    inside.head().await.unwrap();
    inside
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(tunnel.head().await.unwrap().status(), Some(101));
    let begun = Instant::now();
    sidecar.signal("TERM");
    closed(&sidecar).await;
    tunnel.send("ping").await.unwrap();
    inside.reads(b"ping").await;
    sidecar.stop_was_asked().await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(client.is_closed(SOON).await && instance.is_closed(SOON).await);
    assert!(tunnel.is_closed(SOON).await && inside.is_closed(SOON).await);
}

/// Sends requests until nobody listens any more; how many were answered.
async fn until_refused(addr: SocketAddr) -> usize {
    let mut answered = 0;
    while let Ok(mut connection) = Connection::open(addr).await {
        loop {
            let answer = match connection.get("/delay/5").await {
                Ok(answer) => answer,
                // A kept connection may end between two requests, not amid an answer.
                Err(error) => {
                    assert!(!error.to_string().contains("HTTP/1.1"), "{error}");
                    break;
                }
            };
            assert_eq!((answer.status, answer.text().as_str()), (200, "a"));
            answered += 1;
            if answer.header("connection") == Some("close") {
                break;
            }
        }
    }
    answered
}

#[tokio::test]
async fn requests_that_stream_in_while_it_stops_are_answered_or_refused_never_broken() {
    let instance = Instance::start("a").await;
    let mut sidecar =
        Sidecar::start(&format!("workers = 2\n[service.web]\nfrom = \"static://{}\"\n", instance.addr()))
            .await;
    let addr = sidecar.service("web");
    let stop = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sidecar.stop().await;
    };
    let clients = futures_util::future::join_all((0..16).map(|_| timeout(SOON * 2, until_refused(addr))));
    let ((), answered) = tokio::join!(stop, clients);
    assert!(answered.into_iter().all(|count| count.expect("an end") > 0));
}

#[tokio::test]
async fn invariant_11_requests_sent_before_the_stop_are_answered_on_fresh_and_on_kept_connections() {
    let instance = Instance::start("a").await;
    let mut sidecar =
        Sidecar::start(&format!("workers = 2\n[service.web]\nfrom = \"static://{}\"\n", instance.addr()))
            .await;
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut kept = open(&sidecar).await;
        assert_eq!(kept.get("/").await.unwrap().status, 200);
        connections.push(kept);
    }
    // The kernel takes it all while the process sleeps: it wakes to the requests and the signal at once.
    sidecar.signal("STOP");
    for _ in 0..20 {
        connections.push(open(&sidecar).await);
    }
    for connection in &mut connections {
        connection.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    }
    sidecar.signal("TERM");
    sidecar.signal("CONT");
    let answers = connections.iter_mut().map(|c| timeout(SOON * 2, c.response()));
    let answers = futures_util::future::join_all(answers).await;
    let answered = answers.iter().filter(|a| matches!(a, Ok(Ok(answer)) if answer.status == 200)).count();
    assert_eq!(answered, 40, "{answers:?}");
    sidecar.stop_was_asked().await;
}

#[tokio::test]
async fn invariant_11_a_head_that_has_begun_on_a_kept_connection_is_waited_for() {
    let instance = Instance::start("a").await;
    let mut sidecar = facing(instance.addr(), "").await;
    let mut kept = open(&sidecar).await;
    assert_eq!(kept.get("/").await.unwrap().status, 200);
    kept.send("GET / HT").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    sidecar.signal("TERM");
    closed(&sidecar).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    kept.send("TP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert_eq!(kept.response().await.unwrap().status, 200);
    assert!(kept.is_closed(SOON).await);
    sidecar.stop_was_asked().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let server = RawServer::always(vec![Step::Hang]).await;
    let mut sidecar = facing(server.addr(), "[shutdown]\ndrain = \"1m\"\n").await;
    let mut client = open(&sidecar).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    eventually("the request runs", SOON, async || (server.requests().len() == 1).then_some(())).await;
    sidecar.signal("TERM");
    closed(&sidecar).await;
    assert!(sidecar.is_running());
    sidecar.signal("TERM");
    let begun = Instant::now();
    while sidecar.is_running() {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(client.is_closed(SOON).await);
}
