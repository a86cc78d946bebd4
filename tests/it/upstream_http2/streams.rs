//! Many requests on few connections: who shares, who waits, who is held back.

use super::*;
use crate::support::web;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// So many requests at once, each on a connection of its own; all must be answered with 200.
async fn at_once(sidecar: &Sidecar, count: usize, path: &'static str) -> Vec<Response> {
    let addr = sidecar.service("web");
    let mut clients = JoinSet::new();
    for _ in 0..count {
        clients.spawn(async move { client::get(addr, path).await });
    }
    let answers = clients.join_all().await;
    assert!(
        answers.iter().all(|answer| answer.status == 200),
        "{:?}",
        answers.iter().find(|a| a.status != 200)
    );
    answers
}

#[tokio::test]
async fn many_requests_share_one_connection_and_more_open_another() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    at_once(&sidecar, 80, "/slow").await;
    assert_eq!(server.accepted(), 1);
    assert!(server.most() > 40, "{} at once", server.most());
    at_once(&sidecar, 250, "/slow").await;
    assert!((2..=3).contains(&server.accepted()), "{} connections", server.accepted());
}

#[tokio::test]
async fn an_instance_gets_no_more_at_once_than_it_takes() {
    let server = H2Server::with(Manners { max_streams: Some(1), ..Manners::default() }).await;
    let sidecar = sidecar(&[server.addr], "timeouts.keep_alive_connections = 2\n").await;
    at_once(&sidecar, 8, "/slow").await;
    assert_eq!((server.accepted(), server.most()), (2, 2));
    assert_eq!(server.resets(), []);
}

#[tokio::test]
async fn each_request_is_balanced_by_itself() {
    let servers = [H2Server::start().await, H2Server::start().await, H2Server::start().await];
    let sidecar = sidecar(&servers.each_ref().map(|server| server.addr), "").await;
    let mut client = sidecar.client("web");
    for _ in 0..30 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    for server in &servers {
        assert_eq!((server.requests().len(), server.accepted()), (10, 1));
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_its_instance_back_and_nobody_else() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = open(&sidecar).await;
        client.send("GET /endless HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        client.head().await.unwrap();
        slow.push(client);
    }
    let mut before = 0;
    eventually("the instance has come to a halt", LIMIT, async || {
        sleep(Duration::from_millis(200)).await;
        let now = server.sent();
        (std::mem::replace(&mut before, now) == now).then_some(())
    })
    .await;
    // Windows of 1 MiB, and what sockets hold (some MiB towards each client).
    assert!(server.sent() < 8 * (16 << 20), "{} bytes", server.sent());
    assert_eq!((send(&sidecar, "GET", "/").await.text(), server.accepted()), ("fine".to_owned(), 1));
    // Whoever takes again is sent more.
    while server.sent() == before {
        slow[0].some().await.unwrap();
    }
    drop(slow);
    until("all streams are cancelled", || server.resets().len() == 8).await;
    assert_eq!(server.resets(), [h2::Reason::CANCEL; 8]);
}

#[tokio::test]
async fn a_large_answer_comes_whole() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let answer = send(&sidecar, "GET", "/large").await;
    assert!(answer.body == vec![7; 32 << 20], "{} bytes", answer.body.len());
    assert_eq!(answer.header("content-length"), Some("33554432"));
}

#[tokio::test]
async fn an_instance_that_takes_nothing_holds_its_client_back() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut client = open(&sidecar).await;
    client.send("POST /deaf HTTP/1.1\r\nHost: t\r\nContent-Length: 268435456\r\n\r\n").await.unwrap();
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(500), client.send(&[7; 64 << 10])).await {
        written.unwrap();
        sent += 64 << 10;
        assert!(sent < 64 << 20, "it takes everything");
    }
    assert_eq!(send(&sidecar, "GET", "/").await.text(), "fine");
    drop(client);
    until("the stream is gone", || server.running() == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_stream_alone() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut client = open(&sidecar).await;
    client.send("GET /hang HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    until("it runs", || server.running() == 1).await;
    drop(client);
    until("it is cancelled", || server.resets() == [h2::Reason::CANCEL]).await;
    assert_eq!((send(&sidecar, "GET", "/").await.text(), server.accepted()), ("fine".to_owned(), 1));
}

#[tokio::test]
async fn an_upload_goes_on_after_its_answer() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut client = open(&sidecar).await;
    client.send("POST /early HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n01234").await.unwrap();
    let head = client.head().await.unwrap();
    assert_eq!(head.status(), Some(413));
    client.send("56789").await.unwrap();
    until("all of it came", || server.came() == 10).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "timeouts.keep_alive = \"1s\"\n").await;
    for _ in 0..3 {
        send(&sidecar, "GET", "/").await;
        sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(server.accepted(), 1, "it was in use");
    until("it is closed", || server.open() == 0).await;
    assert_eq!(send(&sidecar, "GET", "/").await.text(), "fine");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn what_runs_at_a_removed_target_finishes_or_is_cut() {
    let (old, new) = (H2Server::start().await, H2Server::start().await);
    let folder = tempfile::tempdir().unwrap();
    web::list(folder.path(), "list.toml", &[(old.addr, 1)]);
    let config = "workers = 1\n[service.web]\nfrom = \"file:list.toml\"\nhttp = \"2\"\nempty_grace = \"0s\"\n\
                  mass_removal_grace = \"0s\"\ntimeouts.drain = \"2s\"\n";
    let mut sidecar = Sidecar::launch_in(folder, config, |_| {}).await;
    sidecar.ready(LIMIT).await;
    let mut clients = [open(&sidecar).await, open(&sidecar).await];
    for (client, path) in clients.iter_mut().zip(["/hold", "/endless"]) {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).await.unwrap();
    }
    until("both run", || old.running() == 2).await;
    web::list(sidecar.folder(), "list.toml", &[(new.addr, 1)]);
    until("the new one serves", || true).await;
    eventually("the new one serves", LIMIT, async || {
        send(&sidecar, "GET", "/").await;
        (!new.requests().is_empty()).then_some(())
    })
    .await;
    old.let_go();
    assert_eq!(clients[0].response().await.unwrap().text(), "held");
    assert_eq!((old.running(), old.open()), (1, 1), "the other one goes on");
    until("it is cut", || old.open() == 0).await;
    let cut = timeout(LIMIT, async { while clients[1].some().await.is_ok_and(|bytes| !bytes.is_empty()) {} });
    cut.await.unwrap();
}
