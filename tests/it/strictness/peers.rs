//! What a good hop does besides, and peers get wrong.

use super::recorder::Recorder;
use crate::support::client::Connection;
use crate::support::raw::{RawServer, Step};
use crate::support::{ByHand, Sidecar, facing};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

async fn open(sidecar: &Sidecar) -> Connection {
    Connection::open(sidecar.service("web")).await.unwrap()
}

#[tokio::test]
async fn max_forwards_counts_down_and_the_last_hop_answers_itself() {
    let recorder = Recorder::start().await;
    let sidecar = facing(recorder.addr(), "").await;
    let ask = async |method: &str, hops: &str| {
        let before = recorder.connections();
        let mut client = open(&sidecar).await;
        let secrets = "Authorization: Basic eA==\r\nCookie: a=b\r\nX-Mine: 1\r\n";
        client
            .send(format!("{method} /a HTTP/1.1\r\nHost: t\r\nMax-Forwards: {hops}\r\n{secrets}\r\n"))
            .await
            .unwrap();
        let answer = client.response().await.unwrap();
        let seen = String::from_utf8(recorder.since(before).concat()).unwrap();
        (answer, seen)
    };
    for (method, hops, left) in [
        ("OPTIONS", "1", "0"),
        ("TRACE", "2", "1"),
        ("OPTIONS", "18446744073709551616", "18446744073709551616"),
        ("OPTIONS", "x", "x"),
        ("GET", "0", "0"),
        ("POST", "1", "1"),
    ] {
        let (answer, seen) = ask(method, hops).await;
        assert_eq!(answer.status, 200);
        assert!(seen.contains(&format!("\r\nMax-Forwards: {left}\r\n")), "{method} {hops}: {seen}");
    }
    let (options, seen) = ask("OPTIONS", "0").await;
    assert_eq!((options.status, options.header("content-length"), &*seen), (200, Some("0"), ""));
    let (trace, seen) = ask("TRACE", "0").await;
    assert_eq!((trace.status, trace.header("content-type"), &*seen), (200, Some("message/http"), ""));
    let text = trace.text();
    assert!(text.starts_with("TRACE /a HTTP/1.1\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    assert!(text.contains("x-mine: 1\r\n") && text.contains("max-forwards: 0\r\n"), "{text}");
    assert!(!text.contains("Basic") && !text.contains("a=b"), "{text}");
}

#[tokio::test]
async fn via_is_added_in_both_directions() {
    let server =
        RawServer::always(vec![Step::send("HTTP/1.1 200 OK\r\nVia: 1.0 inner\r\nContent-Length: 0\r\n\r\n")])
            .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\nVia: 1.0 outer\r\n\r\n").await.unwrap();
    let answer = client.response().await.unwrap();
    let vias = |fields: &[(String, String)]| -> Vec<String> {
        fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("via"))
            .map(|(_, via)| via.clone())
            .collect()
    };
    assert_eq!(vias(&answer.headers), ["1.0 inner", "1.1 outrigger"]);
    assert_eq!(vias(&server.requests()[0].head.fields), ["1.0 outer", "1.1 outrigger"]);
}

#[tokio::test]
async fn clients_of_http_1_0_get_neither_interim_answers_nor_a_switch_nor_chunks() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client
        .send(
            "POST / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\
             Content-Length: 4\r\n\r\nbody",
        )
        .await
        .unwrap();
    let mut instance = server.accept().await;
    let (head, body) = instance.request().await.unwrap();
    assert_eq!((head.field("upgrade"), head.field("connection"), &*body), (None, None, &b"body"[..]));
    instance
        .send(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .await
        .unwrap();
    let head = client.head().await.unwrap();
    assert_eq!((head.status(), head.is_chunked()), (Some(200), false));
    assert_eq!(client.body_of(head).await.unwrap().text(), "hello");
    // A switch is a fault here, whatever the instance thinks.
    let mut client = open(&sidecar).await;
    client.send("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    // On the connection that is there.
    instance.head().await.unwrap();
    instance
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().status, 502);
    assert!(client.is_closed(SOON).await);
}

#[tokio::test]
async fn trailers_and_early_hints_pass_together() {
    let server = RawServer::always(vec![
        Step::send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"),
        Step::send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-After\r\n\r\n2\r\nok\r\n0\r\nX-After: 1\r\n\r\n",
        ),
    ])
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = open(&sidecar).await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: t\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             2\r\nhi\r\n0\r\nX-Sum: 42\r\n\r\n",
        )
        .await
        .unwrap();
    let early = client.head().await.unwrap();
    assert_eq!((early.status(), early.field("link")), (Some(103), Some("</a.css>; rel=preload")));
    let answer = client.response().await.unwrap();
    assert_eq!(
        (answer.text().as_str(), answer.trailers),
        ("ok", vec![("x-after".to_owned(), "1".to_owned())])
    );
    let seen = server.requests().pop().unwrap();
    assert_eq!((&*seen.body, seen.trailers), (&b"hi"[..], vec![("x-sum".to_owned(), "42".to_owned())]));
}

#[tokio::test]
async fn large_heads_pass_whole_in_both_directions() {
    // As metadata of gRPC comes: one value of 30 KB; and 32 KB in many fields.
    let one = format!("x-metadata-bin: {}\r\n", "A".repeat(30_000));
    let many: String = (0..64).map(|n| format!("x-field-{n:02}: {}\r\n", "b".repeat(500))).collect();
    for fields in [one, many] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
        let server = RawServer::always(vec![Step::send(answer)]).await;
        let sidecar = facing(server.addr(), "").await;
        let mut client = open(&sidecar).await;
        for _ in 0..3 {
            client.send(format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n")).await.unwrap();
            let answer = client.response().await.unwrap();
            assert_eq!(answer.status, 200);
            let seen = server.requests().pop().unwrap().head.fields;
            for line in fields.lines() {
                let (name, value) = line.split_once(": ").unwrap();
                for came in [&seen, &answer.headers] {
                    assert!(came.iter().any(|(n, v)| n == name && v == value), "{name}");
                }
            }
        }
    }
}
