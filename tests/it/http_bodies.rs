//! Bodies large and slow: every byte arrives, nothing piles up, and who goes away is noticed.

use crate::support::client::{self, Connection};
use crate::support::pattern::{self, Digest};
use crate::support::raw::{RawServer, Step};
use crate::support::{ByHand, Instance, Sidecar, eventually, facing};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(5);
const BLOCK: &[u8] = &[b'x'; 1 << 16];
const LARGE: u64 = 100 << 20;
/// What the sidecar may come to use while large bodies pass, in KiB: a debug build, binary and libraries included.
const MEMORY: u64 = 48 << 10;

async fn open(sidecar: &Sidecar) -> Connection {
    Connection::open(sidecar.service("web")).await.unwrap()
}

/// The pattern in pieces, and what `/digest` says of all of it; made once, as making it is slow.
fn large() -> (Vec<Bytes>, String) {
    // Pieces repeat after 16 MiB, as the pattern does.
    const PIECE: usize = 64 << 10;
    let block = Bytes::from(pattern::bytes(0..16 << 20));
    let mut digest = Digest::new();
    let mut pieces = Vec::new();
    for from in (0..LARGE as usize).step_by(PIECE) {
        let from = from % block.len();
        let piece = block.slice(from..from + PIECE);
        digest.add(&piece);
        pieces.push(piece);
    }
    (pieces, format!("{LARGE} {}\n", digest.text()))
}

/// The highest resident memory of the sidecar while `work` runs, in KiB.
async fn peak<T>(sidecar: &Sidecar, work: impl Future<Output = T>) -> (T, u64) {
    let mut highest = 0;
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(Duration::from_millis(20), &mut work).await {
            Ok(done) => return (done, highest.max(sidecar.rss_kib())),
            Err(_) => highest = highest.max(sidecar.rss_kib()),
        }
    }
}

/// Bytes that `connection` takes before it takes nothing more for half a second.
async fn filled(connection: &mut Connection, piece: &[u8], most: usize) -> usize {
    let mut sent = 0;
    while sent < most
        && matches!(timeout(Duration::from_millis(500), connection.send(piece)).await, Ok(Ok(())))
    {
        sent += piece.len();
    }
    sent
}

async fn attempts(sidecar: &Sidecar, outcome: &str) -> f64 {
    sidecar
        .metric(&format!("outrigger_upstream_attempts_total{{service=\"web\",outcome=\"{outcome}\"}}"))
        .await
}

#[tokio::test]
async fn large_uploads_pass_unchanged_in_little_memory() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), "").await;
    let (pieces, expected) = tokio::task::spawn_blocking(large).await.unwrap();
    for length in [Some(LARGE), None] {
        let frames = pieces.clone().into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let mut request = Request::post("/digest");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let sending = client::request(sidecar.service("web"), request.body(body).unwrap());
        let (answer, highest) = peak(&sidecar, sending).await;
        assert_eq!(answer.unwrap().text(), expected, "{length:?}");
        assert!(highest < MEMORY, "{highest} KiB");
    }
}

#[tokio::test]
async fn large_downloads_pass_unchanged_in_little_memory() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), "").await;
    let (_, expected) = tokio::task::spawn_blocking(large).await.unwrap();
    for path in ["bytes", "chunked"] {
        let path = format!("/{path}/{LARGE}");
        let (answer, highest) = peak(&sidecar, client::get(sidecar.service("web"), &path)).await;
        let digest = tokio::task::spawn_blocking(move || {
            let mut digest = Digest::new();
            digest.add(&answer.body);
            format!("{} {}\n", answer.body.len(), digest.text())
        });
        assert_eq!(digest.await.unwrap(), expected, "{path}");
        assert!(highest < MEMORY, "{highest} KiB");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_instance() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n").await.unwrap();
    let before = sidecar.rss_kib();
    let sent = filled(&mut instance, BLOCK, LARGE as usize).await;
    // Four sockets' buffers lie between them, each at most a few MiB (tcp_rmem, tcp_wmem).
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    assert!(sidecar.rss_kib() < before + (8 << 10), "{} KiB", sidecar.rss_kib());
    // Once it reads, everything flows again.
    let head = client.head().await.unwrap();
    let more = filled_while_read(&mut instance, &mut client).await;
    assert!(more > 8 << 20, "{head:?}");
}

/// Reads from `to` while `from` sends 16 MiB more; the bytes read.
async fn filled_while_read(from: &mut Connection, to: &mut Connection) -> usize {
    let sending = async {
        for _ in 0..256 {
            from.send(BLOCK).await.unwrap();
        }
    };
    let mut read = 0;
    let reading = async {
        loop {
            read += to.some().await.unwrap().len();
        }
    };
    tokio::select! {
        () = sending => {}
        () = reading => {}
    }
    read
}

#[tokio::test]
async fn an_instance_that_does_not_read_stops_the_client() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 104857600\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    let before = sidecar.rss_kib();
    let sent = filled(&mut client, BLOCK, LARGE as usize).await;
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    assert!(sidecar.rss_kib() < before + (8 << 10), "{} KiB", sidecar.rss_kib());
    instance.head().await.unwrap();
    assert!(filled_while_read(&mut client, &mut instance).await > 8 << 20);
}

#[tokio::test]
async fn slow_bodies_pass_as_they_come() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    // Each piece arrives before the next one is sent: nothing waits for more.
    for piece in ["1\r\na\r\n", "2\r\nbc\r\n"] {
        client.send(piece).await.unwrap();
        instance.reads(piece.as_bytes()).await;
    }
    instance.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(200), "before the upload is complete");
    instance.send("1\r\nx\r\n").await.unwrap();
    client.reads(b"1\r\nx\r\n").await;
    client.send("1\r\nd\r\n0\r\n\r\n").await.unwrap();
    assert!(instance.some().await.unwrap().starts_with(b"1\r\nd\r\n"));
    instance.send("1\r\ny\r\n0\r\n\r\n").await.unwrap();
    let mut end = Vec::new();
    while end.len() < 11 {
        end.extend(client.some().await.unwrap());
    }
    assert_eq!(end, b"1\r\ny\r\n0\r\n\r\n");
    assert_eq!(attempts(&sidecar, "success").await, 1.0);
}

#[tokio::test]
async fn an_upload_may_go_on_after_the_answer() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nabc").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "ok");
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.send("def").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.extend(instance.some().await.unwrap());
    }
    assert_eq!(seen, b"abcdef");
    // Both connections are in order after that.
    client.send("GET /next HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert!(instance.head().await.unwrap().start.starts_with("GET /next"));
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 104857600\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    client.send(vec![b'x'; 1 << 20]).await.unwrap();
    instance
        .send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge")
        .await
        .unwrap();
    drop(instance);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // It goes on sending, as clients do that read only at the end; then it reads.
    for _ in 0..16 {
        client.send(BLOCK).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
}

/// The instance's connection ends soon after the client's; nobody is blamed.
async fn abandoned(sidecar: &Sidecar, instance: &mut Connection, addr: SocketAddr) {
    let begun = Instant::now();
    while instance.some().await.is_ok_and(|bytes| !bytes.is_empty()) {}
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    eventually("the attempt is counted as abandoned", SOON, async || {
        (attempts(sidecar, "abandoned").await == 1.0).then_some(())
    })
    .await;
    let service = sidecar.api("/api/services/web").await;
    let endpoint = &service["endpoints"][0];
    assert_eq!(endpoint["addr"], addr.to_string());
    assert_eq!((&endpoint["failures"], &endpoint["in_flight"]), (&0.into(), &0.into()), "{endpoint}");
}

#[tokio::test]
async fn a_client_that_leaves_amid_a_flowing_download_ends_it() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\nabc").await.unwrap();
    client.head().await.unwrap();
    drop(client);
    let begun = Instant::now();
    while instance.send(BLOCK).await.is_ok() {
        assert!(begun.elapsed() < SOON);
    }
    abandoned(&sidecar, &mut instance, server.addr()).await;
}

#[tokio::test]
async fn a_client_that_leaves_amid_a_silent_stream_ends_it() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    for reset in [false, true] {
        let sidecar = if reset { &facing(server.addr(), "").await } else { &sidecar };
        let mut client = open(sidecar).await;
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        let mut instance = server.accept().await;
        instance.head().await.unwrap();
        instance.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
        client.head().await.unwrap();
        match reset {
            true => client.reset(),
            false => drop(client),
        }
        abandoned(sidecar, &mut instance, server.addr()).await;
        assert_eq!(sidecar.metric("outrigger_requests_total{code=\"200\"}").await, 1.0);
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_a_499() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    drop(client);
    abandoned(&sidecar, &mut instance, server.addr()).await;
    assert_eq!(sidecar.metric("outrigger_requests_total{code=\"499\"}").await, 1.0);
    assert_eq!(sidecar.metric("outrigger_requests_total").await, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_amid_its_upload_leaves_no_whole_request_behind() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    for head in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut client = open(&sidecar).await;
        client.send(format!("PUT / HTTP/1.1\r\nHost: t\r\n{head}")).await.unwrap();
        let mut instance = server.accept().await;
        instance.head().await.unwrap();
        drop(client);
        let mut seen = Vec::new();
        while let Ok(bytes) = instance.some().await {
            if bytes.is_empty() {
                break;
            }
            seen.extend(bytes);
        }
        assert!(seen == b"abc" || seen == b"3\r\nabc\r\n", "{}", String::from_utf8_lossy(&seen));
    }
    let service = sidecar.api("/api/services/web").await;
    assert_eq!(service["endpoints"][0]["failures"], 0, "{service}");
    // The instance may see the end a moment before it is counted.
    eventually("both are counted", SOON, async || {
        (sidecar.metric("outrigger_requests_total{code=\"499\"}").await == 2.0).then_some(())
    })
    .await;
    assert_eq!(sidecar.metric("outrigger_requests_total").await, 2.0);
}

#[tokio::test]
async fn an_upload_that_is_no_http_is_a_400() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("PUT / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    client.send("no size\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 400);
    assert_eq!(sidecar.metric("outrigger_requests_total{code=\"400\"}").await, 1.0);
}

#[tokio::test]
async fn half_an_answer_is_never_a_whole_one_for_the_client() {
    let whole = "0123456789".repeat(10);
    let server = RawServer::start(move |request| match request.head.start.split(' ').nth(1).unwrap() {
        "/length" => vec![Step::half(&whole), Step::Close],
        "/reset" => vec![Step::half(&whole), Step::Wait(Duration::from_millis(50)), Step::Reset],
        "/chunks" => vec![
            Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\nab"),
            Step::Close,
        ],
        "/last-chunk" => vec![
            Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"),
            Step::Close,
        ],
        _ => vec![
            Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nxyz\r\nabc"),
            Step::Hang,
        ],
    })
    .await;
    let sidecar = facing(server.addr(), "").await;
    let paths = ["/length", "/reset", "/chunks", "/last-chunk", "/bad-chunk"];
    for path in paths {
        let mut client = open(&sidecar).await;
        let error = client.get(path).await.expect_err(path);
        let kinds = [std::io::ErrorKind::UnexpectedEof, std::io::ErrorKind::ConnectionReset];
        assert!(kinds.contains(&error.kind()), "{path}: {error}");
    }
    assert_eq!(attempts(&sidecar, "reset").await, paths.len() as f64);
    assert_eq!(attempts(&sidecar, "success").await, 0.0);
}

#[tokio::test]
async fn an_upload_may_go_on_long_after_the_answer_and_only_standing_still_ends_it() {
    let server = ByHand::start().await;
    let more = "timeouts.idle = \"4s\"\n[limits]\nhead_timeout = \"1s\"\nkeep_alive = \"700ms\"\n";
    let sidecar = facing(server.addr(), more).await;
    let mut client = open(&sidecar).await;
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "ok");
    let mut seen = Vec::new();
    for byte in ["d", "e", "f"] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.send(byte).await.unwrap();
    }
    while seen.len() < 6 {
        let some = instance.some().await.unwrap();
        assert!(!some.is_empty(), "the end after {seen:?}");
        seen.extend(some);
    }
    assert_eq!(seen, b"abcdef");
    // From here on nothing moves.
    let begun = Instant::now();
    assert!(client.is_closed(2 * SOON).await);
    assert!(begun.elapsed() > Duration::from_millis(2500), "{:?}", begun.elapsed());
    // One that has ended leaves a connection that waits for a request, and no longer.
    let mut client = open(&sidecar).await;
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nabc").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "ok");
    client.send("def").await.unwrap();
    let begun = Instant::now();
    assert!(client.is_closed(SOON).await);
    assert!(begun.elapsed() < Duration::from_millis(3900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn interim_responses_that_nobody_reads_neither_pile_up_nor_stay() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "timeouts = { idle = \"1s\", request = \"60s\" }\n").await;
    let mut client = open(&sidecar).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    let hints = format!("HTTP/1.1 103 Early Hints\r\nX-Large: {}\r\n\r\n", "x".repeat(4000)).repeat(16);
    let before = sidecar.rss_kib();
    // They are taken for as long as the connection lasts.
    let flood = async {
        while instance.send(&hints).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (ended, highest) = peak(&sidecar, timeout(6 * SOON, flood)).await;
    assert!(highest < before + (8 << 10), "{before} KiB, then {highest} KiB");
    assert!(ended.is_ok(), "the client reads nothing, and its connection lasts");
    assert_eq!(sidecar.metric("outrigger_requests_total{code=\"499\"}").await, 1.0);
}
