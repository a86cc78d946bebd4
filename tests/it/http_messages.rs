//! What becomes of messages on their way through: framing, header fields, interim responses, connections.

use crate::support::client::{self, Connection};
use crate::support::raw::{RawServer, Step};
use crate::support::{ByHand, Instance, facing};
use http::Request;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(5);

async fn open(sidecar: &crate::support::Sidecar) -> Connection {
    Connection::open(sidecar.service("web")).await.unwrap()
}

/// The values of all fields of this name, in their order.
fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), "").await;
    let mut client = open(&sidecar).await;
    let first = client.get("/").await.unwrap();
    assert_eq!((first.status, first.text().as_str()), (200, "a"));
    let of_first = first.header("x-connection").unwrap().to_owned();
    for path in ["/bytes/100000", "/chunked/100000", "/status/204", "/status/404"] {
        let answer = client.get(path).await.unwrap();
        assert_eq!(answer.header("x-connection"), Some(of_first.as_str()), "{path}");
        assert_eq!(answer.header("connection"), None, "{path}");
    }
    // What one client asks for its own connection is nothing to the instance's.
    client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.unwrap();
    let last = client.response().await.unwrap();
    assert_eq!(last.header("connection"), Some("close"));
    assert!(client.is_closed(SOON).await);
    let other = open(&sidecar).await.get("/").await.unwrap();
    assert_eq!(other.header("x-connection"), Some(of_first.as_str()));
}

#[tokio::test]
async fn an_instance_that_closes_after_each_answer_is_connected_to_anew() {
    let server = RawServer::always(vec![
        Step::send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        Step::Close,
    ])
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    for turn in 1..=3 {
        let answer = client.get("/").await.unwrap();
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("ok", None));
        assert_eq!(server.connections(), turn);
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), "").await;
    let mut client = open(&sidecar).await;
    client
        .send(
            "GET /delay/300 HTTP/1.1\r\nHost: t\r\n\r\n\
             POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello\
             GET /bytes/3 HTTP/1.1\r\nHost: t\r\n\r\n\
             HEAD /bytes/9 HTTP/1.1\r\nHost: t\r\n\r\n\
             GET /status/404 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        )
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().text(), "a");
    assert_eq!(client.response().await.unwrap().text(), "hello");
    assert_eq!(client.response().await.unwrap().header("content-length"), Some("3"));
    assert_eq!(client.head().await.unwrap().field("content-length"), Some("9"));
    assert_eq!(client.response().await.unwrap().status, 404);
    assert!(client.is_closed(SOON).await);
}

#[tokio::test]
async fn many_pipelined_requests_are_all_answered() {
    let server = RawServer::start(|request| vec![Step::ok(&request.head.start)]).await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    let requests: String = (0..200).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: t\r\n\r\n")).collect();
    client.send(requests).await.unwrap();
    for n in 0..200 {
        assert_eq!(client.response().await.unwrap().text(), format!("GET /{n} HTTP/1.1"));
    }
}

#[tokio::test]
async fn answers_without_a_body_keep_their_fields_and_the_connection() {
    let server = RawServer::start(|request| {
        let answer = match request.head.start.split(' ').nth(1).unwrap() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "/204" => "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\nX-A: 1\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"e\"\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        };
        vec![Step::send(answer)]
    })
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    for (request, status, length, field) in [
        ("HEAD /length", 200, Some("1234"), None),
        ("HEAD /chunked", 200, None, None),
        ("GET /204", 204, None, Some(("x-a", "1"))),
        ("GET /304", 304, Some("7"), Some(("etag", "\"e\""))),
        ("GET /empty", 200, Some("0"), None),
    ] {
        client.send(format!("{request} HTTP/1.1\r\nHost: t\r\n\r\n")).await.unwrap();
        let head = client.head().await.unwrap();
        assert_eq!((head.status(), head.field("content-length")), (Some(status), length), "{request}");
        if let Some((name, value)) = field {
            assert_eq!(head.field(name), Some(value), "{request}");
        }
    }
    // A byte too many would have shown as a broken head by now.
    assert_eq!(client.get("/empty").await.unwrap().status, 200);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_lasts_until_the_connection_ends_arrives_whole() {
    let server = RawServer::always(vec![
        Step::send("HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nthis is "),
        Step::Wait(Duration::from_millis(50)),
        Step::send("all"),
        Step::Close,
    ])
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    for _ in 0..2 {
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.text(), "this is all");
    }
    client.send("GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.header("transfer-encoding"), answer.text().as_str()), (None, "this is all"));
}

#[tokio::test]
async fn chunks_and_trailers_pass_in_both_directions() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), "").await;
    let mut client = open(&sidecar).await;
    let chunked = "6;ext=\"1\"\r\nfoobar\r\n1\r\n!\r\n0\r\nX-Sum: 42\r\n\r\n";
    let post = |path: &str, more: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n{more}\r\n{chunked}"
        )
    };
    client.send(post("/digest", "")).await.unwrap();
    let digest = client.response().await.unwrap().text();
    assert!(digest.starts_with("7 ") && digest.ends_with("\nx-sum: 42\n"), "{digest}");
    client.send(post("/echo", "TE: trailers\r\n")).await.unwrap();
    let echo = client.response().await.unwrap();
    assert_eq!(echo.text(), "foobar!");
    assert_eq!(all(&echo.trailers, "x-sum"), ["42"]);
    client.send("GET /trailers HTTP/1.1\r\nHost: t\r\nTE: trailers\r\n\r\n").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(answer.header("trailer"), Some("x-trailer"));
    assert_eq!(answer.trailers, [("x-trailer".to_owned(), "done".to_owned())]);
    // A client that does not ask for trailers must not get any (RFC 9110, section 6.5.1).
    let answer = client.get("/trailers").await.unwrap();
    assert_eq!((answer.text().as_str(), answer.trailers.len()), ("before the trailer\n", 0));
}

#[tokio::test]
async fn a_client_hears_continue_even_if_the_answer_began_in_the_same_piece() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client
        .send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await
        .unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(100));
    let head = client.head().await.unwrap();
    assert_eq!(head.status(), Some(200));
    client.send("body").await.unwrap();
    let body = instance.some().await.unwrap();
    assert_eq!(body, b"body");
    instance.send(body).await.unwrap();
    assert_eq!(client.body_of(head).await.unwrap().text(), "body");
}

#[tokio::test]
async fn a_body_is_held_back_until_the_instance_says_continue() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client
        .send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await
        .unwrap();
    let mut instance = server.accept().await;
    let head = instance.head().await.unwrap();
    assert_eq!((head.field("expect"), head.length()), (Some("100-continue"), Some(4)));
    assert!(timeout(SHORT, client.some()).await.is_err(), "nobody has said 100 yet");
    instance.send("HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    let interim = timeout(Duration::from_millis(900), client.head()).await.expect("100 is passed on at once");
    assert_eq!(interim.unwrap().status(), Some(100));
    client.send("body").await.unwrap();
    instance.reads(b"body").await;
    instance.send("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    let head = client.head().await.unwrap();
    assert_eq!(head.status(), Some(201), "and no second 100");
    assert_eq!(client.body_of(head).await.unwrap().text(), "ok");
    // Both connections go on.
    client.send("GET /next HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert!(instance.head().await.unwrap().start.starts_with("GET /next"));
    instance.send("HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 204);
}

#[tokio::test]
async fn a_final_status_instead_of_continue_keeps_the_body_from_the_instance() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client
        .send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await
        .unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    // The body of the answer comes later than the sidecar would wait for a 100.
    instance.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 4\r\n\r\nno").await.unwrap();
    let head = client.head().await.unwrap();
    assert_eq!(head.status(), Some(417));
    // A client may send its body all the same; here it does, and it must lead nowhere.
    client.send("body").await.unwrap();
    assert!(timeout(Duration::from_millis(1300), instance.some()).await.is_err(), "no body, no end");
    instance.send("pe").await.unwrap();
    assert_eq!(client.body_of(head).await.unwrap().text(), "nope");
    assert!(instance.is_closed(SOON).await, "a connection amid a request is no use to another one");
    assert!(client.is_closed(SOON).await, "the client's next bytes could be a body or a request");
}

#[tokio::test]
async fn an_instance_that_stays_silent_gets_the_body_after_a_second() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    let begun = Instant::now();
    client
        .send("PUT / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(100));
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    client.send("4\r\nbody\r\n0\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"0\r\n\r\n") {
        seen.extend(instance.some().await.unwrap());
    }
    assert_eq!(seen, b"4\r\nbody\r\n0\r\n\r\n");
    // A late 100 is nobody's business any more.
    instance.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(200));
}

#[tokio::test]
async fn interim_responses_come_in_order_before_the_final_one() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n\r\n";
    let server = RawServer::start(move |request| match request.head.start.contains("/slow") {
        true => vec![
            Step::send("HTTP/1.1 102 Processing\r\n\r\n"),
            Step::Wait(Duration::from_millis(200)),
            Step::send(hints),
            Step::Wait(Duration::from_millis(200)),
            Step::ok("slow"),
        ],
        // In one piece: the final head must not overtake.
        false => vec![Step::send(format!(
            "HTTP/1.1 102 Processing\r\n\r\n{hints}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfast"
        ))],
    })
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    for (path, text) in [("/slow", "slow"), ("/fast", "fast"), ("/fast", "fast")] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).await.unwrap();
        assert_eq!(client.head().await.unwrap().status(), Some(102), "{path}");
        let early = client.head().await.unwrap();
        assert_eq!(early.status(), Some(103), "{path}");
        assert_eq!(all(&early.fields, "link"), ["</a.css>; rel=preload", "</b.js>"]);
        let head = client.head().await.unwrap();
        assert_eq!(head.status(), Some(200), "{path}");
        assert_eq!(client.body_of(head).await.unwrap().text(), text);
    }
    // Pipelined behind each other, each keeps its own.
    client.send("GET /fast HTTP/1.1\r\nHost: t\r\n\r\n".repeat(5)).await.unwrap();
    for _ in 0..5 {
        for status in [102, 103] {
            assert_eq!(client.head().await.unwrap().status(), Some(status));
        }
        assert_eq!(client.response().await.unwrap().text(), "fast");
    }
    // HTTP/1.0 knows no interim responses.
    client.send("GET /slow HTTP/1.0\r\n\r\n").await.unwrap();
    let head = client.head().await.unwrap();
    assert_eq!(head.status(), Some(200));
    assert_eq!(client.body_of(head).await.unwrap().text(), "slow");
}

#[tokio::test]
async fn http_1_0_clients_get_what_they_can_read() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("GET /headers HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    let kept = client.response().await.unwrap();
    assert_eq!(kept.header("connection"), Some("keep-alive"));
    let seen: Value = kept.json();
    assert_eq!(seen["version"], "HTTP/1.1", "the instance is spoken to in our own version");
    client.send("GET /bytes/1000 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().body.len(), 1000);
    // Without a length the end of the connection is the end of the body.
    client.send("GET /chunked/100000 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    let chunked = client.response().await.unwrap();
    assert_eq!(chunked.header("transfer-encoding"), None);
    assert_eq!(chunked.body, crate::support::pattern::bytes(0..100_000));
    let mut client = open(&sidecar).await;
    client.send("GET /bytes/10 HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().body.len(), 10);
    assert!(client.is_closed(SOON).await);
    let mut client = open(&sidecar).await;
    client.send("POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "abc");
}

#[tokio::test]
async fn an_http_1_0_instance_is_understood() {
    let server = RawServer::always(vec![
        Step::send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold"),
        Step::Close,
    ])
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        let head = client.head().await.unwrap();
        assert_eq!(head.start, "HTTP/1.1 200 OK");
        assert_eq!(client.body_of(head).await.unwrap().text(), "old");
    }
}

#[tokio::test]
async fn every_form_of_target_reaches_the_instance_as_it_should() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "").await;
    let long = format!("/{}?{}", "a".repeat(20_000), "b=%2F&".repeat(2_000));
    let odd = "/a|b/{c}/%C3%A9/..//;p=1?q=[1]&x='y'&&?";
    for (request, start, host) in [
        ("GET http://other.test:81/a?b HTTP/1.1\r\nHost: h", "GET /a?b HTTP/1.1", "other.test:81"),
        ("GET http://other.test HTTP/1.1\r\nHost: h", "GET / HTTP/1.1", "other.test"),
        ("OPTIONS * HTTP/1.1\r\nHost: h", "OPTIONS * HTTP/1.1", "h"),
        ("PROPFIND /x HTTP/1.1\r\nHost: h:1", "PROPFIND /x HTTP/1.1", "h:1"),
        ("M-SEARCH_2! /x HTTP/1.1\r\nHost: h", "M-SEARCH_2! /x HTTP/1.1", "h"),
        (&format!("GET {long} HTTP/1.1\r\nHost: h"), &format!("GET {long} HTTP/1.1"), "h"),
        (&format!("GET {odd} HTTP/1.1\r\nHost: h"), &format!("GET {odd} HTTP/1.1"), "h"),
    ] {
        let mut client = open(&sidecar).await;
        client.send(format!("{request}\r\n\r\n")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 200, "{request:.60}");
        let seen = server.requests().pop().unwrap().head;
        assert_eq!((seen.start.as_str(), seen.field("host")), (start, Some(host)));
    }
    // As large as a head may be.
    let path = format!("/{}", "c".repeat(60_000));
    assert_eq!(open(&sidecar).await.get(&path).await.unwrap().status, 200);
    assert!(server.requests().pop().unwrap().head.start.len() > 60_000);
}

#[tokio::test]
async fn connect_is_refused() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    assert_eq!(answer.json::<Value>()["error"], "bad_request");
    assert!(client.is_closed(SOON).await);
    assert!(server.is_left_alone(Duration::ZERO).await);
}

#[tokio::test]
async fn header_fields_keep_case_order_and_bytes_in_both_directions() {
    let server = RawServer::always(vec![Step::send(
        b"HTTP/1.1 200 All Right\r\nX-CamelCase: 1\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nx-LAST: caf\xe9\r\n\
          X-Empty:\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
    )])
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client
        .send(
            b"GET / HTTP/1.1\r\nHOST: h\r\nX-CamelCase: 1\r\nCookie: a=1\r\ncookie: b=2\r\nX-Empty:\r\n\
              x-Bytes: caf\xe9 \xc3\xa9\r\nX-CamelCase: 2\r\n\r\n",
        )
        .await
        .unwrap();
    let mut raw = Vec::new();
    while !raw.ends_with(b"\r\n\r\n") {
        raw.extend(client.some().await.unwrap());
    }
    let seen = server.requests().pop().unwrap().head;
    let names: Vec<_> = seen.fields.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["HOST", "X-CamelCase", "Cookie", "cookie", "X-Empty", "x-Bytes"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert_eq!(all(&seen.fields, "cookie"), ["a=1", "b=2"]);
    assert_eq!(all(&seen.fields, "x-camelcase"), ["1", "2"]);
    assert_eq!(seen.field("x-empty"), Some(""));
    assert_eq!(seen.field("x-bytes"), Some("caf\u{fffd} \u{e9}"), "as the harness reads Latin-1 and UTF-8");
    let has = |part: &[u8]| raw.windows(part.len()).any(|window| window == part);
    assert!(raw.starts_with(b"HTTP/1.1 200 All Right\r\n"), "{}", String::from_utf8_lossy(&raw));
    for line in ["\r\nX-CamelCase: 1\r\n", "\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"] {
        assert!(has(line.as_bytes()), "{line:?}: {}", String::from_utf8_lossy(&raw));
    }
    assert!(has(b"\r\nx-LAST: caf\xe9\r\n") && has(b"\r\nX-Empty:\r\n"));
    assert!(has(b"\r\nContent-Length: 0\r\n"));
}

#[tokio::test]
async fn hop_by_hop_fields_end_here_and_ours_are_added() {
    let server = RawServer::always(vec![Step::send(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h9\r\n\
         Proxy-Connection: keep-alive\r\nVia: 1.1 inner\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n",
    )])
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: orders.test\r\nConnection: x-secret\r\nConnection: keep-alive, X-Other ,host\r\n\
             X-Secret: 1\r\nX-Other: 2\r\nKeep-Alive: 300\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\
             Upgrade: websocket\r\nX-Mine: 3\r\nX-Forwarded-For: 10.0.0.9\r\nx-forwarded-for: 10.0.0.8\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: outer.test\r\nVia: 1.0 outer\r\ntraceparent: {trace}\r\n\
             tracestate: a=b\r\nContent-Length: 2\r\n\r\nhi"
        ))
        .await
        .unwrap();
    let answer = client.response().await.unwrap();
    for gone in ["connection", "x-hop", "keep-alive", "upgrade", "proxy-connection"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert_eq!((answer.header("via"), answer.header("x-kept")), (Some("1.1 inner"), Some("1")));
    let seen = server.requests().pop().unwrap();
    let field = |name| seen.head.field(name);
    for gone in ["connection", "x-secret", "x-other", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!(field(gone), None, "{gone}");
    }
    assert_eq!(seen.body, b"hi");
    assert_eq!((field("host"), field("x-mine")), (Some("orders.test"), Some("3")));
    assert_eq!(all(&seen.head.fields, "x-forwarded-for"), ["10.0.0.9, 10.0.0.8, 127.0.0.1"]);
    assert_eq!((field("x-forwarded-proto"), field("x-forwarded-host")), (Some("https"), Some("outer.test")));
    assert_eq!(all(&seen.head.fields, "via"), ["1.0 outer", "1.1 outrigger"]);
    assert_eq!((field("traceparent"), field("tracestate")), (Some(trace), Some("a=b")));
    // What the client does not say is begun.
    client.get("/").await.unwrap();
    let first = server.requests().pop().unwrap().head;
    assert_eq!(first.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(
        (first.field("x-forwarded-proto"), first.field("x-forwarded-host")),
        (Some("http"), Some("raw.test"))
    );
    client.get("/").await.unwrap();
    let second = server.requests().pop().unwrap().head;
    let (a, b) = (first.field("traceparent").unwrap(), second.field("traceparent").unwrap());
    assert!(a.len() == 55 && a.starts_with("00-") && a != b, "{a} {b}");
}

#[tokio::test]
async fn an_answer_with_two_framings_has_one_meaning_for_the_client() {
    let server = RawServer::start(|request| match request.head.start.contains("/both") {
        true => vec![Step::send(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nlongbody\r\n0\r\n\r\n",
        )],
        false => vec![Step::send(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        )],
    })
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    for _ in 0..2 {
        let answer = client.get("/both").await.unwrap();
        assert_eq!((answer.header("content-length"), answer.text().as_str()), (None, "longbody"));
    }
    let refused = client.get("/two").await.unwrap();
    assert_eq!((refused.status, &refused.json::<Value>()["error"]), (502, &"upstream_protocol".into()));
    assert_eq!(client.get("/both").await.unwrap().text(), "longbody");
}

#[tokio::test]
async fn grpc_clients_get_our_answers_as_trailers_only() {
    let closed = format!("127.0.0.1:{}", crate::support::free_port()).parse().unwrap();
    let sidecar = facing(closed, "").await;
    let call = |more: &'static str| {
        let request = Request::post("/pkg.Service/Method").header("content-type", "application/grpc+proto");
        let request = if more.is_empty() { request } else { request.header("via", more) };
        client::request(sidecar.service("web"), request.body(client::full("x")).unwrap())
    };
    let answer = call("").await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc")));
    assert_eq!((answer.header("grpc-status"), answer.body.len()), (Some("14"), 0));
    assert!(answer.header("grpc-message").unwrap().starts_with("connect_failed: "));
    assert!(answer.header("x-outrigger-error").unwrap().starts_with("connect_failed; service=web; known=1;"));
    const ROUND: &str = "1.1 outrigger, 1.1 outrigger, 1.1 outrigger, 1.1 outrigger, 1.1 outrigger, \
        1.1 outrigger, 1.1 outrigger, 1.1 outrigger";
    let looped = call(ROUND).await.unwrap();
    assert_eq!((looped.status, looped.header("grpc-status")), (200, Some("13")));
}

#[tokio::test]
async fn http_1_0_without_a_host_reaches_the_instance_with_one() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "").await;
    for (request, host) in [
        ("GET / HTTP/1.0\r\n\r\n", "web"),
        ("GET http://orders:81/ HTTP/1.0\r\n\r\n", "orders:81"),
        ("GET / HTTP/1.0\r\nHost: named\r\n\r\n", "named"),
    ] {
        let mut client = open(&sidecar).await;
        client.send(request).await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), "ok");
        let seen = server.requests().pop().unwrap().head;
        assert_eq!(seen.start, "GET / HTTP/1.1", "{request:?}");
        assert_eq!(all(&seen.fields, "host"), [host], "{request:?}");
        assert_eq!(all(&seen.fields, "via"), ["1.0 outrigger"], "{request:?}");
    }
}
