//! curl in all the ways that it can speak.

use crate::support::clients::{Certificate, Program, Server, node};
use crate::support::web::web;
use crate::support::{Sidecar, pattern};
use std::process::Command;

async fn server() -> Server {
    Server::start(|port| {
        let mut command = node("it/real_clients/node_server.mjs");
        command.args(["1", port, "one"]);
        command
    })
    .await
}

/// What it prints: the body, then a line with the version of HTTP, the status and the number of connections it made.
async fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]);
    command.args(["--write-out", "\n%{http_version} %{response_code} %{num_connects}\n"]).args(arguments);
    Program::run(command).await
}

/// The ways to ask that every version knows, with what curl calls the version.
async fn asks(how: &[&str], url: &str, version: &str) {
    let all = |more: &[&str]| -> Vec<String> { how.iter().chain(more).map(ToString::to_string).collect() };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("upload");
    std::fs::write(&file, pattern::bytes(0..3 << 20)).expect("a file");
    let (upload, back) = (format!("@{}", file.display()), folder.path().join("back"));
    let back = back.to_str().expect("a name");
    let (root, echo, length) = (format!("{url}/"), format!("{url}/echo"), format!("{url}/length"));
    let say = async |more: &[&str]| {
        let arguments = all(more);
        curl(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    assert_eq!(say(&[&root]).await, format!("one\n{version} 200 1\n"));
    // Two on one connection, where the version can; curl 7.88 fails at it by prior knowledge, whatever the server.
    if !how.contains(&"--http2-prior-knowledge") {
        let again = u8::from(how.contains(&"--http1.0"));
        assert_eq!(say(&[&root, &root]).await, format!("one\n{version} 200 1\none\n{version} 200 {again}\n"));
    }
    let head = say(&["--head", &length]).await;
    assert!(head.to_lowercase().contains("content-length: 5\r\n"), "{head}");
    assert!(head.ends_with(&format!("\n{version} 200 1\n")), "{head}");
    // An upload with a length, for which curl expects 100 Continue on HTTP/1.1, and back again.
    let uploaded = say(&["--data-binary", &upload, "--output", back, &echo]).await;
    assert_eq!(uploaded, format!("\n{version} 200 1\n"));
    assert!(std::fs::read(back).expect("a file") == pattern::bytes(0..3 << 20));
    if how.contains(&"--http1.0") {
        return;
    }
    // One without a length: chunks on HTTP/1.1.
    let mut chunked = vec!["--header", "Content-Length:", "--data-binary", "hello", &echo];
    if version == "1.1" {
        chunked.extend(["--header", "Transfer-Encoding: chunked"]);
    }
    assert_eq!(say(&chunked).await, format!("hello\n{version} 200 1\n"));
    let hints = say(&["--include", &format!("{url}/hints")]).await;
    assert!(hints.contains(" 103") && hints.contains("after the hints"), "{hints}");
    // An answer that breaks off: 18, 56 or 92, never success.
    let mut broken = Command::new("curl");
    broken.args(["--silent", "--noproxy", "*"]).args(how).arg(format!("{url}/broken"));
    let status = broken.output().expect("curl").status;
    assert!(matches!(status.code(), Some(18 | 56 | 92)), "{status}");
}

#[tokio::test]
async fn curl_speaks_http_1_0_and_1_1() {
    let server = server().await;
    let sidecar = Sidecar::start(&web(&[server.addr()], "")).await;
    let url = format!("http://{}", sidecar.service("web"));
    asks(&["--http1.0"], &url, "1").await;
    asks(&["--http1.1"], &url, "1.1").await;
    // An offer to go on with HTTP/2 is not taken, and does not matter.
    asks(&["--http2"], &url, "1.1").await;
}

#[tokio::test]
async fn curl_speaks_http_2_by_prior_knowledge() {
    let server = server().await;
    let sidecar = Sidecar::start(&web(&[server.addr()], "")).await;
    let url = format!("http://{}", sidecar.service("web"));
    asks(&["--http2-prior-knowledge"], &url, "2").await;
}

#[tokio::test]
async fn curl_agrees_on_a_version_over_tls() {
    let (server, certificate) = (server().await, Certificate::new());
    let sidecar = Sidecar::start(&web(&[server.addr()], &certificate.listen_tls("web"))).await;
    let (url, ca) = (format!("https://{}", sidecar.service("web")), certificate.authority());
    asks(&["--cacert", &ca, "--http2"], &url, "2").await;
    asks(&["--cacert", &ca, "--http1.1"], &url, "1.1").await;
    asks(&["--cacert", &ca, "--no-alpn"], &url, "1.1").await;
}
