//! What a client of HTTP/2 can take from the sidecar: little, and not for ever.

use super::peer::{Frames, PREFACE, Peer, field, frame, get_block, whole};
use super::{SOON, get, open, post};
use crate::support::raw::{FullQueue, RawServer, Step};
use crate::support::{ByHand, Instance, eventually, facing};
use bytes::Bytes;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const WHOLE: u8 = END_STREAM | END_HEADERS;

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "[limits]\nstreams = 2\n").await;
    let mut frames = Frames::open(sidecar.service("web")).await;
    let (_, _, settings) = frames.next_of(SETTINGS).await.unwrap();
    let announced = settings.chunks(6).find(|one| one[..2] == [0, 3]).unwrap();
    assert_eq!(announced[2..], [0, 0, 0, 2]);
    for stream in [1, 3, 5] {
        frames.send(&frame(HEADERS, WHOLE, stream, &get_block("/"))).await;
    }
    let (_, stream, reason) = frames.next_of(RST_STREAM).await.unwrap();
    assert_eq!((stream, reason), (5, vec![0, 0, 0, 7]));
    let _ = (server.accept().await, server.accept().await);
    assert!(server.is_left_alone(Duration::from_millis(300)).await);
}

#[tokio::test]
async fn heads_that_are_too_large_are_a_431() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = open(&sidecar).await;
    let large = |bytes: usize| {
        let request = http::Request::get("http://peer.test/").header("x-large", "a".repeat(bytes));
        request.body(()).unwrap()
    };
    let many =
        (0..101).fold(http::Request::get("http://peer.test/"), |all, n| all.header(format!("x-{n}"), "1"));
    assert_eq!(peer.ask(large(66_000), b"").await.unwrap().status, 431);
    assert_eq!(peer.ask(many.body(()).unwrap(), b"").await.unwrap().status, 431);
    assert_eq!(peer.ask(large(60_000), b"").await.unwrap().status, 200);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn requests_that_are_given_up_at_once_end_the_connection() {
    let instance = Instance::start("one").await;
    let sidecar = facing(instance.addr(), "").await;
    let mut frames = Frames::open(sidecar.service("web")).await;
    let mut flood = Vec::new();
    for stream in (1..4000).step_by(2) {
        flood.extend(frame(HEADERS, WHOLE, stream, &get_block("/flood")));
        flood.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    frames.send(&flood).await;
    // What is unread at the end may turn the farewell into a reset.
    assert!(matches!(frames.ended().await, Some(11) | None));
    assert!(instance.count("/flood").await < 200, "{}", instance.count("/flood").await);
    assert_eq!(open(&sidecar).await.get("/").await.unwrap().status, 200);
}

/// So many requests, and whether each is given up while its instance is at it; the first that finds no connection.
async fn give_up(frames: &mut Frames, most: u32, gives_up: impl Fn(u32) -> bool) -> u32 {
    for turn in 0..most {
        let stream = 2 * turn + 1;
        let path = if gives_up(turn) { "/delay/400" } else { "/quick" };
        if frames.0.write_all(&frame(HEADERS, WHOLE, stream, &get_block(path))).await.is_err() {
            return turn;
        }
        // Not in one read: then the machinery itself would count it.
        tokio::time::sleep(Duration::from_millis(3)).await;
        if gives_up(turn) && frames.0.write_all(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await.is_err() {
            return turn;
        }
    }
    most
}

#[tokio::test]
async fn requests_that_are_given_up_one_by_one_end_the_connection_too() {
    let instance = Instance::start("one").await;
    let sidecar = facing(instance.addr(), "").await;
    let mut frames = Frames::open(sidecar.service("web")).await;
    let given_up = give_up(&mut frames, 2_000, |_| true).await;
    assert!((240..300).contains(&given_up), "{given_up}");
    assert!(matches!(frames.ended().await, Some(11) | None));
    // Whoever gives up now and then is no attacker.
    let mut frames = Frames::open(sidecar.service("web")).await;
    assert_eq!(give_up(&mut frames, 800, |turn| turn % 3 == 0).await, 800);
    frames.send(&frame(PING, 0, 0, &[1; 8])).await;
    assert!(frames.next_of(PING).await.is_some());
}

/// Clients of gRPC reset their calls when their time is over.
#[tokio::test]
async fn calls_that_are_given_up_at_their_deadline_are_no_abuse() {
    let instance = Instance::start("one").await;
    let sidecar = facing(instance.addr(), "http = \"1\"\n").await;
    let call = |timeout: &str| {
        let fields = [field("content-type", "application/grpc"), field("grpc-timeout", timeout)];
        [get_block("/delay/3000"), fields.concat()].concat()
    };
    let give_up = async |frames: &mut Frames, timeout: &str, after: u64| {
        for batch in 0..6 {
            let streams = || (0..100).map(move |n| 2 * (100 * batch + n) + 1);
            let begun: Vec<_> =
                streams().flat_map(|stream| frame(HEADERS, WHOLE, stream, &call(timeout))).collect();
            let ended: Vec<_> =
                streams().flat_map(|stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).collect();
            frames.0.write_all(&begun).await?;
            tokio::time::sleep(Duration::from_millis(after)).await;
            frames.0.write_all(&ended).await?;
        }
        frames.0.write_all(&frame(PING, 0, 0, &[1; 8])).await
    };
    let mut frames = Frames::open(sidecar.service("web")).await;
    give_up(&mut frames, "400m", 300).await.unwrap();
    assert!(frames.next_of(PING).await.is_some());
    // A deadline alone is no licence.
    let mut frames = Frames::open(sidecar.service("web")).await;
    if give_up(&mut frames, "400m", 20).await.is_ok() {
        assert!(matches!(frames.ended().await, Some(11) | None));
    }
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    for payload in [&b""[..], &field("x-more", &"a".repeat(8000))] {
        let mut frames = Frames::open(sidecar.service("web")).await;
        frames.send(&frame(HEADERS, END_STREAM, 1, &get_block("/"))).await;
        for _ in 0..2000 {
            frames.send(&frame(CONTINUATION, 0, 1, payload)).await;
        }
        assert!(matches!(frames.ended().await, Some(11) | None));
    }
    assert!(server.is_left_alone(Duration::ZERO).await);
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let before = sidecar.rss_kib();
    for flood in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, b"")] {
        let flood = flood.repeat(10_000);
        let mut frames = Frames::open(sidecar.service("web")).await;
        // It stops to read when we do.
        let sending = async {
            for _ in 0..400 {
                frames.send(&flood).await;
            }
        };
        let _ = timeout(Duration::from_secs(3), sending).await;
        let grown = sidecar.rss_kib().saturating_sub(before);
        assert!(grown < 6_000, "{grown} KiB");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_stalls_its_instance_alone() {
    let instance = Instance::start("one").await;
    let sidecar = facing(instance.addr(), "timeouts.idle = \"3s\"\n").await;
    let mut peer =
        Peer::with(sidecar.service("web"), h2::client::Builder::new().initial_window_size(1 << 20)).await;
    assert_eq!(peer.get("/").await.unwrap().status, 200);
    let before = sidecar.rss_kib();
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(peer.begin(get("/bytes/200000000"), true).await.0.await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = sidecar.rss_kib().saturating_sub(before);
    assert!(grown < 12_000, "{grown} KiB for 1.6 GB");
    // Another connection does not mind; and the stalled ones end, if nobody begins to read in time.
    assert_eq!(open(&sidecar).await.get("/").await.unwrap().status, 200);
    tokio::time::sleep(Duration::from_secs(4)).await;
    for answer in answers {
        let error = whole(answer).await.unwrap_err();
        assert!(error.is_reset(), "{error}");
    }
}

#[tokio::test]
async fn a_window_that_stays_shut_ends_the_stream() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "timeouts.idle = \"1s\"\n").await;
    let mut peer =
        Peer::with(sidecar.service("web"), h2::client::Builder::new().initial_window_size(0)).await;
    let (answer, _send) = peer.begin(get("/"), true).await;
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await.unwrap();
    let mut answer = answer.await.unwrap().into_body();
    let error = timeout(SOON, answer.data()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    assert!(instance.is_closed(SOON).await);
}

#[tokio::test]
async fn an_upload_goes_no_faster_than_the_instance_takes_it() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "retry.body_limit = \"0B\"\n").await;
    let mut peer = open(&sidecar).await;
    let (_answer, mut send) = peer.begin(post("/"), false).await;
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    let block = Bytes::from(vec![b'a'; 16 << 10]);
    let mut sent = 0;
    let sending = async {
        loop {
            send.reserve_capacity(block.len());
            while send.capacity() < block.len() {
                if std::future::poll_fn(|cx| send.poll_capacity(cx)).await.is_none() {
                    return;
                }
            }
            send.send_data(block.clone(), false).unwrap();
            sent += block.len();
        }
    };
    let _ = timeout(Duration::from_secs(2), sending).await;
    // What the sockets between us hold, and one window.
    assert!(sent < 12 << 20, "{sent} bytes");
    let mut taken = 0;
    while taken < 1 << 20 {
        taken += instance.some().await.unwrap().len();
    }
    send.reserve_capacity(block.len());
    let more = timeout(SOON, std::future::poll_fn(|cx| send.poll_capacity(cx)));
    assert!(more.await.unwrap().unwrap().unwrap() > 0, "it goes on when the instance does");
}

#[tokio::test]
async fn a_body_that_never_comes_ends_its_request_alone() {
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = facing(server.addr(), "timeouts.idle = \"1s\"\n").await;
    let mut peer = open(&sidecar).await;
    let begun = Instant::now();
    let (answer, _send) = peer.begin(post("/"), false).await;
    let answer = whole(timeout(SOON, answer).await.unwrap().unwrap()).await;
    // The answer is whole, or the stream is over already: the client has not ended its side.
    if let Ok(answer) = answer {
        assert_eq!(answer.status, 400);
    }
    assert!(begun.elapsed() >= Duration::from_millis(900));
    assert_eq!(peer.get("/").await.unwrap().text(), "ok");
}

#[tokio::test]
async fn an_upload_that_stalls_after_its_answer_ends_without_blame() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "timeouts.idle = \"1s\"\n").await;
    let mut peer = open(&sidecar).await;
    let (answer, mut send) = peer.begin(post("/"), false).await;
    send.send_data(Bytes::from_static(b"some"), false).unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "ok");
    let reset = timeout(SOON, std::future::poll_fn(|cx| send.poll_reset(cx))).await.unwrap();
    assert_eq!(reset.unwrap(), h2::Reason::NO_ERROR);
    instance.reads(b"4\r\nsome\r\n").await;
    assert!(instance.is_closed(SOON).await);
}

#[tokio::test]
async fn connections_that_say_nothing_whole_end() {
    let server = ByHand::start().await;
    let config = "[limits]\nhead_timeout = \"1s\"\nkeep_alive = \"1s\"\n";
    let sidecar = facing(server.addr(), config).await;
    let begin = [
        // Half a preface, a whole one and nothing more, half a head.
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(HEADERS, END_STREAM, 1, &get_block("/"))].concat(),
    ];
    for begin in begin {
        let mut frames = Frames(TcpStream::connect(sidecar.service("web")).await.unwrap());
        frames.send(&begin).await;
        let begun = Instant::now();
        assert!(matches!(frames.ended().await, Some(0) | None), "{begin:?}");
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}: {begin:?}", begun.elapsed());
    }
    eventually("nobody is left", SOON, async || {
        (sidecar.metric("outrigger_connections{side=\"client\"}").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn small_frames_may_fill_the_windows() {
    const DATA: u8 = 0;
    // No instance takes anything: there is no connection yet.
    let silent = FullQueue::new();
    let sidecar = facing(silent.addr(), "timeouts = { connect = \"20s\", request = \"20s\" }\n").await;
    let mut frames = Frames::open(sidecar.service("web")).await;
    let head = [field(":method", "POST"), get_block("/")[field(":method", "GET").len()..].to_vec()].concat();
    // Messages of seven bytes, as many as a window has room for.
    for stream in [1, 3, 5] {
        frames.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
        frames.send(&frame(DATA, 0, stream, &[7; 7]).repeat((64 << 10) / 7)).await;
    }
    frames.send(&frame(PING, 0, 0, &[1; 8])).await;
    loop {
        let (kind, flags, _, payload) = frames.next().await.expect("the connection goes on");
        assert_ne!(kind, 7, "{payload:?}");
        if kind == PING && flags == 1 {
            break;
        }
    }
}
