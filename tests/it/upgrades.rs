//! Connections that leave HTTP behind.

use crate::support::client::Connection;
use crate::support::raw::{RawServer, Step};
use crate::support::{ByHand, Sidecar, eventually, facing, pattern};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(5);
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: t\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n";

async fn open(sidecar: &Sidecar) -> Connection {
    Connection::open(sidecar.service("web")).await.unwrap()
}

/// Both ends of a new tunnel.
async fn tunnel(sidecar: &Sidecar, server: &ByHand) -> (Connection, Connection) {
    let mut client = open(sidecar).await;
    client.send(ASK).await.unwrap();
    let mut instance = server.accept().await;
    let asked = instance.head().await.unwrap();
    assert!(asked.field("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!((asked.field("upgrade"), asked.field("sec-websocket-key")), (Some("websocket"), Some("k")));
    instance.send(SWITCH).await.unwrap();
    let switched = client.head().await.unwrap();
    assert_eq!(switched.status(), Some(101));
    assert!(switched.field("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(
        (switched.field("upgrade"), switched.field("sec-websocket-accept")),
        (Some("websocket"), Some("a"))
    );
    (client, instance)
}

/// Reads until so many bytes have come.
async fn read(connection: &mut Connection, count: usize) -> Vec<u8> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let some = connection.some().await.unwrap();
        assert!(!some.is_empty(), "the end after {} bytes", seen.len());
        seen.extend(some);
    }
    seen
}

async fn in_flight(sidecar: &Sidecar) -> Value {
    sidecar.api("/api/services/web").await["endpoints"][0]["in_flight"].clone()
}

#[tokio::test]
async fn bytes_pass_raw_in_both_directions() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let (mut client, mut instance) = tunnel(&sidecar, &server).await;
    // What looks like HTTP, or like nothing at all, is only bytes.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x81\x05hello\0\xff", b"\r\n"] {
        client.send(bytes).await.unwrap();
        assert_eq!(read(&mut instance, bytes.len()).await, bytes);
        instance.send(bytes).await.unwrap();
        assert_eq!(read(&mut client, bytes.len()).await, bytes);
    }
    let large = pattern::bytes(0..4 << 20);
    let (sent, seen) = tokio::join!(client.send(&large), read(&mut instance, large.len()));
    sent.unwrap();
    assert!(seen == large);
    let (sent, seen) = tokio::join!(instance.send(&large), read(&mut client, large.len()));
    sent.unwrap();
    assert!(seen == large);
}

#[tokio::test]
async fn bytes_that_come_with_the_heads_are_the_tunnels() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send(format!("{ASK}early")).await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    assert!(timeout(SHORT, instance.some()).await.is_err(), "no tunnel yet");
    instance.send(format!("{SWITCH}at once")).await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(101));
    assert_eq!(read(&mut client, 7).await, b"at once");
    assert_eq!(read(&mut instance, 5).await, b"early");
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let (mut client, mut instance) = tunnel(&sidecar, &server).await;
    client.send("last words").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(read(&mut instance, 10).await, b"last words");
    assert!(instance.is_closed(SOON).await, "the end is passed on");
    instance.send("an answer").await.unwrap();
    assert_eq!(read(&mut client, 9).await, b"an answer");
    assert_eq!(in_flight(&sidecar).await, 1);
    instance.finish().await.unwrap();
    assert!(client.is_closed(SOON).await);
    eventually("the tunnel has ended", SOON, async || (in_flight(&sidecar).await == 0).then_some(())).await;
    // A reset is passed on as an end, too.
    let (mut client, instance) = tunnel(&sidecar, &server).await;
    instance.reset();
    assert!(client.is_closed(SOON).await);
    let (client, mut instance) = tunnel(&sidecar, &server).await;
    client.reset();
    assert!(instance.is_closed(SOON).await);
    let service = sidecar.api("/api/services/web").await;
    assert_eq!(service["endpoints"][0]["failures"], 0, "{service}");
}

#[tokio::test]
async fn a_tunnel_counts_as_in_flight_and_as_a_connection() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "[limits]\nconnections = 1\nkeep_alive = \"500ms\"\n").await;
    let (mut client, mut instance) = tunnel(&sidecar, &server).await;
    assert_eq!(in_flight(&sidecar).await, 1);
    assert_eq!(sidecar.metric("outrigger_connections{side=\"client\"}").await, 1.0);
    // The only place is taken, and no limit of HTTP ends the tunnel.
    let mut waiting = open(&sidecar).await;
    waiting.send(ASK).await.unwrap();
    assert!(server.is_left_alone(Duration::from_millis(1500)).await);
    client.send("still here").await.unwrap();
    assert_eq!(read(&mut instance, 10).await, b"still here");
    drop((client, instance));
    server.accept().await.head().await.unwrap();
    assert_eq!(sidecar.metric("outrigger_requests_total{code=\"101\"}").await, 1.0);
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_ends() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "timeouts.upgraded_idle = \"1s\"\n").await;
    let (mut client, mut instance) = tunnel(&sidecar, &server).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        instance.send("x").await.unwrap();
        assert_eq!(read(&mut client, 1).await, b"x");
    }
    let begun = Instant::now();
    let (here, there) = tokio::join!(client.is_closed(SOON), instance.is_closed(SOON));
    assert!(here && there);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_refused_upgrade_stays_http() {
    let server = RawServer::start(|request| match request.turn {
        1 => vec![Step::send("HTTP/1.1 426 Upgrade Required\r\nUpgrade: h9\r\nContent-Length: 2\r\n\r\nno")],
        _ => vec![Step::ok("plain")],
    })
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send(ASK).await.unwrap();
    let refused = client.response().await.unwrap();
    assert_eq!((refused.status, refused.text().as_str()), (426, "no"));
    client.send(ASK).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "plain");
    assert_eq!(client.get("/").await.unwrap().text(), "plain");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_502() {
    let server = RawServer::always(vec![Step::send(SWITCH), Step::send("and more"), Step::Hang]).await;
    let sidecar = facing(server.addr(), "").await;
    for fields in ["", "Upgrade: websocket\r\n", "Connection: upgrade\r\n"] {
        let mut client = open(&sidecar).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, &answer.json::<Value>()["error"]), (502, &"upstream_protocol".into()));
    }
    let mut old = open(&sidecar).await;
    old.send("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    assert_eq!(old.response().await.unwrap().status, 502);
    assert_eq!(server.connections(), 4, "none of them is used again");
}

#[tokio::test]
async fn a_tunnel_to_a_removed_instance_is_cut_when_its_drain_time_is_over() {
    let (server, other) = (ByHand::start().await, RawServer::always(vec![Step::ok("other")]).await);
    let folder = tempfile::tempdir().unwrap();
    let list = |addr: SocketAddr| format!("endpoints = [\"{addr}\"]\n");
    std::fs::write(folder.path().join("web.toml"), list(server.addr())).unwrap();
    let config = "workers = 1\n[service.web]\nfrom = \"file:web.toml\"\ntimeouts.drain = \"2s\"\n";
    let mut sidecar = Sidecar::launch_in(folder, config, |_| {}).await;
    sidecar.ready(SOON).await;
    let (mut client, mut instance) = tunnel(&sidecar, &server).await;
    let mut download = open(&sidecar).await;
    download.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut sending = server.accept().await;
    sending.head().await.unwrap();
    sending.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc").await.unwrap();
    let begun = Instant::now();
    std::fs::write(sidecar.folder().join("new"), list(other.addr())).unwrap();
    std::fs::rename(sidecar.folder().join("new"), sidecar.folder().join("web.toml")).unwrap();
    eventually("new requests go elsewhere", SOON, async || {
        let answer = timeout(SHORT, sidecar.get("web", "/")).await.ok()?;
        (answer.text() == "other").then_some(())
    })
    .await;
    // What runs goes on for a while ...
    client.send("ping").await.unwrap();
    assert_eq!(read(&mut instance, 4).await, b"ping");
    // ... but not for ever.
    let (here, there) = tokio::join!(client.is_closed(SOON), instance.is_closed(SOON));
    assert!(here && there);
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert!(sending.is_closed(SOON).await);
    assert_eq!(download.response().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_offer_of_h2c_stays_here_and_the_request_goes_on_as_http_1_1() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    // As Java's HttpClient sends it; the connection is good for more.
    for _ in 0..2 {
        let offer = "POST / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                     HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Length: 4\r\n\r\nbody";
        client.send(offer).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    for request in server.requests() {
        assert_eq!((request.head.start.as_str(), &request.body[..]), ("POST / HTTP/1.1", &b"body"[..]));
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(request.head.field(name), None, "{name}");
        }
    }
}
