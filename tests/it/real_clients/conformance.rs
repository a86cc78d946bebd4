//! The cases of `tests/conformance` that need no more than a Python environment, against the sidecar alone.

use crate::support::clients::{Certificate, Program, Server, node, python};
use crate::support::web::web;
use crate::support::{Sidecar, alone};

/// All cases of a suite at the service `web`; its last line says how many there are.
async fn passes(suite: &str, sidecar: &Sidecar, flags: &[&str]) {
    let mut command = python(suite);
    command.args([&sidecar.service("web").to_string(), "/dev/null"]).args(flags);
    let said = Program::run(command).await;
    assert!(said.ends_with(" cases, 0 failed\n"), "{said}");
}

#[tokio::test]
async fn frames_requests_and_compression_are_treated_as_the_standards_say() {
    let _alone = alone().await;
    let server = Server::start(|port| {
        let mut command = node("it/real_clients/node_server.mjs");
        command.args(["1", port, "one"]);
        command
    })
    .await;
    let sidecar = Sidecar::start(&web(&[server.addr()], "")).await;
    passes("conformance/http2.py", &sidecar, &["--known"]).await;
    let certificate = Certificate::new();
    let sidecar = Sidecar::start(&web(&[server.addr()], &certificate.listen_tls("web"))).await;
    passes("conformance/http2.py", &sidecar, &["--known", "--tls"]).await;
}

#[tokio::test]
async fn websockets_over_http_2_work_as_over_http_1() {
    let server = Server::start(|port| {
        let mut command = python("it/real_clients/websocket.py");
        command.args(["serve", port]);
        command
    })
    .await;
    let sidecar = Sidecar::start(&web(&[server.addr()], "")).await;
    passes("conformance/websocket_http2.py", &sidecar, &[]).await;
}
