//! What gRPC means by its fields: deadlines, statuses in head and trailers, answers of our own. Over HTTP/1.1, where a test
//! sees every byte; frames are another matter.

use crate::http2::peer::{Peer, whole};
use crate::support::client::{Connection, Response};
use crate::support::raw::{RawServer, Request, Step};
use crate::support::{ByHand, Sidecar, facing};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(5);

/// A sidecar with the service `web` at these addresses.
async fn before(addrs: &[SocketAddr], more: &str) -> Sidecar {
    let addrs: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    Sidecar::start(&format!(
        "workers = 1\n[service.web]\nfrom = \"static://{}\"\nhttp = \"1\"\n{more}",
        addrs.join(",")
    ))
    .await
}

/// A call with these fields besides those of any call.
async fn call(sidecar: &Sidecar, fields: &str) -> Response {
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    client.send(post(fields)).await.unwrap();
    timeout(2 * SOON, client.response()).await.unwrap().unwrap()
}

fn post(fields: &str) -> String {
    format!(
        "POST /pkg.Service/Method HTTP/1.1\r\nHost: t\r\nContent-Type: application/grpc+proto\r\nTE: trailers\r\n\
         {fields}Transfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n0\r\n\r\n"
    )
}

/// Nothing but a status.
fn only(status: u32) -> Step {
    Step::send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: {status}\r\ngrpc-message: no%20room\r\nContent-Length: 0\r\n\r\n"
    ))
}

/// A message, and a status after it.
fn message_and(status: u32) -> Step {
    Step::send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: {status}\r\n\r\n"
    ))
}

fn status(answer: &Response) -> Option<&str> {
    let trailer = answer.trailers.iter().find(|(name, _)| name == "grpc-status").map(|(_, value)| &**value);
    answer.header("grpc-status").or(trailer)
}

#[tokio::test]
async fn a_call_that_one_instance_is_unavailable_for_goes_to_another() {
    let busy = RawServer::always(vec![only(14)]).await;
    let free = RawServer::always(vec![message_and(0)]).await;
    let sidecar = before(&[busy.addr(), free.addr()], "").await;
    for _ in 0..10 {
        let answer = call(&sidecar, "").await;
        assert_eq!((answer.status, status(&answer), answer.body.len()), (200, Some("0"), 5));
    }
    let (asked, retried) =
        (busy.requests().len() as f64, sidecar.metric("outrigger_retries_total{reason=\"status\"}").await);
    assert!(asked >= 1.0 && asked == retried, "{asked} {retried}");
    assert_eq!(sidecar.metric("outrigger_upstream_attempts_total{outcome=\"unavailable\"}").await, asked);
    // The whole body went to both.
    assert!(busy.requests().iter().chain(&free.requests()).all(|request| request.body == [0; 5]));
}

#[tokio::test]
async fn what_is_not_unavailable_is_passed_on() {
    let server = RawServer::start(|request| {
        let wanted = request.head.field("x-wanted").unwrap().parse().unwrap();
        vec![if request.head.field("x-late").is_some() { message_and(wanted) } else { only(wanted) }]
    })
    .await;
    let other = RawServer::start(|request| {
        let wanted = request.head.field("x-wanted").unwrap().parse().unwrap();
        vec![if request.head.field("x-late").is_some() { message_and(wanted) } else { only(wanted) }]
    })
    .await;
    let sidecar = before(&[server.addr(), other.addr()], "").await;
    let outcomes = async |outcome: &str| {
        sidecar.metric(&format!("outrigger_upstream_attempts_total{{outcome=\"{outcome}\"}}")).await
    };
    // INTERNAL, UNAVAILABLE behind a message and DATA_LOSS are the instance's; none is retried.
    for (fields, expected) in [
        ("x-wanted: 13\r\n", "13"),
        ("x-wanted: 15\r\n", "15"),
        ("x-wanted: 14\r\nx-late: 1\r\n", "14"),
        ("x-wanted: 13\r\nx-late: 1\r\n", "13"),
    ] {
        assert_eq!(status(&call(&sidecar, fields).await), Some(expected), "{fields}");
    }
    assert_eq!((outcomes("server_error").await, outcomes("unavailable").await), (3.0, 1.0));
    assert_eq!(outcomes("success").await, 0.0);
    // NOT_FOUND, RESOURCE_EXHAUSTED, UNKNOWN, UNAUTHENTICATED are the caller's, or may be.
    for wanted in ["5", "8", "2", "16"] {
        for late in ["", "x-late: 1\r\n"] {
            let answer = call(&sidecar, &format!("x-wanted: {wanted}\r\n{late}")).await;
            assert_eq!(status(&answer), Some(wanted));
        }
    }
    assert_eq!((outcomes("server_error").await, outcomes("success").await), (3.0, 8.0));
    assert_eq!(sidecar.metric("outrigger_retries_total").await, 0.0);
    assert_eq!(server.requests().len() + other.requests().len(), 12);
}

#[tokio::test]
async fn an_answer_that_is_unavailable_everywhere_is_the_instances_own() {
    let (one, two) = (RawServer::always(vec![only(14)]).await, RawServer::always(vec![only(14)]).await);
    let sidecar = before(&[one.addr(), two.addr()], "").await;
    let answer = call(&sidecar, "").await;
    assert_eq!((status(&answer), answer.header("grpc-message")), (Some("14"), Some("no%20room")));
    assert_eq!((one.requests().len(), two.requests().len()), (1, 1));
    assert_eq!(answer.header("x-outrigger-error"), None);
    // The same fields mean nothing in a request that is no gRPC.
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(one.requests().len() + two.requests().len(), 3);
}

/// A deadline that an instance was given, in milliseconds.
fn given(request: &Request) -> f64 {
    let values: Vec<_> = request.head.fields.iter().filter(|(name, _)| name == "grpc-timeout").collect();
    assert_eq!(values.len(), 1, "{:?}", request.head);
    let (digits, unit) = values[0].1.split_at(values[0].1.len() - 1);
    let count: f64 = digits.parse().unwrap();
    count
        * match unit {
            "S" => 1000.0,
            "m" => 1.0,
            "u" => 0.001,
            other => panic!("{other}"),
        }
}

#[tokio::test]
async fn each_attempt_is_given_what_is_left_of_the_deadline() {
    let slow = RawServer::always(vec![Step::Wait(Duration::from_millis(300)), only(14)]).await;
    let free = RawServer::always(vec![only(0)]).await;
    let sidecar = before(&[slow.addr(), free.addr()], "").await;
    for _ in 0..4 {
        assert_eq!(status(&call(&sidecar, "grpc-timeout: 5S\r\n").await), Some("0"));
    }
    assert!(!slow.requests().is_empty());
    for request in slow.requests() {
        assert!((4000.0..=5000.0).contains(&given(&request)), "{}", given(&request));
    }
    let late = free.requests().iter().filter(|request| given(request) <= 4700.0).count();
    assert_eq!(late, slow.requests().len(), "those that came after 300 ms at the other");
    // It is the whole call's: our own time limit, which is for the head, makes it no shorter.
    let sidecar = before(&[free.addr()], "timeouts.request = \"2s\"\n").await;
    call(&sidecar, "grpc-timeout: 1H\r\n").await;
    let last = free.requests().pop().unwrap();
    assert!((3_598_000.0..=3_600_000.0).contains(&given(&last)), "{}", given(&last));
    // None is made up, and what cannot be read is left to the instance.
    call(&sidecar, "").await;
    assert_eq!(free.requests().pop().unwrap().head.field("grpc-timeout"), None);
    call(&sidecar, "grpc-timeout: soon\r\n").await;
    assert_eq!(free.requests().pop().unwrap().head.field("grpc-timeout"), Some("soon"));
}

#[tokio::test]
async fn a_deadline_that_is_over_is_told_as_grpc_tells_it() {
    let server = RawServer::always(vec![Step::Hang]).await;
    let sidecar = facing(server.addr(), "http = \"1\"\n").await;
    for (fields, least) in [("grpc-timeout: 300m\r\n", 300), ("grpc-timeout: 1n\r\n", 0)] {
        let begun = Instant::now();
        let answer = call(&sidecar, fields).await;
        assert_eq!((answer.status, status(&answer)), (200, Some("4")), "{fields}");
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert!(answer.header("grpc-message").unwrap().starts_with("timeout: "));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(least) && took < SOON, "{fields}: {took:?}");
    }
}

#[tokio::test]
async fn a_deadline_does_not_wait_for_the_callers_own_messages() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "http = \"1\"\n").await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    let whole = post("grpc-timeout: 500m\r\n");
    client.send(whole.strip_suffix("0\r\n\r\n").unwrap()).await.unwrap();
    let _instance = server.accept().await;
    let begun = Instant::now();
    let answer = timeout(SOON, client.response()).await.unwrap().unwrap();
    assert_eq!(status(&answer), Some("4"));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_call_that_its_client_gives_up_ends_at_the_instance() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "http = \"1\"\n").await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    client.send(post("")).await.unwrap();
    let mut instance = server.accept().await;
    instance.request().await.unwrap();
    instance
        .send("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n")
        .await
        .unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(200));
    drop(client);
    assert!(instance.is_closed(SOON).await);
    assert_eq!(sidecar.metric("outrigger_upstream_attempts_total{outcome=\"abandoned\"}").await, 1.0);
}

/// A head and a message, and nothing more.
const BEGUN: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: grpc-status\r\n\
                     Transfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n";

#[tokio::test]
async fn a_deadline_bounds_the_whole_call() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "http = \"1\"\n").await;
    // Over HTTP/1.1 there is no end but to break off.
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    client.send(post("grpc-timeout: 600m\r\n")).await.unwrap();
    let mut instance = server.accept().await;
    instance.request().await.unwrap();
    instance.send(BEGUN).await.unwrap();
    let begun = Instant::now();
    let head = client.head().await.unwrap();
    assert!(client.body_of(head).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(instance.is_closed(SOON).await);
    // Over HTTP/2 the status says it.
    let mut peer = Peer::open(sidecar.service("web")).await;
    let call = http::Request::post("http://peer.test/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "600m");
    // The caller has not said all of it either.
    let (answer, _send) = peer.begin(call.body(()).unwrap(), false).await;
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send(BEGUN).await.unwrap();
    let answer = timeout(SOON, async { whole(answer.await.unwrap()).await.unwrap() }).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 5));
    assert_eq!(answer.trailers["grpc-status"], "4");
    assert!(answer.trailers["grpc-message"].to_str().unwrap().starts_with("timeout: "));
    assert!(instance.is_closed(SOON).await);
    assert_eq!(sidecar.metric("outrigger_upstream_attempts_total{outcome=\"abandoned\"}").await, 2.0);
    // The connection goes on, and what ends in time is left alone.
    let (answer, mut send) =
        peer.begin(http::Request::post("http://peer.test/").body(()).unwrap(), false).await;
    send.send_data("x".into(), true).unwrap();
    let mut instance = server.accept().await;
    instance.request().await.unwrap();
    instance.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(whole(answer.await.unwrap()).await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_call_that_another_sidecars_instance_may_have_begun_is_not_made_again() {
    let told = |code: &str| {
        Step::send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: 14\r\n\
             X-Outrigger-Error: {code}; service=web; known=1; usable=1\r\nContent-Length: 0\r\n\r\n"
        ))
    };
    for (code, attempts) in [("upstream_reset", 1), ("no_usable_endpoint", 2), ("connect_failed", 2)] {
        let servers = [RawServer::always(vec![told(code)]).await, RawServer::always(vec![told(code)]).await];
        let sidecar = before(&servers.each_ref().map(RawServer::addr), "").await;
        assert_eq!(status(&call(&sidecar, "").await), Some("14"), "{code}");
        assert_eq!(servers.iter().map(|server| server.requests().len()).sum::<usize>(), attempts, "{code}");
    }
}
