//! Connections on which nobody asks: what they cost, and that nobody notices that they rest.

use crate::support::client::Connection;
use crate::support::{ByHand, Instance, Sidecar, alone, eventually, facing, sockets};
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(10);
/// After this long without a request every connection rests.
const REST: Duration = Duration::from_millis(1200);
const CLIENTS: &str = "outrigger_connections{side=\"client\"}";

/// A connection that has made one request, and rests since.
async fn rested(sidecar: &Sidecar) -> Connection {
    let mut connection = Connection::open(sidecar.service("web")).await.unwrap();
    assert_eq!(connection.get("/").await.unwrap().status, 200);
    sleep(REST).await;
    connection
}

async fn serving(workers: usize, more: &str) -> (Instance, Sidecar) {
    let instance = Instance::start("a").await;
    let config =
        format!("workers = {workers}\n{more}[service.web]\nfrom = \"static://{}\"\n", instance.addr());
    let sidecar = Sidecar::start(&config).await;
    (instance, sidecar)
}

/// Lets this process open as many files as it may; how many connections it may open in one test.
fn most_connections() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // Half of what a process may open is a client's share in the sidecar; other tests run beside this one.
    maximum.map_or(10_000, |files| usize::try_from(files / 2).unwrap().saturating_sub(500).min(10_000))
}

async fn eventually_open(sidecar: &Sidecar, count: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let count = count as f64;
    eventually(&format!("{count} connections"), SOON * 3, async || {
        (sidecar.metric(CLIENTS).await == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_costs_little_memory() {
    const COUNT: usize = 2000;
    let _alone = alone().await;
    most_connections();
    let (_instance, sidecar) = serving(2, "[limits]\nkeep_alive = \"10m\"\n").await;
    let addr = sidecar.service("web");
    let open = async |asks: bool, count: usize| {
        let mut connections = Vec::new();
        for _ in 0..count {
            let mut connection = Connection::open(addr).await.unwrap();
            if asks {
                assert_eq!(connection.get("/").await.unwrap().status, 200);
            }
            connections.push(connection);
        }
        sleep(REST).await;
        connections
    };
    // What is needed once for all of them is no matter here.
    let mut all = open(true, 100).await;
    for asks in [false, true] {
        let before = sidecar.rss_kib();
        all.extend(open(asks, COUNT).await);
        let each = (sidecar.rss_kib().saturating_sub(before)) * 1024 / COUNT as u64;
        assert!(each < 6 << 10, "{each} bytes for each connection that asked: {asks}");
    }
    eventually_open(&sidecar, all.len()).await;
}

#[tokio::test]
async fn as_many_connections_as_the_default_limit_allows_are_served() {
    let _alone = alone().await;
    let count = most_connections();
    let (_instance, sidecar) = serving(2, "").await;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(Connection::open(sidecar.service("web")).await.unwrap());
    }
    eventually_open(&sidecar, count).await;
    for connection in all.iter_mut().step_by(100) {
        let answer = timeout(SOON, connection.get("/")).await.expect("an answer in time");
        assert_eq!(answer.unwrap().status, 200);
    }
    drop(all);
    eventually_open(&sidecar, 0).await;
}

#[tokio::test]
async fn a_rested_connection_understands_all_that_a_fresh_one_does() {
    let (_instance, sidecar) = serving(1, "").await;
    let mut connection = rested(&sidecar).await;
    assert_eq!(connection.get("/status/201").await.unwrap().status, 201);
    sleep(REST).await;
    for byte in b"GET /status/202 HTTP/1.1\r\nHost: t\r\n\r\n" {
        connection.send([*byte]).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(connection.response().await.unwrap().status, 202);
    sleep(REST).await;
    let three: String = [201, 404, 203]
        .iter()
        .map(|code| format!("GET /status/{code} HTTP/1.1\r\nHost: t\r\n\r\n"))
        .collect();
    connection.send(three).await.unwrap();
    for code in [201, 404, 203] {
        assert_eq!(connection.response().await.unwrap().status, code);
    }
    sleep(REST).await;
    // Larger than what is read at once; part of it only when it is asked for.
    let body = "0123456789".repeat(10_000);
    connection
        .send(format!("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n{body}"))
        .await
        .unwrap();
    assert_eq!(connection.response().await.unwrap().text(), body);
    sleep(REST).await;
    connection
        .send(
            "POST /digest HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .await
        .unwrap();
    assert_eq!(connection.head().await.unwrap().status(), Some(100));
    connection.send("3\r\nyes\r\n0\r\n\r\n").await.unwrap();
    assert!(connection.response().await.unwrap().text().starts_with("3 "));
    sleep(REST).await;
    connection.send("GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(connection.response().await.unwrap().status, 400, "no Host");
    assert!(connection.is_closed(SOON).await);
}

#[tokio::test]
async fn what_came_together_with_the_request_before_a_rest_is_not_lost() {
    let (_instance, sidecar) = serving(1, "").await;
    let mut connection = rested(&sidecar).await;
    connection.send("GET /status/201 HTTP/1.1\r\nHost: t\r\n\r\nGET /status/2").await.unwrap();
    assert_eq!(connection.response().await.unwrap().status, 201);
    sleep(REST).await;
    connection.send("02 HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert_eq!(connection.response().await.unwrap().status, 202);
    // An empty line after a request is nothing.
    connection.send("GET /status/203 HTTP/1.1\r\nHost: t\r\n\r\n\r\n").await.unwrap();
    assert_eq!(connection.response().await.unwrap().status, 203);
    sleep(REST).await;
    assert_eq!(connection.get("/status/201").await.unwrap().status, 201);
    connection.send("\r\n").await.unwrap();
    sleep(REST).await;
    assert_eq!(connection.get("/status/202").await.unwrap().status, 202);
}

#[tokio::test]
async fn an_answer_that_the_client_takes_slowly_is_not_cut_by_a_rest() {
    const SIZE: usize = 16 << 20;
    let (_instance, sidecar) = serving(1, "").await;
    let mut connection = rested(&sidecar).await;
    connection.send(format!("GET /bytes/{SIZE} HTTP/1.1\r\nHost: t\r\n\r\n")).await.unwrap();
    let head = connection.head().await.unwrap();
    // The instance is done, hyper is not: what it has not written yet waits for this client.
    sleep(REST * 2).await;
    assert_eq!(connection.body_of(head).await.unwrap().body.len(), SIZE);
    sleep(REST).await;
    assert_eq!(connection.get("/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_rested_connection_can_leave_http_behind_and_hears_interim_responses() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    sleep(REST).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    instance.head().await.unwrap();
    instance.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(103));
    instance.send("HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 204);
    sleep(REST).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nearly").await.unwrap();
    instance.head().await.unwrap();
    instance
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(101));
    instance.reads(b"early").await;
    sleep(REST).await;
    instance.send("late").await.unwrap();
    client.reads(b"late").await;
    client.send("later").await.unwrap();
    instance.reads(b"later").await;
    assert_eq!(sidecar.metric(CLIENTS).await, 1.0);
}

#[tokio::test]
async fn resting_connections_end_when_their_time_is_up_and_not_before() {
    let (_instance, sidecar) = serving(1, "[limits]\nkeep_alive = \"4s\"\nhead_timeout = \"1s\"\n").await;
    let began = Instant::now();
    let mut silent = Connection::open(sidecar.service("web")).await.unwrap();
    let mut asked = rested(&sidecar).await;
    let mut busy = rested(&sidecar).await;
    let ends = async |connection: &mut Connection| {
        assert!(connection.is_closed(SOON).await);
        began.elapsed()
    };
    let asks = async {
        for _ in 0..8 {
            sleep(Duration::from_millis(700)).await;
            assert_eq!(busy.get("/").await.unwrap().status, 200);
        }
    };
    let (silent, asked, ()) = tokio::join!(ends(&mut silent), ends(&mut asked), asks);
    for (end, name) in [(silent, "silent"), (asked, "asked")] {
        assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&end), "{name}: {end:?}");
    }
    // A head that has begun has its own clock, also if it came together with the request before.
    sleep(REST).await;
    let mut behind = rested(&sidecar).await;
    let began = Instant::now();
    busy.send("GET /").await.unwrap();
    behind.send("GET / HTTP/1.1\r\nHost: t\r\n\r\nGET /").await.unwrap();
    assert_eq!(behind.response().await.unwrap().status, 200);
    let ends = async |connection: &mut Connection| {
        assert!(connection.is_closed(SOON).await);
        began.elapsed()
    };
    for (end, name) in
        <[_; 2]>::from(tokio::join!(ends(&mut busy), ends(&mut behind))).into_iter().zip(["busy", "behind"])
    {
        assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&end), "{name}: {end:?}");
    }
}

#[tokio::test]
async fn invariant_11_a_stop_ends_resting_connections_and_loses_no_request_on_its_way_to_them() {
    let (_instance, mut sidecar) = serving(2, "").await;
    let addr = sidecar.service("web");
    let mut connections = Vec::new();
    for number in 0..40 {
        let mut connection = Connection::open(addr).await.unwrap();
        if number % 2 == 0 {
            assert_eq!(connection.get("/").await.unwrap().status, 200);
        }
        connections.push(connection);
    }
    sleep(REST).await;
    // The kernel takes it all while the process sleeps: it wakes to the requests and the signal at once.
    sidecar.signal("STOP");
    let (asking, _quiet) = connections.split_at_mut(20);
    for connection in asking.iter_mut() {
        connection.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    }
    let begun = Instant::now();
    sidecar.signal("TERM");
    sidecar.signal("CONT");
    let answers = join_all(asking.iter_mut().map(|c| timeout(SOON, c.response()))).await;
    let answered = answers.iter().filter(|a| matches!(a, Ok(Ok(answer)) if answer.status == 200)).count();
    assert_eq!(answered, 20, "{answers:?}");
    let closed = join_all(connections.iter_mut().map(|c| c.is_closed(SOON))).await;
    assert_eq!(closed, [true; 40], "all end, with or without a request");
    sidecar.stop_was_asked().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "nothing was waited for: {:?}", begun.elapsed());
}

#[tokio::test]
async fn invariant_11_a_head_that_begins_after_a_rest_is_waited_for() {
    let (_instance, mut sidecar) = serving(1, "").await;
    let mut connection = rested(&sidecar).await;
    connection.send("GET / HT").await.unwrap();
    sleep(REST).await;
    sidecar.signal("TERM");
    sleep(REST).await;
    connection.send("TP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert_eq!(connection.response().await.unwrap().status, 200);
    assert!(connection.is_closed(SOON).await);
    sidecar.stop_was_asked().await;
}

/// How many of these clients' connections each worker has.
fn shares(sidecar: &Sidecar, clients: &[TcpStream]) -> Vec<usize> {
    let ports: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap().port()).collect();
    let ours: BTreeSet<_> = sockets::connections(sidecar.id(), &ports).into_keys().collect();
    let mut shares: Vec<_> = sockets::polled(sidecar.id())
        .iter()
        .map(|polled| polled.intersection(&ours).count())
        .filter(|&count| count > 0)
        .collect();
    shares.sort_unstable();
    shares
}

#[tokio::test]
async fn few_connections_are_spread_evenly_whatever_listener_they_come_to() {
    let instance = Instance::start("a").await;
    let services: String =
        (0..3).map(|n| format!("[service.s{n}]\nfrom = \"static://{}\"\n", instance.addr())).collect();
    let sidecar = Sidecar::start(&format!("workers = 2\n{services}")).await;
    let addrs: Vec<SocketAddr> = (0..3).map(|n| sidecar.service(&format!("s{n}"))).collect();
    let become_even = async |clients: &[TcpStream]| {
        let even = vec![clients.len() / 2; 2];
        eventually("an even spread", SOON, async || (shares(&sidecar, clients) == even).then_some(())).await;
    };
    for round in 0..10 {
        // All at the same moment, each to the next listener.
        let connecting = (0..4).map(|n| TcpStream::connect(addrs[(round + n) % addrs.len()]));
        let mut clients: Vec<_> = join_all(connecting).await.into_iter().map(Result::unwrap).collect();
        become_even(&clients).await;
        // Two of one worker leave; whoever comes next takes their places.
        let pairs = [(0, 1), (0, 2), (0, 3)];
        let together = pairs.into_iter().find(|&(a, b)| {
            let ports: Vec<_> = [a, b].map(|n: usize| clients[n].local_addr().unwrap().port()).into();
            let ours: BTreeSet<_> = sockets::connections(sidecar.id(), &ports).into_keys().collect();
            sockets::polled(sidecar.id()).iter().any(|polled| polled.is_superset(&ours))
        });
        let (first, second) = together.expect("two with one worker");
        clients.remove(second);
        clients.remove(first);
        eventually_open(&sidecar, 2).await;
        assert_eq!(shares(&sidecar, &clients), [2]);
        clients.extend([
            TcpStream::connect(addrs[0]).await.unwrap(),
            TcpStream::connect(addrs[0]).await.unwrap(),
        ]);
        become_even(&clients).await;
        drop(clients);
        eventually_open(&sidecar, 0).await;
    }
}
