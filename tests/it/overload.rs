//! Own limits, and services without a usable instance.

use crate::support::client::{self, Client, Response};
use crate::support::raw::{RawServer, Step};
use crate::support::web::{list, refusing, service, web};
use crate::support::{Instance, Sidecar, eventually};
use http::Request;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);

/// One request at a time per target; `waiting` more may wait for `wait`.
fn narrow(name: &str, addrs: &[SocketAddr], waiting: u32, wait: &str, more: &str) -> String {
    let limits = format!(
        "{more}\n[service.{name}.limits]\nin_flight_per_target = 1\nwaiting = {waiting}\nwait = \"{wait}\""
    );
    service(name, addrs, &limits)
}

/// What it answered, and how long that took.
async fn timed(addr: SocketAddr, path: &str) -> (Duration, Response) {
    let begun = Instant::now();
    let answer = client::get(addr, path).await;
    (begun.elapsed(), answer)
}

fn facts(answer: &Response) -> &str {
    answer.header("x-outrigger-error").unwrap_or_default()
}

/// Waits until so many requests run at instances, and so many wait for room.
async fn busy(sidecar: &Sidecar, name: &str, in_flight: u64, waiting: u64) {
    eventually(&format!("{in_flight} run, {waiting} wait"), SOON, async || {
        let service: Value = sidecar.api(&format!("/api/services/{name}")).await;
        let run =
            service["endpoints"].as_array()?.iter().filter_map(|e| e["in_flight"].as_u64()).sum::<u64>();
        (run == in_flight && service["waiting"] == waiting).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_finds_the_queue_full_is_refused_at_once_and_who_waits_too_long_later() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::start(&narrow("web", &[instance.addr()], 1, "800ms", "")).await;
    let addr = sidecar.service("web");
    let first = timed(addr, "/delay/4000");
    let second = async {
        busy(&sidecar, "web", 1, 0).await;
        timed(addr, "/second").await
    };
    let third = async {
        busy(&sidecar, "web", 1, 1).await;
        let third = timed(addr, "/third").await;
        let request = Request::post("/grpc").header("content-type", "application/grpc");
        let grpc = client::request(addr, request.body(client::empty()).unwrap()).await.unwrap();
        (third, grpc)
    };
    let (first, (waited, second), ((took, third), grpc)) = tokio::join!(first, second, third);
    assert_eq!(first.1.status, 200);
    assert!(waited >= Duration::from_millis(800) && waited < Duration::from_secs(3), "{waited:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    for answer in [second, third] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert!(facts(&answer).starts_with("overloaded; service=web; known=1; usable=1"), "{answer:?}");
        assert_eq!(answer.json::<Value>()["error"], "overloaded");
    }
    // Trailers-only: RESOURCE_EXHAUSTED.
    assert_eq!((grpc.status, grpc.header("grpc-status"), grpc.body.len()), (200, Some("8"), 0));
    assert_eq!(grpc.header("content-type"), Some("application/grpc"));
    assert!(grpc.header("grpc-message").unwrap().starts_with("overloaded"), "{grpc:?}");
    assert_eq!(instance.counts().await.len(), 1, "only the first was let through");
    busy(&sidecar, "web", 0, 0).await;
}

#[tokio::test]
async fn who_waits_is_served_when_there_is_room() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::start(&narrow("web", &[instance.addr()], 1, "10s", "")).await;
    let addr = sidecar.service("web");
    let second = async {
        busy(&sidecar, "web", 1, 0).await;
        timed(addr, "/second").await
    };
    let (first, (waited, second)) = tokio::join!(timed(addr, "/delay/700"), second);
    assert_eq!((first.1.status, second.status), (200, 200));
    assert!(waited < Duration::from_secs(5), "the place was free after 0.7 s: {waited:?}");
}

#[tokio::test]
async fn nobody_waits_longer_than_his_request_may_take() {
    let instance = Instance::start("a").await;
    let more = "[service.web.timeouts]\nrequest = \"1s\"";
    let sidecar = Sidecar::start(&narrow("web", &[instance.addr()], 9, "20s", more)).await;
    let addr = sidecar.service("web");
    let second = async {
        busy(&sidecar, "web", 1, 0).await;
        timed(addr, "/second").await
    };
    // An answer whose head is there is not bounded by it.
    let (_, (waited, second)) = tokio::join!(timed(addr, "/slow-body/300"), second);
    assert_eq!((second.status, second.header("retry-after")), (503, Some("1")));
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_millis(2_600), "{waited:?}");
}

/// Many more clients than places, none of whom is to be forgotten in the queue.
#[tokio::test]
async fn a_queue_that_is_long_enough_loses_nobody() {
    let (a, b) = (Instance::start("a").await, Instance::start("b").await);
    let config = "workers = 2\n".to_owned() + &narrow("web", &[a.addr(), b.addr()], 16, "10s", "");
    let sidecar = Sidecar::start(&config).await;
    let addr = sidecar.service("web");
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        clients.spawn(async move {
            let mut client = Client::new(addr);
            let mut slowest = Duration::ZERO;
            for _ in 0..60 {
                let begun = Instant::now();
                let answer = client.get("/").await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
    }
    while let Some(slowest) = clients.join_next().await {
        let slowest = slowest.unwrap();
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    }
    assert_eq!(a.count("/").await + b.count("/").await, 16 * 60);
    busy(&sidecar, "web", 0, 0).await;
}

/// A picker gives up after some draws; the only target with room must be found all the same.
#[tokio::test]
async fn the_last_free_target_among_many_is_found_without_waiting() {
    let mut servers = Vec::new();
    for _ in 0..14 {
        servers.push(RawServer::always(vec![Step::Wait(Duration::from_secs(2)), Step::ok("")]).await);
    }
    let addrs: Vec<_> = servers.iter().map(RawServer::addr).collect();
    let sidecar = Sidecar::start(&narrow("web", &addrs, 0, "1s", "balance = \"random\"")).await;
    let addr = sidecar.service("web");
    let mut clients = JoinSet::new();
    for _ in 0..14 {
        clients.spawn(async move { client::get(addr, "/").await.status });
    }
    assert_eq!(clients.join_all().await, [200; 14]);
    assert!(servers.iter().all(|server| server.requests().len() == 1));
}

/// One of two answers 503, the other one is full: the request waits for its place there like anyone.
#[tokio::test]
async fn a_retry_waits_for_room_too_and_what_it_has_is_passed_on_if_there_is_none() {
    let busy_one = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    let (refusing, live) =
        (RawServer::always(vec![Step::send(busy_one)]).await, Instance::start("live").await);
    let addrs = [refusing.addr(), live.addr()];
    let config = narrow("short", &addrs, 4, "300ms", "") + &narrow("long", &addrs, 4, "10s", "");
    let sidecar = Sidecar::start(&config).await;
    for (name, expected) in [("short", "busy"), ("long", "live")] {
        let addr = sidecar.service(name);
        let seen = live.count("/delay/1500").await;
        let others = async {
            // Wherever it goes first, the slow one ends at the one that works.
            eventually("it is full", SOON, async || (live.count("/delay/1500").await > seen).then_some(()))
                .await;
            client::get(addr, "/").await
        };
        let (slow, answer) = tokio::join!(client::get(addr, "/delay/1500"), others);
        assert_eq!((slow.status, slow.instance()), (200, "live"));
        assert_eq!(answer.text(), expected);
        assert_eq!(answer.header("x-outrigger-error"), None);
    }
}

#[tokio::test]
async fn an_empty_list_is_503_with_a_time_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    list(folder.path(), "web.toml", &[]);
    let sidecar = Sidecar::launch_in(folder, "[service.web]\nfrom = \"file:web.toml\"", |_| {}).await;
    let begun = Instant::now();
    let answer = sidecar.get("web", "/").await;
    assert!(begun.elapsed() < Duration::from_secs(3), "there is nothing to wait for");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(facts(&answer).starts_with("no_endpoints; service=web; known=0; usable=0"), "{answer:?}");
    assert_eq!(answer.json::<Value>()["error"], "no_endpoints");
    // A list that says so is an answer like any other: filled, it serves.
    let instance = Instance::start("a").await;
    list(sidecar.folder(), "web.toml", &[(instance.addr(), 1)]);
    eventually("it serves", SOON, async || (sidecar.get("web", "/").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn when_all_are_unhealthy_the_answer_says_how_many_are_known() {
    let instance = Instance::start("sick").await;
    instance.set_health(500).await;
    let checks = "panic = \"0%\"\n[service.web.health]\nhttp = \"/health\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\nfall = 1";
    let sidecar = Sidecar::launch(&web(&[instance.addr(), refusing()], checks)).await;
    let answer = eventually("none is usable", SOON, async || {
        let answer = sidecar.get("web", "/").await;
        facts(&answer).starts_with("no_usable_endpoint").then_some(answer)
    })
    .await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, None));
    assert!(facts(&answer).contains("; known=2; usable=0"), "{}", facts(&answer));
    let request = Request::post("/").header("content-type", "application/grpc+proto");
    let grpc = client::request(sidecar.service("web"), request.body(client::empty()).unwrap()).await.unwrap();
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")));
}

#[tokio::test]
async fn who_is_listed_with_weight_0_is_known_but_not_usable() {
    let instance = Instance::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    list(folder.path(), "web.toml", &[(instance.addr(), 0)]);
    let sidecar = Sidecar::launch_in(folder, "[service.web]\nfrom = \"file:web.toml\"", |_| {}).await;
    let answer = sidecar.get("web", "/").await;
    assert_eq!(answer.status, 503);
    assert!(facts(&answer).starts_with("no_usable_endpoint; service=web; known=1; usable=0"), "{answer:?}");
    assert_eq!(client::get(sidecar.admin(), "/readyz").await.status, 503);
    list(sidecar.folder(), "web.toml", &[(instance.addr(), 1)]);
    eventually("it serves", SOON, async || (sidecar.get("web", "/").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_request_before_the_first_list_is_held_and_served() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::launch("[service.web]\nfrom = \"file:web.toml\"").await;
    let appear = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        list(sidecar.folder(), "web.toml", &[(instance.addr(), 1)]);
    };
    let ((took, answer), ()) = tokio::join!(timed(sidecar.service("web"), "/"), appear);
    assert_eq!((answer.status, answer.instance()), (200, "a"));
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn a_list_that_never_comes_is_waited_for_five_seconds_or_as_long_as_the_request_may_take() {
    let config = "[service.web]\nfrom = \"file:none.toml\"\n\
        [service.brief]\nfrom = \"file:none.toml\"\n[service.brief.timeouts]\nrequest = \"1s\"";
    let sidecar = Sidecar::launch(config).await;
    let (long, short) =
        tokio::join!(timed(sidecar.service("web"), "/"), timed(sidecar.service("brief"), "/"));
    for ((took, answer), seconds) in [(long, 5), (short, 1)] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert!(facts(&answer).starts_with("no_endpoints; service="), "{answer:?}");
        let least = Duration::from_secs(seconds);
        assert!(took >= least && took < least + Duration::from_secs(2), "{took:?}");
    }
}
