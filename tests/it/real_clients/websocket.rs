//! Python's `websockets` on both sides.

use crate::support::Sidecar;
use crate::support::clients::{Certificate, Program, Server, python};
use crate::support::web::web;

async fn server() -> Server {
    Server::start(|port| {
        let mut command = python("it/real_clients/websocket.py");
        command.args(["serve", port]);
        command
    })
    .await
}

async fn ask(url: &str, more: &[&str]) {
    let mut command = python("it/real_clients/websocket.py");
    command.args(["ask", url]).args(more);
    assert!(Program::run(command).await.contains("ok"));
}

#[tokio::test]
async fn websockets_pass_with_and_without_compression() {
    let server = server().await;
    let sidecar = Sidecar::start(&web(&[server.addr()], "")).await;
    ask(&format!("ws://{}/", sidecar.service("web")), &[]).await;
}

#[tokio::test]
async fn websockets_pass_over_tls() {
    let (server, certificate) = (server().await, Certificate::new());
    let sidecar = Sidecar::start(&web(&[server.addr()], &certificate.listen_tls("web"))).await;
    ask(&format!("wss://{}/", sidecar.service("web")), &["--ca", &certificate.authority()]).await;
}
