//! Request bodies that are sent again, and those too large to be kept for it.

use super::{code, digest, post, send};
use crate::support::client::{self, Connection};
use crate::support::raw::{RawServer, Step};
use crate::support::web::{refusing, web};
use crate::support::{Instance, Sidecar, eventually, pattern};
use http::Request;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const KIB: u64 = 1024;

/// One that reads each request whole and resets, one that works.
async fn resetting_and_live() -> (RawServer, Instance) {
    (RawServer::always(vec![Step::Reset]).await, Instance::start("live").await)
}

#[tokio::test]
async fn a_body_below_the_limit_is_sent_again_byte_for_byte() {
    let (broken, live) = resetting_and_live().await;
    let sidecar = Sidecar::start(&web(&[broken.addr(), live.addr()], "")).await;
    for length in [1, 60 * KIB, 64 * KIB] {
        for _ in 0..3 {
            let answer = send(&sidecar, post(length, Some("k"))).await;
            assert_eq!((answer.status, answer.text()), (200, digest(length)));
        }
        let seen: Vec<_> = broken.requests().into_iter().filter(|r| r.body.len() as u64 == length).collect();
        assert!(!seen.is_empty() && seen.iter().all(|r| r.body == pattern::bytes(0..length)), "{length}");
    }
    assert_eq!(live.count("/digest").await, 9);
}

#[tokio::test]
async fn a_body_above_the_limit_is_not_sent_again_once_too_much_of_it_was_passed_on() {
    let (broken, live) = resetting_and_live().await;
    let sidecar = Sidecar::start(&web(&[broken.addr(), live.addr()], "")).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let answer = send(&sidecar, post(70 * KIB, Some("k"))).await;
        match answer.status {
            200 => assert_eq!(answer.text(), digest(70 * KIB)),
            _ => assert_eq!((answer.status, code(&answer)), (502, "upstream_reset")),
        }
        statuses.push(answer.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    assert_eq!((sidecar.denied("body_too_large").await, sidecar.retried("reset").await), (2, 0));
    assert_eq!((broken.requests().len(), live.count("/digest").await), (2, 2));
}

#[tokio::test]
async fn however_large_a_body_is_a_refused_connection_has_taken_nothing_of_it() {
    let live = Instance::start("live").await;
    let sidecar = Sidecar::start(&web(&[refusing(), live.addr()], "")).await;
    for _ in 0..4 {
        assert_eq!(send(&sidecar, post(500 * KIB, None)).await.text(), digest(500 * KIB));
    }
    assert!(sidecar.retried("connect_failed").await >= 2);
    assert_eq!(live.count("/digest").await, 4);
}

#[tokio::test]
async fn chunks_and_trailers_are_sent_again() {
    let (broken, live) = resetting_and_live().await;
    let sidecar = Sidecar::start(&web(&[broken.addr(), live.addr()], "")).await;
    let expected = digest(10).replace('\n', "") + "\nx-sum: 42\n";
    for _ in 0..4 {
        let mut client = Connection::open(sidecar.service("web")).await.unwrap();
        let head = "PUT /digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
        client.send(head).await.unwrap();
        let body = pattern::bytes(0..10);
        for piece in body.chunks(5) {
            let chunk = [b"5\r\n", piece, b"\r\n"].concat();
            client.send(chunk).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.send("0\r\nX-Sum: 42\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), expected);
    }
    assert_eq!(live.count("/digest").await, 4);
    let seen = broken.requests();
    assert!(!seen.is_empty());
    for request in seen {
        assert_eq!(
            (request.body, request.trailers),
            (pattern::bytes(0..10), vec![("x-sum".into(), "42".into())])
        );
    }
}

#[tokio::test]
async fn an_empty_body_in_chunks_is_sent_again_too() {
    let (broken, live) = resetting_and_live().await;
    let sidecar = Sidecar::start(&web(&[broken.addr(), live.addr()], "")).await;
    for _ in 0..4 {
        let mut client = Connection::open(sidecar.service("web")).await.unwrap();
        client.send("PUT /digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.send("0\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), digest(0));
    }
    assert_eq!(live.count("/digest").await, 4);
    assert!(!broken.requests().is_empty());
}

/// The instance answers before the upload has ended: the other one must get all of it all the same.
#[tokio::test]
async fn an_early_refusal_is_retried_with_the_whole_of_a_body_that_is_still_coming() {
    let (listener, live) =
        (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), Instance::start("live").await);
    let busy = listener.local_addr().unwrap();
    let mut refusing = JoinSet::new();
    refusing.spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                stream.read_buf(&mut seen).await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").await.unwrap();
            open.push(stream);
        }
    });
    let sidecar = Sidecar::start(&web(&[busy, live.addr()], "")).await;
    let body = pattern::bytes(0..20_000);
    for _ in 0..4 {
        let mut client = Connection::open(sidecar.service("web")).await.unwrap();
        client.send("PUT /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 20000\r\n\r\n").await.unwrap();
        for piece in body.chunks(4_000) {
            client.send(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, digest(20_000)));
    }
    assert!(sidecar.retried("status").await >= 1);
}

#[tokio::test]
async fn what_all_bodies_together_may_keep_is_bounded_and_given_back() {
    let (broken, live) = resetting_and_live().await;
    let config = web(&[broken.addr(), live.addr()], "[limits]\nreplay_bytes = \"40KiB\"");
    let sidecar = Sidecar::start(&config).await;
    let all_repeated = async |count| {
        for _ in 0..count {
            assert_eq!(send(&sidecar, post(30 * KIB, Some("k"))).await.text(), digest(30 * KIB));
        }
        assert_eq!(sidecar.denied("body_too_large").await, 0);
    };
    // More than fits at once, one after the other.
    all_repeated(10).await;
    assert!(broken.requests().len() >= 3);

    // An upload that stands still keeps its share.
    let mut slow = Connection::open(sidecar.service("web")).await.unwrap();
    let head = format!("PUT /digest HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", 30 * KIB + 1);
    slow.send([head.as_bytes(), &pattern::bytes(0..30 * KIB)].concat()).await.unwrap();
    let in_flight = "outrigger_endpoint_in_flight{service=\"web\"}";
    eventually("the slow upload runs", Duration::from_secs(10), async || {
        (sidecar.count(in_flight).await == 1).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = broken.requests().len();
    for _ in 0..4 {
        let answer = send(&sidecar, post(30 * KIB, Some("k"))).await;
        assert!(matches!(answer.status, 200 | 502), "{}", answer.status);
    }
    let failed = (broken.requests().len() - before) as u64;
    assert!(failed >= 1);
    assert_eq!(sidecar.denied("body_too_large").await, failed);
    // What is small still fits.
    for _ in 0..4 {
        assert_eq!(send(&sidecar, post(KIB, Some("k"))).await.text(), digest(KIB));
    }

    slow.send(pattern::bytes(30 * KIB..30 * KIB + 1)).await.unwrap();
    slow.response().await.unwrap();
    drop(slow);
    for _ in 0..4 {
        assert_eq!(send(&sidecar, post(30 * KIB, Some("k"))).await.text(), digest(30 * KIB));
    }
    assert_eq!(sidecar.denied("body_too_large").await, failed);
    assert_eq!(client::get(live.addr(), "/").await.status, 200);
}

/// A client that goes away amid its upload gives back what was kept for it.
#[tokio::test]
async fn an_upload_that_breaks_off_gives_its_memory_back() {
    let (broken, live) = resetting_and_live().await;
    let config = web(&[broken.addr(), live.addr()], "[limits]\nreplay_bytes = \"40KiB\"");
    let sidecar = Sidecar::start(&config).await;
    for _ in 0..6 {
        let mut gone = Connection::open(sidecar.service("web")).await.unwrap();
        gone.send("PUT /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 40000\r\n\r\n").await.unwrap();
        gone.send(pattern::bytes(0..30 * KIB)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        gone.reset();
    }
    eventually("nothing runs", Duration::from_secs(10), async || {
        (sidecar.count("outrigger_endpoint_in_flight{service=\"web\"}").await == 0).then_some(())
    })
    .await;
    for _ in 0..4 {
        assert_eq!(send(&sidecar, post(30 * KIB, Some("k"))).await.text(), digest(30 * KIB));
    }
    let request = Request::put("/digest").body(client::full(pattern::bytes(0..39 * KIB))).unwrap();
    assert_eq!(send(&sidecar, request).await.text(), digest(39 * KIB));
    assert_eq!(sidecar.denied("body_too_large").await, 0);
}

#[tokio::test]
async fn a_body_in_tiny_chunks_costs_little_more_than_its_bytes() {
    const UPLOADS: usize = 10;
    const CHUNKS: usize = 30_000;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let config = web(&[listener.local_addr().unwrap()], "");
    let arrived = Arc::new(AtomicUsize::new(0));
    let mut reading = JoinSet::new();
    let count = Arc::clone(&arrived);
    reading.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            open.spawn(async move {
                let mut piece = vec![0; 1 << 16];
                while let Ok(length @ 1..) = stream.read(&mut piece).await {
                    count.fetch_add(length, Relaxed);
                }
            });
        }
    });
    let sidecar = Sidecar::start(&config).await;
    let mut clients = Vec::new();
    for _ in 0..UPLOADS {
        let mut client = Connection::open(sidecar.service("web")).await.unwrap();
        client.send("PUT / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        client.send("1\r\nx\r\n").await.unwrap();
        clients.push(client);
    }
    let before = sidecar.rss_kib();
    let chunks = "1\r\nx\r\n".repeat(CHUNKS / 30);
    for _ in 0..30 {
        for client in &mut clients {
            client.send(&chunks).await.unwrap();
        }
    }
    eventually("all chunks arrive", Duration::from_secs(60), async || {
        (arrived.load(Relaxed) >= UPLOADS * CHUNKS * "1\r\nx\r\n".len()).then_some(())
    })
    .await;
    let more = sidecar.rss_kib().saturating_sub(before);
    assert!(more < 8 << 10, "{more} KiB for {} bytes", UPLOADS * CHUNKS);
}

#[tokio::test]
async fn a_client_that_pauses_its_upload_is_not_blamed_on_the_instance() {
    let (first, second) = (Instance::start("a").await, Instance::start("b").await);
    let config =
        web(&[first.addr(), second.addr()], "timeouts = { connect = \"600ms\", request = \"600ms\" }");
    let sidecar = Sidecar::start(&config).await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    client.send("PUT /digest HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n").await.unwrap();
    client.send(pattern::bytes(0..5)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.send(pattern::bytes(5..10)).await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, digest(10)));
    assert_eq!(sidecar.attempted("success").await, 1);
    assert_eq!(sidecar.count("outrigger_upstream_attempts_total").await, 1);
    assert_eq!(sidecar.count("outrigger_retries_total").await, 0);
}
