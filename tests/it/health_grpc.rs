//! Checks by gRPC's health checking protocol, against gRPC's own server.

use crate::health_tls::authority::Authority;
use crate::support::clients::python;
use crate::support::raw::{RawServer, Step};
use crate::support::{Sidecar, eventually};
use outrigger::health::{CheckKind, CheckSettings, Probe};
use outrigger::net::tls::{TlsClient, TlsSettings, authorities};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const LIMIT: Duration = Duration::from_secs(20);

/// gRPC's server for Python; killed when dropped.
struct Server {
    addr: SocketAddr,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Server {
    async fn start(arguments: &[&str]) -> Self {
        let mut process = Command::from(python("it/health_grpc/server.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = output.next_line().await.unwrap().expect("the server's port");
        Self { addr: format!("127.0.0.1:{port}").parse().unwrap(), input, output, _process: process }
    }

    async fn set(&mut self, service: &str, status: &str) {
        self.input.write_all(format!("{service} {status}\n").as_bytes()).await.unwrap();
        assert_eq!(self.output.next_line().await.unwrap().as_deref(), Some("done"));
    }
}

fn settings(service: &str) -> CheckSettings {
    CheckSettings { timeout: LIMIT, ..CheckSettings::new(CheckKind::Grpc(service.to_owned())) }
}

/// What one probe says: empty if it passes.
async fn said(probe: &mut Probe, addr: SocketAddr) -> String {
    probe.ask(addr).await.err().map(|e| e.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn a_server_that_serves_passes_and_one_that_does_not_says_its_status() {
    let mut server = Server::start(&[]).await;
    let (mut whole, mut orders) = (Probe::new(&settings("")), Probe::new(&settings("orders.v1.Orders")));
    for _ in 0..3 {
        assert_eq!(said(&mut whole, server.addr).await, "");
    }
    let unknown = said(&mut orders, server.addr).await;
    assert!(unknown.contains("\"orders.v1.Orders\" (NOT_FOUND)"), "{unknown}");
    server.set("orders.v1.Orders", "NOT_SERVING").await;
    assert_eq!(said(&mut orders, server.addr).await, "gRPC health: NOT_SERVING");
    assert_eq!(said(&mut whole, server.addr).await, "", "the server as a whole is another matter");
    server.set("orders.v1.Orders", "SERVING").await;
    assert_eq!(said(&mut orders, server.addr).await, "");
    server.set("", "NOT_SERVING").await;
    assert_eq!(said(&mut whole, server.addr).await, "gRPC health: NOT_SERVING");
}

#[tokio::test]
async fn who_has_no_health_service_is_told_what_to_do() {
    let server = Server::start(&["--without"]).await;
    let told = said(&mut Probe::new(&settings("")), server.addr).await;
    assert!(told.contains("UNIMPLEMENTED") && told.contains("tcp = true"), "{told}");
}

#[tokio::test]
async fn who_speaks_no_grpc_or_does_not_answer_fails_in_words() {
    let server = RawServer::deaf(vec![
        Step::send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        Step::Close,
    ])
    .await;
    let told = said(&mut Probe::new(&settings("")), server.addr()).await;
    assert!(told.contains("no gRPC") || told.contains("connection closed"), "{told}");
    let server = RawServer::deaf(vec![]).await;
    let short = CheckSettings { timeout: Duration::from_millis(200), ..settings("") };
    assert_eq!(said(&mut Probe::new(&short), server.addr()).await, "timed out after 200ms");
    let server = RawServer::deaf(vec![Step::Close]).await;
    let told = said(&mut Probe::new(&settings("")), server.addr()).await;
    assert!(!told.is_empty());
}

#[tokio::test]
async fn a_server_behind_tls_is_asked_over_tls() {
    let ours = Authority::new("ours");
    let signed = ours.sign("web", "IP:127.0.0.1");
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let server = Server::start(&["--tls", &text(&signed.cert), &text(&signed.key)]).await;
    let tls = TlsSettings {
        trusted: authorities(&ours.cert()).unwrap(),
        identity: None,
        server_name: None,
        verify: true,
        alpn: vec![b"h2".to_vec()],
    };
    let settings = CheckSettings { tls: Some(TlsClient::new(tls).unwrap()), ..settings("") };
    let mut probe = Probe::new(&settings);
    for _ in 0..2 {
        assert_eq!(said(&mut probe, server.addr).await, "");
    }
}

#[tokio::test]
async fn an_instance_that_stops_serving_gets_no_requests() {
    let (mut first, second) = (Server::start(&[]).await, Server::start(&[]).await);
    let sidecar = Sidecar::start(&format!(
        "[service.web]\nfrom = \"static://{},{}\"\n[service.web.health]\ngrpc = true\ninterval = \"100ms\"\ntimeout = \"100ms\"\n\
         unhealthy_interval = \"100ms\"\nunhealthy_interval_max = \"100ms\"\n",
        first.addr, second.addr
    ))
    .await;
    let is = async |addr: SocketAddr, state: &str| {
        eventually(state, LIMIT, async || {
            let states = sidecar.states("web").await;
            states.contains(&(addr.to_string(), state.to_owned())).then_some(())
        })
        .await;
    };
    is(first.addr, "usable").await;
    is(second.addr, "usable").await;
    first.set("", "NOT_SERVING").await;
    is(first.addr, "unhealthy").await;
    is(second.addr, "usable").await;
    first.set("", "SERVING").await;
    is(first.addr, "usable").await;
}
