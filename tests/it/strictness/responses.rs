//! What an instance answers: refused where two readers may take it for two things, cut where it is cut, else passed on in
//! one form.

use crate::support::raw::{RawServer, Step};
use crate::support::{Sidecar, facing};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// One answer to a GET.
struct Row {
    name: &'static str,
    /// The section, of RFC 9112 where no other is named.
    section: &'static str,
    bytes: String,
    must: Must,
}

enum Must {
    /// The client gets a 502 of ours.
    Refuse,
    /// The client gets a 200 whose body has no end; or nothing, if what is wrong came together with the head.
    Cut,
    /// The client gets exactly this, but for `Date` and what closes the connection.
    Pass(String),
}

fn refuse(name: &'static str, section: &'static str, bytes: impl Into<String>) -> Row {
    Row { name, section, bytes: bytes.into(), must: Must::Refuse }
}

fn cut(name: &'static str, section: &'static str, bytes: impl Into<String>) -> Row {
    Row { name, section, bytes: bytes.into(), must: Must::Cut }
}

fn pass(
    name: &'static str,
    section: &'static str,
    bytes: impl Into<String>,
    expected: impl Into<String>,
) -> Row {
    Row { name, section, bytes: bytes.into(), must: Must::Pass(expected.into()) }
}

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")
}

fn chunked(body: &str) -> String {
    ok("Transfer-Encoding: chunked\r\n", body)
}

/// The instance ends its connection after each answer.
async fn hold(method: &str, rows: Vec<Row>) {
    let rows = Arc::new(rows);
    let scripts = Arc::clone(&rows);
    let server = RawServer::start(move |request| {
        let number: usize = request.head.start.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        vec![Step::send(scripts[number].bytes.clone()), Step::Close]
    })
    .await;
    let sidecar = facing(server.addr(), "").await;
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        if let Err(why) = hold_one(&sidecar, &format!("{method} /{number}"), row).await {
            wrong.push(format!("{} ({}): {why}\n    answered {:.200?}", row.name, row.section, row.bytes));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

async fn hold_one(sidecar: &Sidecar, line: &str, row: &Row) -> Result<(), String> {
    let mut client = TcpStream::connect(sidecar.service("web")).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: t\r\nTE: trailers\r\nConnection: close, te\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(5), client.read_to_end(&mut answer)).await;
    let shown = String::from_utf8_lossy(&answer).into_owned();
    if read.is_err() {
        return Err(format!("the connection stays open after {shown:?}"));
    }
    match &row.must {
        Must::Refuse
            if shown.starts_with("HTTP/1.1 502 ")
                && shown.contains("x-outrigger-error: upstream_protocol") =>
        {
            Ok(())
        }
        Must::Refuse => Err(format!("no 502: {shown:?}")),
        Must::Cut if shown.is_empty() => Ok(()),
        Must::Cut if !shown.starts_with("HTTP/1.1 200 ") => Err(format!("no 200: {shown:?}")),
        Must::Cut if ends(&shown) => Err(format!("it ends: {shown:?}")),
        Must::Cut => Ok(()),
        Must::Pass(expected) => {
            let ours = |line: &&str| !line.starts_with("date: ") && *line != "connection: close\r\n";
            let got: String = shown.split_inclusive('\n').filter(ours).collect();
            if got == *expected { Ok(()) } else { Err(format!("got {got:?}\n    instead of {expected:?}")) }
        }
    }
}

/// Whether the body is as long as the head says.
fn ends(answer: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    match head.to_ascii_lowercase().split("content-length: ").nth(1) {
        Some(length) => body.len() >= length.split("\r\n").next().unwrap().parse().unwrap(),
        None => body.ends_with("0\r\n\r\n"),
    }
}

#[tokio::test]
async fn heads_that_are_malformed_are_a_502() {
    let nothing = "Content-Length: 0\r\n";
    let line = |line: &str| format!("{line}\r\n{nothing}\r\n");
    hold(
        "GET",
        vec![
            refuse("no HTTP at all", "4", "220 smtp.example.org\r\n"),
            refuse("HTTP/0.9", "4", "<html>hello</html>"),
            refuse("HTTP/2.0", "2.3", line("HTTP/2.0 200 OK")),
            refuse("HTTP/1.2", "2.3", line("HTTP/1.2 200 OK")),
            refuse("http/1.1", "2.3", line("http/1.1 200 OK")),
            refuse("a status of two digits", "4", line("HTTP/1.1 20 OK")),
            refuse("a status of four digits", "4", line("HTTP/1.1 2000 OK")),
            refuse("a status in letters", "4", line("HTTP/1.1 OK")),
            refuse("a negative status", "4", line("HTTP/1.1 -20 OK")),
            refuse("a status of 0", "4", line("HTTP/1.1 000 OK")),
            refuse("two spaces before the status", "4", line("HTTP/1.1  200 OK")),
            refuse("a tab before the status", "4", line("HTTP/1.1\t200 OK")),
            refuse("NUL in the reason", "4", line("HTTP/1.1 200 O\0K")),
            refuse("CR in the reason", "4", line("HTTP/1.1 200 O\rK")),
            refuse("LF after the status line", "2.2", format!("HTTP/1.1 200 OK\n{nothing}\r\n")),
            refuse("LF after a field", "2.2", ok("A: b\nContent-Length: 0\r\n", "")),
            refuse("LF after the last field", "2.2", "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n"),
            refuse("LF for the empty line", "2.2", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n"),
            refuse("LF everywhere", "2.2", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
            refuse("CR in a value", "2.2", ok("A: b\rc\r\nContent-Length: 0\r\n", "")),
            refuse("NUL in a value", "9110 5.5", ok("A: b\0c\r\nContent-Length: 0\r\n", "")),
            refuse(
                "a control character in a value",
                "9110 5.5",
                ok("A: b\x01c\r\nContent-Length: 0\r\n", ""),
            ),
            refuse("a folded value", "5.2", ok("A: b\r\n c\r\nContent-Length: 0\r\n", "")),
            refuse("a space before the first field", "2.2", ok(" A: b\r\nContent-Length: 0\r\n", "")),
            refuse("a space before a colon", "5.1", ok("A : b\r\nContent-Length: 0\r\n", "")),
            refuse("a space in a name", "5.1", ok("A B: c\r\nContent-Length: 0\r\n", "")),
            refuse("no name", "5.1", ok(": c\r\nContent-Length: 0\r\n", "")),
            refuse("no colon", "5", ok("A\r\nContent-Length: 0\r\n", "")),
            refuse("a head beyond the limit", "5", ok(&format!("A: {}\r\n", "x".repeat(500_000)), "")),
            refuse("too many fields", "5", ok(&"A: b\r\n".repeat(300), "")),
            refuse(
                "LF in an interim head",
                "2.2",
                format!("HTTP/1.1 103 Early Hints\nA: b\r\n\r\n{}", ok(nothing, "")),
            ),
            refuse(
                "a switch that nobody asked for",
                "9110 15.2.2",
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn framings_that_are_ambiguous_are_a_502() {
    let length = |length: &str| ok(&format!("Content-Length: {length}\r\n"), "abcd");
    let coding = |coding: &str| ok(&format!("Transfer-Encoding: {coding}\r\n"), "4\r\nabcd\r\n0\r\n\r\n");
    hold(
        "GET",
        vec![
            refuse("a length with a plus", "6.2", length("+4")),
            refuse("a length with a minus", "6.2", length("-4")),
            refuse("a length in hexadecimal", "6.2", length("0x4")),
            refuse("a length with a space within", "6.2", length("0 4")),
            refuse("an empty length", "6.2", length("")),
            refuse("a length of 2^64", "6.3", length("18446744073709551616")),
            refuse("a list of lengths", "6.3", length("4, 5")),
            refuse("a list of equal lengths", "6.3", length("4, 4")),
            refuse("two lengths", "6.3", ok("Content-Length: 4\r\nContent-Length: 5\r\n", "abcde")),
            refuse("gzip, then chunked", "6.1", coding("gzip, chunked")),
            refuse("chunked, then gzip", "6.1", coding("chunked, gzip")),
            refuse("chunked twice in a list", "6.1", coding("chunked, chunked")),
            refuse("chunked in two fields", "6.1", ok(&"Transfer-Encoding: chunked\r\n".repeat(2), "4\r\nabcd\r\n0\r\n\r\n")),
            refuse("identity, and chunked", "6.1", ok("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
            refuse("xchunked", "6.1", coding("xchunked")),
            refuse("chunked with a parameter", "6.1", coding("chunked;x")),
            refuse("chunks in HTTP/1.0", "6.1", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            pass("two equal lengths", "6.3", ok("Content-Length: 4\r\ncontent-length: 4\r\n", "abcd"), ok("Content-Length: 4\r\nvia: 1.1 outrigger\r\n", "abcd")),
            pass(
                "a length beside chunks means nothing",
                "6.3",
                ok("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
                ok("via: 1.1 outrigger\r\ntransfer-encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
            ),
            pass(
                "what follows the body is not the client's",
                "6.3",
                ok("Content-Length: 4\r\n", "abcdHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
                ok("Content-Length: 4\r\nvia: 1.1 outrigger\r\n", "abcd"),
            ),
            pass("a body without a length lasts to the end", "6.3", ok("", "abcd"), ok("via: 1.1 outrigger\r\ntransfer-encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n")),
            pass("204 has no body", "6.3", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nabcd", "HTTP/1.1 204 No Content\r\nvia: 1.1 outrigger\r\n\r\n"),
            pass("304 has no body", "6.3", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nabcd", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\nvia: 1.1 outrigger\r\n\r\n"),
            pass(
                "fields that Connection names end here",
                "9110 7.6.1",
                ok("Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nX-Kept: 2\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nProxy-Connection: x\r\nContent-Length: 0\r\n", ""),
                ok("X-Kept: 2\r\nContent-Length: 0\r\nvia: 1.1 outrigger\r\n", ""),
            ),
            pass(
                "an answer in HTTP/1.0",
                "9110 7.6.3",
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nVia: 1.0 inner\r\n\r\nok",
                ok("Content-Length: 2\r\nVia: 1.0 inner\r\nvia: 1.0 outrigger\r\n", "ok"),
            ),
        ],
    )
    .await;
    let to_head = ok("Content-Length: 4\r\n", "abcd");
    let expected = ok("Content-Length: 4\r\nvia: 1.1 outrigger\r\n", "");
    hold("HEAD", vec![pass("HEAD has no body", "6.3", to_head, expected)]).await;
}

#[tokio::test]
async fn bodies_that_are_cut_or_malformed_never_end_well() {
    hold(
        "GET",
        vec![
            cut("half a length", "8", ok("Content-Length: 8\r\n", "abcd")),
            cut("half a chunk", "8", chunked("8\r\nabcd")),
            cut("no last chunk", "8", chunked("4\r\nabcd\r\n")),
            cut("half a last chunk", "8", chunked("4\r\nabcd\r\n0\r\n")),
            cut("half a trailer", "8", chunked("4\r\nabcd\r\n0\r\nA: b\r\n")),
            refuse("a first size that is none", "7.1", chunked("xyz\r\nabcd\r\n0\r\n\r\n")),
            refuse("a first size of 2^64", "7.1", chunked("10000000000000000\r\nabcd\r\n0\r\n\r\n")),
            refuse("LF after the first size", "7.1", chunked("4\nabcd\r\n0\r\n\r\n")),
            cut("a size that is none", "7.1", chunked("4\r\nabcd\r\nx\r\n0\r\n\r\n")),
            cut("a size with a plus", "7.1", chunked("4\r\nabcd\r\n+1\r\na\r\n0\r\n\r\n")),
            cut("a size with 0x", "7.1", chunked("4\r\nabcd\r\n0x1\r\na\r\n0\r\n\r\n")),
            cut("a size of 2^64", "7.1", chunked("4\r\nabcd\r\n10000000000000000\r\na\r\n0\r\n\r\n")),
            cut("LF after a size", "7.1", chunked("4\r\nabcd\r\n1\na\r\n0\r\n\r\n")),
            cut("LF after the bytes", "7.1", chunked("4\r\nabcd\n0\r\n\r\n")),
            cut("more bytes than the size", "7.1", chunked("4\r\nabcde\r\n0\r\n\r\n")),
            cut("CR in an extension", "7.1.1", chunked("4\r\nabcd\r\n1;\rx\r\na\r\n0\r\n\r\n")),
            cut(
                "extensions beyond the limit",
                "7.1.1",
                chunked(&format!("4\r\nabcd\r\n1;{}\r\na\r\n0\r\n\r\n", "x".repeat(5000))),
            ),
            cut("a malformed trailer", "7.1.2", chunked("4\r\nabcd\r\n0\r\nA b: c\r\n\r\n")),
            cut("LF after a trailer", "7.1.2", chunked("4\r\nabcd\r\n0\r\nA: c\n\r\n")),
            cut(
                "a trailer beyond the limit",
                "7.1.2",
                chunked(&format!("4\r\nabcd\r\n0\r\nA: {}\r\n\r\n", "x".repeat(40_000))),
            ),
            pass(
                "trailers that frame or control are no trailers",
                "9110 6.5.1",
                ok(
                    "Transfer-Encoding: chunked\r\nTrailer: X-Sum, Content-Length\r\n",
                    "4\r\nabcd\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nConnection: x\r\n\r\n",
                ),
                ok(
                    "Trailer: X-Sum, Content-Length\r\nvia: 1.1 outrigger\r\ntransfer-encoding: chunked\r\n",
                    "4\r\nabcd\r\n0\r\nx-sum: 1\r\n\r\n",
                ),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn interim_answers_without_end_end_when_the_request_has_no_time_left() {
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100);
    let server = RawServer::start(move |_| {
        (0..1000).flat_map(|_| [Step::send(flood.clone()), Step::Wait(Duration::from_millis(5))]).collect()
    })
    .await;
    let sidecar = facing(server.addr(), "timeouts = { connect = \"500ms\", request = \"500ms\" }\n").await;
    let mut client = TcpStream::connect(sidecar.service("web")).await.unwrap();
    let begun = Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), client.read_to_end(&mut answer)).await.unwrap().unwrap();
    let shown = String::from_utf8_lossy(&answer);
    assert!(shown.contains("HTTP/1.1 103 Early Hints\r\n"));
    assert_eq!(shown.matches("HTTP/1.1 504 ").count(), 1);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
