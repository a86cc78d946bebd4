//! HTTP/2 to instances over real connections: what passes, what is shared, and what becomes of failures.

mod faults;
mod server;
mod streams;
mod versions;

use crate::support::client::{self, Connection, Response};
use crate::support::{Sidecar, eventually};
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use server::{Command, H2Server, Manners};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A sidecar with one worker and the service `web` at these addresses, spoken to in HTTP/2 unless `rules` say otherwise.
async fn sidecar(addrs: &[SocketAddr], rules: &str) -> Sidecar {
    let http = if rules.contains("http =") { "" } else { "http = \"2\"\n" };
    let list: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    let config = format!("workers = 1\n[service.web]\nfrom = \"static://{}\"\n{http}{rules}", list.join(","));
    Sidecar::start(&config).await
}

/// One request on a connection of its own.
async fn send(sidecar: &Sidecar, method: &str, path: &str) -> Response {
    let request = Request::builder().method(method).uri(path).body(client::empty()).unwrap();
    client::request(sidecar.service("web"), request).await.unwrap()
}

/// A body of pieces, and its trailers.
fn pieces(pieces: Vec<Bytes>, trailers: &[(&'static str, &str)]) -> impl client::Sendable {
    let trailers = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let trailers: http::HeaderMap = trailers.collect();
    let frames: Vec<_> = pieces.into_iter().map(Frame::data).collect();
    let last = (!trailers.is_empty()).then(|| Frame::trailers(trailers));
    StreamBody::new(futures_util::stream::iter(frames.into_iter().chain(last).map(Ok::<_, Infallible>)))
}

/// Waits for this.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    eventually(what, LIMIT, async || is().then_some(())).await;
}

async fn open(sidecar: &Sidecar) -> Connection {
    Connection::open(sidecar.service("web")).await.unwrap()
}

#[tokio::test]
async fn requests_and_answers_pass_whole() {
    let server = H2Server::with(Manners { name: "two", ..Manners::default() }).await;
    let sidecar = sidecar(&[server.addr], "").await;
    let request = Request::post("/echo?a=b%20c")
        .header("host", "shop.test:8080")
        .header("X-Camel", "1")
        .header("x-empty", "")
        .header("x-twice", "one")
        .header("x-twice", "two")
        .header("connection", "x-hop, te")
        .header("x-hop", "mine")
        .header("te", "trailers");
    let sent: Vec<Bytes> = (0..50).map(|n| vec![n; 9_000].into()).collect();
    let whole = sent.concat();
    let body = pieces(sent, &[("x-sum", "7")]);
    let answer = client::request(sidecar.service("web"), request.body(body).unwrap()).await.unwrap();
    assert_eq!((answer.status, answer.instance()), (200, "two"));
    assert!(answer.body == whole, "{} bytes", answer.body.len());
    let seen = &server.requests()[0];
    assert_eq!((&seen.method[..], &seen.uri[..]), ("POST", "http://shop.test:8080/echo?a=b%20c"));
    let field =
        |name: &str| seen.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        (field("x-camel"), field("x-empty"), field("x-twice")),
        (vec!["1"], vec![""], vec!["one", "two"])
    );
    assert_eq!((field("te"), field("x-forwarded-host")), (vec!["trailers"], vec!["shop.test:8080"]));
    for hop in ["connection", "x-hop", "transfer-encoding", "host", "content-length"] {
        assert!(!seen.headers.contains_key(hop), "{hop}: {:?}", seen.headers);
    }
    // Of known length, and empty.
    let request = Request::put("/count").body(client::full(vec![1; 100_000])).unwrap();
    let answer = client::request(sidecar.service("web"), request).await.unwrap();
    assert_eq!((answer.text(), server.came()), ("counted".to_owned(), 100_000));
    assert_eq!(server.requests()[1].headers["content-length"], "100000");
    assert_eq!(send(&sidecar, "GET", "/").await.text(), "fine");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut client = open(&sidecar).await;
    let head = "POST /echo HTTP/1.1\r\nHost: t\r\nTE: trailers\r\nConnection: te\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}3\r\nabc\r\n0\r\nX-Sum: 7\r\nHost: h\r\n\r\n")).await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.body, answer.trailers), (b"abc".to_vec(), vec![("x-sum".to_owned(), "7".to_owned())]));
    // gRPC's own, which come with or without a length.
    let head =
        "POST /grpc.Service/Call HTTP/1.1\r\nHost: t\r\nTE: trailers\r\nContent-Type: application/grpc\r\n";
    client.send(format!("{head}Content-Length: 0\r\n\r\n")).await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(answer.trailers, [("grpc-status".to_owned(), "0".to_owned())]);
}

#[tokio::test]
async fn answers_without_a_body_and_of_known_length_are_framed_for_the_client() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let head = send(&sidecar, "HEAD", "/length").await;
    assert_eq!((head.header("content-length"), head.body.len()), (Some("4"), 0));
    let known = send(&sidecar, "GET", "/length").await;
    assert_eq!((known.header("content-length"), known.text()), (Some("4"), "four".to_owned()));
    let nothing = send(&sidecar, "GET", "/nothing").await;
    assert_eq!((nothing.status, nothing.header("content-length")), (204, None));
    // What is all there was not cancelled by us, although its formal end came late.
    until("all of them have ended", || server.running() == 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.resets(), []);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn interim_answers_are_passed_on_and_open_the_gate() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut client = open(&sidecar).await;
    client.send("GET /interim HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let early = client.head().await.unwrap();
    assert_eq!((early.status(), early.field("link")), (Some(103), Some("</a.css>")));
    assert_eq!(client.response().await.unwrap().text(), "final");
    client
        .send("POST /continue HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(100));
    assert_eq!(server.came(), 0);
    client.send("hello").await.unwrap();
    assert_eq!((client.response().await.unwrap().text(), server.came()), ("continued".to_owned(), 5));
}
