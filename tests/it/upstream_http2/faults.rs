//! Connections and streams that break: what is tried again, where, and what the client hears.

use super::*;
use crate::support::ByHand;
use tokio::time::{Instant, timeout};

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Plays an instance by hand up to the first request on this connection; gives the number of its stream.
async fn begun(connection: &mut Connection) -> u32 {
    Played::new(connection, &[]).await.request().await
}

/// An instance that is played by hand on one connection.
struct Played<'a> {
    connection: &'a mut Connection,
    came: Vec<u8>,
    /// Where in it the next frame begins.
    at: usize,
}

impl<'a> Played<'a> {
    async fn new(connection: &'a mut Connection, settings: &[u8]) -> Self {
        connection.send(frame(4, 0, 0, settings)).await.unwrap();
        Self { connection, came: Vec::new(), at: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len() }
    }

    /// Waits for the next request; gives the number of its stream.
    async fn request(&mut self) -> u32 {
        let Self { connection, came, at } = self;
        loop {
            while came.len() < *at + 9 {
                came.extend(connection.some().await.unwrap());
            }
            let head = came[*at..*at + 9].to_vec();
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            while came.len() < *at + 9 + length {
                came.extend(connection.some().await.unwrap());
            }
            let payload = came[*at + 9..*at + 9 + length].to_vec();
            *at += 9 + length;
            match (head[3], head[4]) {
                (1, _) => return u32::from_be_bytes(head[5..9].try_into().unwrap()),
                (4, 0) => connection.send(frame(4, 1, 0, &[])).await.unwrap(),
                (6, 0) => connection.send(frame(6, 1, 0, &payload)).await.unwrap(),
                _ => {}
            }
        }
    }

    /// 204, with nothing behind it.
    async fn answer(&mut self, stream: u32) {
        self.connection.send(frame(1, 5, stream, &[0x89])).await.unwrap();
    }
}

/// What the client is told: the error's code and the detail.
fn told(answer: &Response) -> (String, String) {
    let body: serde_json::Value = answer.json();
    (body["error"].as_str().unwrap().to_owned(), body["detail"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_refused_stream_is_tried_elsewhere_whatever_its_method() {
    let good = H2Server::with(Manners { name: "good", ..Manners::default() }).await;
    let refusing = H2Server::with(Manners { name: "refusing", ..Manners::default() }).await;
    let sidecar = sidecar(&[good.addr, refusing.addr], "").await;
    for _ in 0..4 {
        // Only one path is refused, by both: it is tried at each of them.
        let answer = send(&sidecar, "POST", "/refuse").await;
        assert_eq!(answer.status, 502);
        assert_eq!(told(&answer).0, "upstream_reset");
    }
    assert_eq!((good.requests().len(), refusing.requests().len()), (4, 4));
    assert_eq!(sidecar.retried("unsent").await, 4);
}

#[tokio::test]
async fn a_stream_beyond_a_goaway_goes_again_on_another_connection_whatever_its_method() {
    let server = ByHand::start().await;
    let sidecar = sidecar(&[server.addr()], "").await;
    let asking = async {
        let request = Request::post("/x").body(client::full("body")).unwrap();
        client::request(sidecar.service("web"), request).await.unwrap()
    };
    let serving = async {
        let mut first = server.accept().await;
        begun(&mut first).await;
        // Nothing was seen.
        first.send(frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0])).await.unwrap();
        let mut second = server.accept().await;
        let stream = begun(&mut second).await;
        // 204, with nothing behind it.
        second.send(frame(1, 5, stream, &[0x89])).await.unwrap();
        (first, second)
    };
    let (answer, _connections) = tokio::join!(asking, serving);
    assert_eq!(answer.status, 204, "{}", answer.text());
}

#[tokio::test]
async fn a_place_that_is_given_back_is_not_wasted_on_one_who_cannot_use_it() {
    let server = ByHand::start().await;
    let sidecar = sidecar(&[server.addr()], "timeouts.connect = \"4s\"\nretry.attempts = 1\n").await;
    let ask = || send(&sidecar, "GET", "/");
    let one_at_a_time = [0, 3, 0, 0, 0, 1];
    let serving = async {
        let mut first = server.accept().await;
        let mut first = Played::new(&mut first, &one_at_a_time).await;
        let held = first.request().await;
        let second = ask();
        let third = async {
            let mut second = server.accept().await;
            Played::new(&mut second, &one_at_a_time).await.request().await;
            // Nothing was seen: it wants a newer connection, which does not come about.
            second.send(frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0])).await.unwrap();
            let silent = server.accept().await;
            let waiting = ask();
            let freeing = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                first.answer(held).await;
                let next = timeout(Duration::from_secs(2), first.request()).await.expect("a place is free");
                first.answer(next).await;
            };
            let (answer, ()) = tokio::join!(waiting, freeing);
            drop(silent);
            answer.status
        };
        tokio::join!(second, third)
    };
    let (first, (second, third)) = tokio::join!(ask(), serving);
    assert_eq!((first.status, third), (204, 204));
    assert_eq!(second.status, 502, "{}", second.text());
}

#[tokio::test]
async fn a_graceful_goaway_lets_what_runs_finish_and_what_comes_goes_elsewhere() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut client = open(&sidecar).await;
    client.send("GET /hold HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    until("it runs", || server.running() == 1).await;
    server.command(Command::GoAway);
    eventually("another connection", LIMIT, async || {
        assert_eq!(send(&sidecar, "POST", "/").await.status, 200);
        (server.accepted() == 2).then_some(())
    })
    .await;
    server.let_go();
    assert_eq!(client.response().await.unwrap().text(), "held");
    until("the first one is closed", || server.open() == 1).await;
}

#[tokio::test]
async fn a_body_that_is_reset_or_too_short_never_ends_well() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    for (path, length) in [("/reset-body", None), ("/short", Some("9"))] {
        let mut client = open(&sidecar).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).await.unwrap();
        // What breaks off at once takes the head along.
        let Ok(head) = client.head().await else { continue };
        assert_eq!((head.status(), head.field("content-length")), (Some(200), length));
        assert!(client.body_of(head).await.is_err(), "{path}");
    }
    assert_eq!(send(&sidecar, "GET", "/").await.text(), "fine");
}

#[tokio::test]
async fn an_answer_that_contradicts_itself_is_a_protocol_error() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let answer = send(&sidecar, "GET", "/empty-but-long").await;
    let (code, detail) = told(&answer);
    assert_eq!((answer.status, &code[..]), (502, "upstream_protocol"), "{detail}");
    assert!(detail.contains("invalid HTTP/2 response"), "{detail}");
}

#[tokio::test]
async fn a_reset_stream_is_repeated_only_if_it_may_be() {
    let servers = [H2Server::start().await, H2Server::start().await];
    let sidecar = sidecar(&servers.each_ref().map(|server| server.addr), "").await;
    let seen = || servers.iter().map(|server| server.requests().len()).sum::<usize>();
    let answer = send(&sidecar, "GET", "/reset").await;
    assert_eq!((told(&answer).0.as_str(), seen()), ("upstream_reset", 2));
    let answer = send(&sidecar, "POST", "/reset").await;
    let (code, detail) = told(&answer);
    assert_eq!((&code[..], seen()), ("upstream_reset", 3));
    assert!(detail.contains("internal error") || detail.contains("unexpected"), "{detail}");
}

#[tokio::test]
async fn a_connection_that_dies_takes_its_requests_along_and_a_safe_one_is_repeated() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    send(&sidecar, "GET", "/").await;
    let mut clients = [open(&sidecar).await, open(&sidecar).await];
    for (client, method) in clients.iter_mut().zip(["GET", "POST"]) {
        client
            .send(format!("{method} /hold HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"))
            .await
            .unwrap();
    }
    until("both run", || server.running() == 2).await;
    server.command(Command::Die);
    let answer = clients[1].response().await.unwrap();
    assert_eq!((answer.status, told(&answer).0.as_str()), (502, "upstream_reset"));
    until("the other one runs again", || server.accepted() == 2 && server.running() == 1).await;
    server.let_go();
    assert_eq!(clients[0].response().await.unwrap().text(), "held");
    assert_eq!(sidecar.retried("stale_connection").await, 1);
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_given_up() {
    let server = H2Server::start().await;
    let rules = "timeouts.request = \"500ms\"\ntimeouts.connect = \"300ms\"\nretry.attempts = 1\n";
    let sidecar = sidecar(&[server.addr], rules).await;
    assert_eq!(send(&sidecar, "GET", "/").await.status, 200);
    server.command(Command::Freeze);
    assert_eq!(send(&sidecar, "GET", "/").await.status, 504);
    eventually("a new connection", LIMIT, async || {
        (send(&sidecar, "GET", "/").await.status == 200).then_some(())
    })
    .await;
    // One that only answers slowly is kept.
    assert_eq!(send(&sidecar, "GET", "/hang").await.status, 504);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!((send(&sidecar, "GET", "/").await.status, server.accepted()), (200, 2));
    // It is not pinged again soon: the next request gets another connection instead, as it would in HTTP/1.1.
    assert_eq!(send(&sidecar, "GET", "/hang").await.status, 504);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((send(&sidecar, "GET", "/").await.status, server.accepted()), (200, 3));
}

#[tokio::test]
async fn a_connection_that_cannot_be_opened_fails_all_who_wait_for_it_at_once() {
    let server = ByHand::start().await;
    let rules = "timeouts.connect = \"700ms\"\nretry.attempts = 1\n";
    let sidecar = sidecar(&[server.addr()], rules).await;
    let begun = Instant::now();
    // It is accepted, and nothing is said: no settings, no HTTP/2.
    let answers = tokio::join!(
        send(&sidecar, "GET", "/"),
        send(&sidecar, "POST", "/"),
        send(&sidecar, "GET", "/"),
        send(&sidecar, "GET", "/"),
    );
    for answer in [answers.0, answers.1, answers.2, answers.3] {
        let (code, detail) = told(&answer);
        assert_eq!((answer.status, &code[..]), (502, "connect_failed"), "{detail}");
        assert!(detail.ends_with("no connection in time"), "{detail}");
    }
    assert!(begun.elapsed() < Duration::from_millis(1400), "{:?}", begun.elapsed());
    let _ = server.accept().await;
    assert!(timeout(Duration::from_millis(300), server.accept()).await.is_err(), "one connection for all");
}

#[tokio::test]
async fn an_answer_of_101_is_none_in_http_2() {
    let server = ByHand::start().await;
    let sidecar = sidecar(&[server.addr()], "retry.attempts = 1\n").await;
    let serving = async {
        let mut connection = server.accept().await;
        let stream = begun(&mut connection).await;
        // A status that the table lacks: the name by its number, then the value (RFC 7541, section 6.2.2).
        connection.send(frame(1, 4, stream, b"\x08\x03101")).await.unwrap();
        connection
    };
    let (answer, _connection) = tokio::join!(send(&sidecar, "GET", "/"), serving);
    let (code, detail) = told(&answer);
    assert_eq!((answer.status, &code[..]), (502, "upstream_protocol"), "{detail}");
    assert!(detail.contains("101 has no place in HTTP/2"), "{detail}");
}

#[tokio::test]
async fn an_instance_that_resets_every_stream_keeps_its_connection_and_gets_no_more_attempts() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    for turn in 0..600 {
        let answer = send(&sidecar, "GET", "/reset").await;
        assert_eq!((answer.status, told(&answer).0.as_str()), (502, "upstream_reset"), "{turn}");
    }
    assert_eq!((server.requests().len(), server.accepted()), (600, 1));
    assert_eq!(send(&sidecar, "GET", "/").await.text(), "fine");
}

#[tokio::test]
async fn a_slow_answer_to_a_ping_keeps_new_requests_away_and_ends_no_other() {
    let server = ByHand::start().await;
    let rules = "timeouts.connect = \"400ms\"\ntimeouts.request = \"500ms\"\nretry.attempts = 1\n";
    let sidecar = sidecar(&[server.addr()], rules).await;
    let mut client = open(&sidecar).await;
    client.send("GET /long HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut first = server.accept().await;
    let mut first = Played::new(&mut first, &[]).await;
    let long = first.request().await;
    // Its answer begins, so that its time is not limited any more.
    first.connection.send(frame(1, 4, long, &[0x88])).await.unwrap();
    first.connection.send(frame(0, 0, long, b"half")).await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(200));
    assert_eq!(send(&sidecar, "GET", "/late").await.status, 504);
    // The ping is here by now, and is not answered in time.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let serving = async {
        let mut second = server.accept().await;
        let mut second = Played::new(&mut second, &[]).await;
        let next = second.request().await;
        second.answer(next).await;
        second.request().await
    };
    let asking = async {
        assert_eq!(send(&sidecar, "GET", "/next").await.status, 204);
        // Reads what came in between, and answers the ping at last.
        let _ = timeout(Duration::from_millis(300), async { while first.request().await != 0 {} }).await;
        first.connection.send(frame(0, 1, long, b"whole")).await.unwrap();
    };
    tokio::select! {
        _ = serving => panic!("nobody asks twice"),
        () = asking => {}
    }
    let mut rest = Vec::new();
    while !rest.ends_with(b"0\r\n\r\n") {
        let some = client.some().await.unwrap();
        assert!(!some.is_empty(), "cut after {:?}", String::from_utf8_lossy(&rest));
        rest.extend(some);
    }
    assert!(String::from_utf8_lossy(&rest).contains("whole"), "{rest:?}");
}
