//! The instance, the clients, the raw servers and the load, tried against each other.

use crate::support::raw::{FullQueue, RawServer, Step};
use crate::support::{Instance, Load, client, pattern};
use client::{Client, Connection};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);

fn digest_line(bytes: &[u8]) -> String {
    let mut digest = pattern::Digest::new();
    digest.add(bytes);
    format!("{} {}\n", bytes.len(), digest.text())
}

#[tokio::test]
async fn the_instance_names_itself_wherever_it_listens() {
    let v4 = Instance::start("four").await;
    let port = crate::support::free_port();
    let v6 = Instance::at("six", SocketAddr::from((Ipv6Addr::LOCALHOST, port)), &[]).await;
    for (instance, name) in [(&v4, "four"), (&v6, "six")] {
        let answer = client::get(instance.addr(), "/any/path?query=1").await;
        assert_eq!((answer.status, answer.text().as_str(), answer.instance()), (200, name, name));
        assert_eq!(instance.count("/any/path").await, 1);
    }
}

#[tokio::test]
async fn the_instance_answers_the_status_it_is_asked_for() {
    let instance = Instance::start("a").await;
    for status in [200, 204, 304, 404, 429, 500, 503, 599] {
        assert_eq!(client::get(instance.addr(), &format!("/status/{status}")).await.status, status);
    }
    assert_eq!(client::get(instance.addr(), "/status/many").await.status, 400);
    let answer = client::get(instance.addr(), "/retry-after/503/7").await;
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("7")));
}

#[tokio::test]
async fn bodies_with_a_length_and_in_chunks_carry_the_same_bytes() {
    let instance = Instance::start("a").await;
    let expected = pattern::bytes(0..100_001);
    let mut raw = Connection::open(instance.addr()).await.unwrap();
    let whole = raw.get("/bytes/100001").await.unwrap();
    assert_eq!(whole.header("content-length"), Some("100001"));
    assert_eq!(whole.header("transfer-encoding"), None);
    let chunked = raw.get("/chunked/100001").await.unwrap();
    assert_eq!(chunked.header("content-length"), None);
    assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
    let by_hyper = client::get(instance.addr(), "/chunked/100001").await;
    assert!(whole.body == expected && chunked.body == expected && by_hyper.body == expected);
    assert_eq!(chunked.header("x-connection"), whole.header("x-connection"), "one connection");
}

#[tokio::test]
async fn a_request_body_comes_back_and_its_digest_is_right() {
    let instance = Instance::start("a").await;
    let sent = pattern::bytes(0..300_000);
    let post = |path: &str| Request::post(path).body(client::full(sent.clone())).unwrap();
    let echo = client::request(instance.addr(), post("/echo")).await.unwrap();
    assert!(echo.body == sent);
    let digest = client::request(instance.addr(), post("/digest")).await.unwrap();
    assert_eq!(digest.text(), digest_line(&sent));
    // The digest itself: a published FNV-1a 64-bit vector ("foobar", draft-eastlake-fnv).
    assert_eq!(digest_line(b"foobar"), "6 85944171f73967e8\n");
}

#[tokio::test]
async fn trailers_arrive_in_both_directions() {
    let instance = Instance::start("a").await;
    let mut raw = Connection::open(instance.addr()).await.unwrap();
    raw.send("POST /digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n")
        .await
        .unwrap();
    raw.send("6;ext=1\r\nfoobar\r\n0\r\nX-Sum: 42\r\n\r\n").await.unwrap();
    assert_eq!(raw.response().await.unwrap().text(), digest_line(b"foobar") + "x-sum: 42\n");
    raw.send("POST /echo HTTP/1.1\r\nHost: t\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n").await.unwrap();
    raw.send("6\r\nfoobar\r\n0\r\nX-Sum: 42\r\n\r\n").await.unwrap();
    let echo = raw.response().await.unwrap();
    assert_eq!(
        (echo.text().as_str(), echo.trailers),
        ("foobar", vec![("x-sum".to_owned(), "42".to_owned())])
    );
    raw.send("GET /trailers HTTP/1.1\r\nHost: t\r\nTE: trailers\r\n\r\n").await.unwrap();
    let answer = raw.response().await.unwrap();
    assert_eq!(answer.text(), "before the trailer\n");
    assert_eq!(answer.trailers, [("x-trailer".to_owned(), "done".to_owned())]);
    let request = Request::get("/trailers").header("te", "trailers").body(client::empty()).unwrap();
    let by_hyper = client::request(instance.addr(), request).await.unwrap();
    assert_eq!(by_hyper.trailers, answer.trailers);
}

#[tokio::test]
async fn the_echo_streams_while_the_request_is_still_being_sent() {
    let instance = Instance::start("a").await;
    let mut raw = Connection::open(instance.addr()).await.unwrap();
    raw.send("POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await
        .unwrap();
    let head = raw.head().await.unwrap();
    assert!(String::from_utf8(raw.some().await.unwrap()).unwrap().contains("one"));
    raw.send("3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(raw.body_of(head).await.unwrap().text(), "two");
}

#[tokio::test]
async fn hyper_sends_a_streamed_body_in_chunks() {
    let instance = Instance::start("a").await;
    let pieces = ["one", "two"].map(|piece| Ok::<_, std::io::Error>(Frame::data(piece.into())));
    let body = StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync();
    let answer = client::request(instance.addr(), Request::post("/digest").body(body).unwrap()).await;
    assert_eq!(answer.unwrap().text(), digest_line(b"onetwo"));
}

#[tokio::test]
async fn the_instance_tells_the_request_it_saw() {
    let instance = Instance::start("a").await;
    let mut raw = Connection::open(instance.addr()).await.unwrap();
    raw.send("PUT /headers?x=1 HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nX-Two: 2\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let seen: serde_json::Value = raw.response().await.unwrap().json();
    assert_eq!((&seen["method"], &seen["uri"]), (&"PUT".into(), &"/headers?x=1".into()));
    assert_eq!(seen["version"], "HTTP/1.1");
    let expected =
        serde_json::json!([["host", "h"], ["x-two", "1"], ["x-two", "2"], ["content-length", "0"]]);
    assert_eq!(seen["headers"], expected);
}

#[tokio::test]
async fn health_is_what_it_was_set_to_and_counts_are_by_path() {
    let mut instance = Instance::start("a").await;
    let addr = instance.addr();
    assert_eq!(client::get(addr, "/health").await.status, 200);
    instance.set_health(503).await;
    assert_eq!(client::get(addr, "/health").await.status, 503);
    let counts = instance.counts().await;
    assert_eq!(counts, [("/health".to_owned(), 2), ("/health/set/503".to_owned(), 1)].into());
    instance.restart().await;
    assert_eq!(client::get(addr, "/health").await.status, 200);
    assert_eq!(instance.count("/health").await, 1);
}

#[tokio::test]
async fn flags_make_an_instance_misbehave_but_for_its_health() {
    let instance = Instance::with_flags("a", &["--status", "502", "--delay", "200"]).await;
    let before = tokio::time::Instant::now();
    assert_eq!(client::get(instance.addr(), "/").await.status, 502);
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert_eq!(client::get(instance.addr(), "/health").await.status, 200);
    assert_eq!(instance.count("/").await, 1);
}

#[tokio::test]
async fn a_slow_body_drips_after_its_head_and_a_delay_holds_the_head() {
    let instance = Instance::start("a").await;
    let mut raw = Connection::open(instance.addr()).await.unwrap();
    let began = tokio::time::Instant::now();
    raw.send("GET /slow-body/200 HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let head = raw.head().await.unwrap();
    let first = String::from_utf8(raw.some().await.unwrap()).unwrap();
    assert!(first.starts_with("2\r\n0\n\r\n") && !first.contains('9'), "{first:?}");
    let rest = raw.body_of(head).await.unwrap().text();
    assert!(rest.ends_with("8\n9\n"), "{rest:?}");
    assert!(began.elapsed() >= Duration::from_millis(1800), "nine pauses");
    raw.send("GET /delay/30000 HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert!(timeout(SHORT, raw.head()).await.is_err());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let instance = Instance::start("a").await;
    let mut raw = Connection::open(instance.addr()).await.unwrap();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n");
    raw.send(get("/delay/100") + &get("/chunked/70000") + &get("/status/404")).await.unwrap();
    assert_eq!(raw.response().await.unwrap().text(), "a");
    assert_eq!(raw.response().await.unwrap().body.len(), 70_000);
    assert_eq!(raw.response().await.unwrap().status, 404);
}

#[tokio::test]
async fn the_client_keeps_its_connection_and_opens_a_new_one_when_it_was_closed() {
    let instance = Instance::start("a").await;
    let mut client = Client::new(instance.addr());
    let first = client.get("/").await.unwrap();
    let second = client.get("/").await.unwrap();
    assert_eq!(first.header("x-connection"), second.header("x-connection"));
    let last = Request::get("/").header("connection", "close").body(client::empty()).unwrap();
    client.send(last).await.unwrap();
    let third = client.get("/").await.unwrap();
    assert_ne!(first.header("x-connection"), third.header("x-connection"));
}

#[tokio::test]
async fn a_stopped_instance_hangs_a_continued_one_answers_and_a_killed_one_refuses() {
    let mut instance = Instance::start("a").await;
    let mut kept = Connection::open(instance.addr()).await.unwrap();
    kept.get("/").await.unwrap();
    instance.stop();
    kept.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert!(timeout(SHORT, kept.head()).await.is_err(), "a stopped process answers nothing");
    TcpStream::connect(instance.addr()).await.expect("the kernel still accepts for it");
    instance.cont();
    assert_eq!(kept.response().await.unwrap().status, 200);
    instance.kill();
    assert!(kept.is_closed(SOON).await);
    let refused = TcpStream::connect(instance.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    instance.restart().await;
    assert_eq!(client::get(instance.addr(), "/").await.instance(), "a");
}

#[tokio::test]
async fn a_raw_server_sees_requests_byte_for_byte_and_counts_them() {
    let server = RawServer::always(vec![Step::ok("fine")]).await;
    let mut raw = Connection::open(server.addr()).await.unwrap();
    raw.send("POST /p HTTP/1.1\r\nHOST: h\r\nx-CaSe: kept\r\nContent-Length: 4\r\n\r\nbody").await.unwrap();
    assert_eq!(raw.response().await.unwrap().text(), "fine");
    raw.send("POST /q HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nt: u\r\n\r\n")
        .await
        .unwrap();
    raw.response().await.unwrap();
    client::get(server.addr(), "/").await;
    let [first, second, third] = server.requests().try_into().expect("three requests");
    assert_eq!(first.head.start, "POST /p HTTP/1.1");
    assert_eq!(
        first.head.fields[..2],
        [("HOST", "h"), ("x-CaSe", "kept")].map(|(n, v)| (n.into(), v.into()))
    );
    assert_eq!((first.connection, first.turn, first.body.as_slice()), (1, 1, b"body".as_slice()));
    assert_eq!((second.connection, second.turn, second.body.as_slice()), (1, 2, b"ab".as_slice()));
    assert_eq!(second.trailers, [("t".to_owned(), "u".to_owned())]);
    assert_eq!((third.connection, third.turn, server.connections()), (2, 1, 2));
}

#[tokio::test]
async fn a_raw_server_breaks_connections_at_every_stage() {
    let kind = async |steps| {
        let server = RawServer::always(steps).await;
        let mut raw = Connection::open(server.addr()).await.unwrap();
        raw.get("/").await.unwrap_err().kind()
    };
    assert_eq!(kind(vec![Step::Reset]).await, ErrorKind::ConnectionReset);
    assert_eq!(kind(vec![Step::Close]).await, ErrorKind::UnexpectedEof);
    assert_eq!(kind(vec![Step::half("0123456789"), Step::Close]).await, ErrorKind::UnexpectedEof);
    assert_eq!(kind(vec![Step::send("\0\u{1}garbage\r\n\r\n"), Step::Close]).await, ErrorKind::InvalidData);

    let deaf = RawServer::deaf(vec![Step::Reset]).await;
    let mut raw = Connection::open(deaf.addr()).await.unwrap();
    assert!(raw.is_closed(SOON).await);
    assert!(deaf.requests().is_empty());

    let hanging = RawServer::always(vec![Step::Hang]).await;
    assert!(timeout(SHORT, client::try_get(hanging.addr(), "/")).await.is_err());
    assert_eq!(hanging.requests().len(), 1);
}

#[tokio::test]
async fn a_raw_server_can_close_an_idle_connection_and_act_by_turn() {
    let closing =
        RawServer::always(vec![Step::ok("once"), Step::Wait(Duration::from_secs(1)), Step::Close]).await;
    let mut raw = Connection::open(closing.addr()).await.unwrap();
    assert_eq!(raw.get("/").await.unwrap().text(), "once");
    assert!(!raw.is_closed(Duration::from_millis(1)).await, "idle for a while");
    assert!(raw.is_closed(SOON).await);

    let second_fails = RawServer::start(|request| match request.turn {
        1 => vec![Step::ok("fine")],
        _ => vec![Step::Reset],
    });
    let server = second_fails.await;
    let mut raw = Connection::open(server.addr()).await.unwrap();
    raw.get("/").await.unwrap();
    assert_eq!(raw.get("/").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn interim_answers_are_seen_or_passed_over() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let server = RawServer::always(vec![Step::send(hints), Step::ok("final")]).await;
    let mut raw = Connection::open(server.addr()).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert_eq!(raw.head().await.unwrap().status(), Some(103));
    assert_eq!(raw.response().await.unwrap().text(), "final");
    assert_eq!(raw.get("/").await.unwrap().text(), "final");
    assert_eq!(client::get(server.addr(), "/").await.text(), "final");
}

#[tokio::test]
async fn a_client_can_end_in_order_or_by_a_reset() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut raw = Connection::open(addr).await.unwrap();
    let mut accepted = listener.accept().await.unwrap().0;
    raw.finish().await.unwrap();
    assert_eq!(accepted.read(&mut [0]).await.unwrap(), 0, "an orderly end");

    let raw = Connection::open(addr).await.unwrap();
    let mut accepted = listener.accept().await.unwrap().0;
    raw.reset();
    assert_eq!(accepted.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_full_queue_neither_accepts_nor_refuses() {
    let full = tokio::task::spawn_blocking(FullQueue::new).await.unwrap();
    assert!(timeout(SHORT, TcpStream::connect(full.addr())).await.is_err());
}

#[tokio::test]
async fn load_counts_answers_failures_and_broken_connections() {
    let instance = Instance::start("a").await;
    let report = Load::run(instance.addr(), "/", 4, Duration::from_secs(1)).await;
    assert!(report.requests > 10 && report.errors() == 0, "{report:?}");
    // wrk leaves a few answers uncounted: those that were under way at its end.
    assert!(instance.count("/").await >= report.requests);

    let failing = Load::run(instance.addr(), "/status/503", 2, Duration::from_secs(1)).await;
    assert!(failing.failed > 0 && failing.failed == failing.requests, "{failing:?}");

    let broken = RawServer::always(vec![Step::half("0123456789"), Step::Close]).await;
    let report = Load::run(broken.addr(), "/", 2, Duration::from_secs(1)).await;
    assert!(report.read > 0 && report.requests == 0, "{report:?}");
}

#[tokio::test]
async fn load_can_be_stopped_early() {
    let instance = Instance::start("a").await;
    let load = Load::start(instance.addr(), "/", 2, Duration::from_secs(60));
    crate::support::eventually("requests", SOON, async || (instance.count("/").await > 10).then_some(()))
        .await;
    let report = timeout(Duration::from_secs(20), load.stop()).await.expect("an early end");
    assert_eq!(report.errors(), 0, "{report:?}");
}
