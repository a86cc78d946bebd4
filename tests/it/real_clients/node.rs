//! Node's HTTP/1.1 and HTTP/2 clients, in front of Node's HTTP/1.1 and HTTP/2 servers.

use crate::support::Sidecar;
use crate::support::clients::{Certificate, Program, Server, node};
use crate::support::web::web;

/// What every pair must do.
const ALL: [&str; 10] =
    ["many", "trailers", "hints", "large", "broken", "cancel", "tunnel", "head", "cookies", "expect"];

async fn server(version: &str, files: &[&str]) -> Server {
    Server::start(|port| {
        let mut command = node("it/real_clients/node_server.mjs");
        command.args([version, port, "one"]).args(files);
        command
    })
    .await
}

/// The client's version of HTTP, the instance's, and rules of the service between them.
async fn pair(client: &str, instance: &str, rules: &str) {
    let server = server(instance, &[]).await;
    let sidecar = Sidecar::start(&web(&[server.addr()], rules)).await;
    let mut command = node("it/real_clients/node_client.mjs");
    command.args([client, &format!("http://{}", sidecar.service("web"))]).args(ALL);
    Program::run(command).await;
    let service = sidecar.api("/api/services/web").await;
    assert_eq!(service["endpoints"][0]["in_flight"], 0, "{service}");
}

#[tokio::test]
async fn http_1_clients_reach_http_1_instances() {
    pair("1", "1", "").await;
}

#[tokio::test]
async fn http_1_clients_reach_http_2_instances() {
    pair("1", "2", "http = \"2\"\n").await;
}

#[tokio::test]
async fn http_2_clients_reach_http_1_instances() {
    pair("2", "1", "").await;
}

#[tokio::test]
async fn http_2_clients_reach_http_2_instances() {
    pair("2", "2", "http = \"2\"\n").await;
}

#[tokio::test]
async fn both_clients_reach_both_kinds_of_instance_over_tls() {
    let certificate = Certificate::new();
    let (key, cert) = (certificate.key(), certificate.cert());
    let files = [key.as_str(), cert.as_str()];
    let (one, two) = tokio::join!(server("1", &files), server("2", &files));
    for instance in [&one, &two] {
        // Node makes hundreds of handshakes at once in one thread.
        let rules = format!(
            "[service.web.timeouts]\nconnect = \"10s\"\n[service.web.tls]\nca_cert = {:?}\n{}",
            certificate.authority(),
            certificate.listen_tls("web")
        );
        let sidecar = Sidecar::start(&web(&[instance.addr()], &rules)).await;
        for client in ["1", "2"] {
            let mut command = node("it/real_clients/node_client.mjs");
            command.args([
                client,
                &format!("https://{}", sidecar.service("web")),
                "--ca",
                &certificate.authority(),
            ]);
            Program::run({
                command.args(ALL);
                command
            })
            .await;
        }
    }
}
