//! HTTP/2 from the application, HTTP/1.1 to the instances.

mod limits;
pub mod peer;
mod websocket;

use crate::support::client::Connection;
use crate::support::raw::{RawServer, Step};
use crate::support::{ByHand, Instance, Sidecar, eventually, facing, pattern};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Request};
use peer::{Frames, PREFACE, Peer, frame, get_block, whole};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, copy};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(5);

async fn open(sidecar: &Sidecar) -> Peer {
    Peer::open(sidecar.service("web")).await
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://peer.test{path}")).body(()).unwrap()
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://peer.test{path}")).body(()).unwrap()
}

/// Three instances behind one service.
async fn three(more: &str) -> (Vec<Instance>, Sidecar) {
    let instances =
        [Instance::start("one").await, Instance::start("two").await, Instance::start("three").await];
    let addrs: Vec<_> = instances.iter().map(|instance| instance.addr().to_string()).collect();
    let config = format!("workers = 1\n[service.web]\nfrom = \"static://{}\"\n{more}", addrs.join(","));
    (instances.into(), Sidecar::start(&config).await)
}

#[tokio::test]
async fn requests_of_one_connection_are_spread_over_the_instances() {
    let (_instances, sidecar) = three("").await;
    let mut peer = open(&sidecar).await;
    let mut asked = Vec::new();
    for _ in 0..99 {
        asked.push(peer.begin(get("/delay/50"), true).await.0);
    }
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for answer in join_all(asked).await {
        let answer = whole(answer.unwrap()).await.unwrap();
        assert_eq!(answer.status, 200);
        *seen.entry(answer.instance().to_owned()).or_default() += 1;
    }
    assert_eq!(seen.values().copied().collect::<Vec<_>>(), [33; 3], "{seen:?}");
    assert_eq!(sidecar.metric("outrigger_connections{side=\"client\"}").await, 1.0);
    assert_eq!(sidecar.metric("outrigger_requests_total{service=\"web\",code=\"200\"}").await, 99.0);
}

#[tokio::test]
async fn a_killed_instance_is_not_noticed() {
    let (mut instances, sidecar) = three("").await;
    let mut peer = open(&sidecar).await;
    for _ in 0..6 {
        assert_eq!(peer.get("/").await.unwrap().status, 200);
    }
    instances[1].kill();
    for turn in 0..12 {
        let answer = peer.ask(post("/digest"), b"").await.unwrap();
        assert_eq!(answer.status, 200, "{turn}: {}", answer.text());
        assert_ne!(answer.instance(), "two");
    }
}

#[tokio::test]
async fn the_instance_gets_http_1_1() {
    let instance = Instance::start("one").await;
    let sidecar = facing(instance.addr(), "").await;
    let mut peer = open(&sidecar).await;
    let request = Request::get("http://orders.internal:80/headers?a=b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-camel", "1")
        .body(())
        .unwrap();
    let answer = peer.ask(request, b"").await.unwrap();
    let seen: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&seen["method"], &seen["uri"]), (&"GET".into(), &"/headers?a=b".into()));
    assert_eq!(seen["version"], "HTTP/1.1");
    let fields = seen["headers"].as_array().unwrap();
    let all = |name: &str| {
        let values = fields.iter().filter(|field| field[0] == name).map(|field| field[1].as_str().unwrap());
        values.collect::<Vec<_>>()
    };
    assert_eq!(all("host"), ["orders.internal:80"]);
    assert_eq!(all("cookie"), ["a=1; b=2"]);
    assert_eq!(all("via"), ["2.0 outrigger"]);
    assert_eq!((all("te"), all("connection")), (vec!["trailers"], vec!["te"]));
    assert_eq!((all("x-forwarded-proto"), all("x-forwarded-for")), (vec!["http"], vec!["127.0.0.1"]));
    assert_eq!(all("transfer-encoding"), [""; 0]);
    assert!(answer.headers.contains_key("date"));
    for gone in ["connection", "transfer-encoding", "keep-alive"] {
        assert!(!answer.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let instance = Instance::start("one").await;
    let sidecar = facing(instance.addr(), "").await;
    let mut peer = open(&sidecar).await;
    let large = pattern::bytes(0..3 << 20);
    let request = Request::post("http://peer.test/echo").header("trailer", "x-sum").header("te", "trailers");
    let (answer, mut send) = peer.begin(request.body(()).unwrap(), false).await;
    let sending = async {
        let mut rest = Bytes::from(large.clone());
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            send.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        send.send_trailers(trailers).unwrap();
    };
    let (_, answer) = tokio::join!(sending, async { whole(answer.await.unwrap()).await.unwrap() });
    assert!(answer.body == large, "{} bytes", answer.body.len());
    assert_eq!(answer.trailers.get("x-sum").unwrap(), "1");
    // With a length, and with one that is not true.
    let request = |length: u64| {
        let request = Request::post("http://peer.test/digest").header("content-length", length);
        request.body(()).unwrap()
    };
    assert!(peer.ask(request(5), b"hello").await.unwrap().text().starts_with("5 "));
    for wrong in [4, 6] {
        let error = peer.ask(request(wrong), b"hello").await.unwrap_err();
        assert!(error.is_reset(), "{wrong}: {error}");
    }
    let request = Request::get("http://peer.test/trailers").header("te", "trailers").body(()).unwrap();
    let answer = peer.ask(request, b"").await.unwrap();
    assert_eq!(answer.trailers.get("x-trailer").unwrap(), "done");
    assert_eq!(peer.get("/bytes/100000").await.unwrap().body, pattern::bytes(0..100_000));
}

#[tokio::test]
async fn a_slow_client_gets_every_byte_of_all_its_streams() {
    let instance = Instance::start("one").await;
    let sidecar = facing(instance.addr(), "").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let io = socket.connect(sidecar.service("web")).await.unwrap();
    // More than all sockets in between hold, and the windows are no limit.
    let (streams, length) = (16, 1 << 20);
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(length).initial_connection_window_size(streams * length);
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut asked, mut answered) = tokio::io::split(far);
    let (mut reads, mut writes) = io.into_split();
    let mut between = JoinSet::new();
    between.spawn(async move { while copy(&mut asked, &mut writes).await.is_ok_and(|bytes| bytes > 0) {} });
    between.spawn(async move {
        loop {
            sleep(Duration::from_millis(50)).await;
            let _ = copy(&mut (&mut reads).take(1 << 20), &mut answered).await;
        }
    });
    let peer = Peer::over(near, &builder).await;
    let answers = (0..streams).map(|stream| {
        let mut peer = peer.send.clone();
        async move {
            let request = get(&format!("/bytes/{}", length + stream));
            let answer = peer.send_request(request, true).unwrap().0.await.unwrap();
            whole(answer).await.unwrap().body
        }
    });
    let answers = timeout(Duration::from_secs(20), join_all(answers)).await.unwrap();
    let whole = pattern::bytes(0..u64::from(length + streams));
    for (body, length) in answers.iter().zip(length..) {
        assert!(*body == whole[..length as usize], "{} of {length} bytes", body.len());
    }
    assert_eq!(answers.len(), streams as usize);
}

#[tokio::test]
async fn heads_that_have_no_body_end_with_themselves() {
    let server = RawServer::start(|request| match &*request.head.start {
        "HEAD / HTTP/1.1" => vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")],
        "GET /204 HTTP/1.1" => vec![Step::send("HTTP/1.1 204 No Content\r\n\r\n")],
        "GET /304 HTTP/1.1" => vec![Step::send("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n")],
        _ => vec![Step::ok("body")],
    })
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = open(&sidecar).await;
    let head = peer.ask(Request::head("http://peer.test/").body(()).unwrap(), b"").await.unwrap();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("7"), 0));
    assert_eq!(peer.get("/204").await.unwrap().status, 204);
    assert_eq!(peer.get("/304").await.unwrap().status, 304);
    assert_eq!(peer.get("/").await.unwrap().text(), "body");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn early_hints_overtake_the_answer() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = open(&sidecar).await;
    let (mut answer, _send) = peer.begin(get("/"), true).await;
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\r\n").await.unwrap();
    let hint = std::future::poll_fn(|cx| answer.poll_informational(cx));
    let hint = timeout(SOON, hint).await.unwrap().unwrap().unwrap();
    assert_eq!((hint.status().as_u16(), hint.headers().get("link").unwrap().as_bytes()), (103, &b"</a>"[..]));
    assert!(!hint.headers().contains_key("connection"));
    instance.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_client_that_waits_is_asked_for_its_body() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = open(&sidecar).await;
    let request = Request::post("http://peer.test/").header("expect", "100-continue").body(()).unwrap();
    let (mut answer, mut send) = peer.begin(request, false).await;
    let mut instance = server.accept().await;
    assert_eq!(instance.head().await.unwrap().field("expect"), Some("100-continue"));
    instance.send("HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    let asked = std::future::poll_fn(|cx| answer.poll_informational(cx));
    assert_eq!(timeout(SOON, asked).await.unwrap().unwrap().unwrap().status().as_u16(), 100);
    send.send_data(Bytes::from_static(b"body"), true).unwrap();
    instance.reads(b"4\r\nbody\r\n0\r\n\r\n").await;
    instance.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_client_that_gives_up_is_seen_by_the_instance() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = open(&sidecar).await;
    // Before the answer, and amid it.
    let (answer, mut send) = peer.begin(get("/"), true).await;
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    send.send_reset(h2::Reason::CANCEL);
    assert!(instance.is_closed(SOON).await, "before the answer");
    drop(answer);
    let (answer, mut send) = peer.begin(get("/"), true).await;
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbe").await.unwrap();
    let _answer = answer.await.unwrap();
    send.send_reset(h2::Reason::CANCEL);
    assert!(instance.is_closed(SOON).await, "amid the answer");
    // The connection goes.
    let (_answer, _send) = peer.begin(get("/"), true).await;
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    drop(peer);
    assert!(instance.is_closed(SOON).await, "with the connection");
    eventually("nothing runs any more", SOON, async || {
        let service = sidecar.api("/api/services/web").await;
        (service["endpoints"][0]["in_flight"] == 0).then_some(())
    })
    .await;
    assert_eq!(sidecar.metric("outrigger_requests_total{code=\"499\"}").await, 2.0);
    assert_eq!(sidecar.metric("outrigger_connections{side=\"client\"}").await, 0.0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_ends_cleanly() {
    let server = RawServer::start(|request| match &*request.head.start {
        "GET /half HTTP/1.1" => vec![Step::half("0123456789"), Step::Wait(SHORT), Step::Close],
        _ => {
            let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
            vec![Step::send(chunk), Step::Wait(SHORT), Step::Close]
        }
    })
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = open(&sidecar).await;
    for path in ["/half", "/chunked"] {
        let error = peer.get(path).await.unwrap_err();
        assert!(error.is_reset() && error.reason() == Some(h2::Reason::INTERNAL_ERROR), "{path}: {error}");
    }
}

#[tokio::test]
async fn own_answers_are_answers_of_http_2() {
    let nobody = crate::support::free_port();
    let sidecar = Sidecar::launch(&format!(
        "workers = 1\n[service.web]\nfrom = \"static://127.0.0.1:{nobody}\"\nretry.attempts = 1\n"
    ))
    .await;
    let mut peer = open(&sidecar).await;
    let answer = peer.get("/").await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (502, Some("application/json")));
    assert!(answer.header("x-outrigger-error").unwrap().starts_with("connect_failed; service=web"));
    assert_eq!(answer.header("content-length").unwrap(), answer.body.len().to_string());
    let head = peer.ask(Request::head("http://peer.test/").body(()).unwrap(), b"").await.unwrap();
    assert_eq!((head.status, head.body.len()), (502, 0));
    let request =
        Request::post("http://peer.test/a.B/C").header("content-type", "application/grpc").body(()).unwrap();
    let (answer, _send) = peer.begin(request, false).await;
    let answer = whole(answer.await.unwrap()).await.unwrap();
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("14")));
    assert!(answer.body.is_empty() && answer.trailers.is_empty(), "all is said in one block");
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_the_connection_goes_on() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = open(&sidecar).await;
    let bad = [
        Request::get("http://user@peer.test/"),
        Request::get("http://peer.test/").header("host", "other.test"),
        Request::get("ftp://peer.test/"),
        Request::get("http://peer.test/").header("x-padded", " a"),
        Request::builder().method("CONNECT").uri("peer.test:80"),
    ];
    for build in bad {
        let text = format!("{build:?}");
        let answer = peer.ask(build.body(()).unwrap(), b"").await.unwrap();
        assert_eq!(answer.status, 400, "{text}");
        assert!(answer.header("connection").is_none());
    }
    assert_eq!(peer.get("/").await.unwrap().text(), "ok");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_fragment_of_a_path_reaches_nobody() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "").await;
    let mut frames = Frames::open(sidecar.service("web")).await;
    // Not refused, as it is in HTTP/1.1: it is gone before anything of ours sees the path.
    frames.send(&frame(1, 5, 1, &get_block("/a?b#c/../d"))).await;
    assert!(frames.next_of(1).await.is_some());
    assert_eq!(server.requests()[0].head.start, "GET /a?b HTTP/1.1");
}

#[tokio::test]
async fn both_versions_come_to_one_port_in_pieces_too() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    // The same first letters.
    for piece in ["P", "R", "OPFIND / HTTP/1.1\r\nHost: t\r\n\r\n"] {
        client.send(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(client.response().await.unwrap().status, 200);
    // Later it is no preface any more.
    client.send(PREFACE).await.unwrap();
    assert!(client.is_closed(SOON).await);
    let mut frames = peer::Frames(tokio::net::TcpStream::connect(sidecar.service("web")).await.unwrap());
    for piece in PREFACE.chunks(5) {
        frames.send(piece).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    frames.send(&peer::frame(4, 0, 0, b"")).await;
    frames.send(&peer::frame(1, 5, 1, &peer::get_block("/"))).await;
    assert_eq!(frames.next_of(0).await.unwrap().2, b"ok");
}

#[tokio::test]
async fn a_stop_lets_running_streams_finish() {
    let instance = Instance::start("one").await;
    let mut sidecar = facing(instance.addr(), "").await;
    let mut peer = open(&sidecar).await;
    let mut idle = open(&sidecar).await;
    assert_eq!(idle.get("/").await.unwrap().status, 200);
    let (answer, _send) = peer.begin(get("/delay/1500"), true).await;
    eventually("the request runs", SOON, async || (instance.count("/delay/1500").await == 1).then_some(()))
        .await;
    sidecar.signal("TERM");
    idle.ended(SOON).await.unwrap();
    assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "one");
    peer.ended(SOON).await.unwrap();
    sidecar.stop_was_asked().await;
}

#[tokio::test]
async fn an_unused_connection_ends_in_order() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "[limits]\nkeep_alive = \"1s\"\n").await;
    let mut peer = open(&sidecar).await;
    for _ in 0..4 {
        assert_eq!(peer.get("/").await.unwrap().text(), "ok");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let begun = Instant::now();
    peer.ended(SOON).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // One that does not answer a farewell is left.
    let mut frames = peer::Frames::open(sidecar.service("web")).await;
    assert_eq!(frames.ended().await, Some(0));
}

#[tokio::test]
async fn curl_speaks_it() {
    let instance = Instance::start("one").await;
    let sidecar = facing(instance.addr(), "").await;
    let url = format!("http://{}", sidecar.service("web"));
    // One request each: curl 7.88 does not find its way back to such a connection.
    for (path, more, expected) in
        [("/echo", &["--data-binary", "hello"][..], "hello 2 200"), ("/", &[], "one 2 200")]
    {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--http2-prior-knowledge", "--write-out", " %{http_version} %{http_code}"]);
        curl.arg(format!("{url}{path}")).args(more);
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    }
}
