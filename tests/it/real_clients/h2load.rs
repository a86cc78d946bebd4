//! Many streams on few connections, by nghttp2's load generator.

use crate::support::clients::{Certificate, Program, Server, node};
use crate::support::web::web;
use crate::support::{Instance, Sidecar, alone, eventually};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const REQUESTS: u32 = 10_000;
const SOON: Duration = Duration::from_secs(10);

/// So many requests on 10 connections with 32 streams each.
fn load(url: &str, requests: u32) -> Command {
    let mut command = Command::new("h2load");
    command.args(["-n", &requests.to_string(), "-c", "10", "-m", "32", "-T", "20s", url]);
    command
}

/// Every request was answered, and well.
fn faultless(said: &str, requests: u32) {
    let counts = format!(
        "requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
    );
    assert!(said.contains(&counts), "{said}");
    assert!(said.contains(&format!("status codes: {requests} 2xx,")), "{said}");
}

async fn three() -> [Instance; 3] {
    tokio::join!(Instance::start("one"), Instance::start("two"), Instance::start("three")).into()
}

fn addrs(instances: &[Instance]) -> Vec<SocketAddr> {
    instances.iter().map(Instance::addr).collect()
}

#[tokio::test]
async fn ten_thousand_requests_over_http_2_are_answered_by_http_1_instances() {
    let _alone = alone().await;
    let instances = three().await;
    let sidecar = Sidecar::start(&web(&addrs(&instances), "")).await;
    faultless(&Program::run(load(&format!("http://{}/", sidecar.service("web")), REQUESTS)).await, REQUESTS);
    for instance in &instances {
        let share = instance.count("/").await;
        assert!(share.abs_diff(3333) < 100, "{} answered {share}", instance.name());
    }
}

#[tokio::test]
async fn ten_thousand_requests_over_tls_are_answered() {
    let _alone = alone().await;
    let (instances, certificate) = (three().await, Certificate::new());
    let sidecar = Sidecar::start(&web(&addrs(&instances), &certificate.listen_tls("web"))).await;
    let said = Program::run(load(&format!("https://{}/", sidecar.service("web")), REQUESTS)).await;
    faultless(&said, REQUESTS);
    assert!(said.contains("Application protocol: h2"), "{said}");
}

#[tokio::test]
async fn no_request_fails_while_an_instance_is_killed() {
    let _alone = alone().await;
    let mut instances = three().await;
    let sidecar = Sidecar::start(&web(&addrs(&instances), "")).await;
    let requests = 2 * REQUESTS;
    let load = Program::start(load(&format!("http://{}/", sidecar.service("web")), requests));
    eventually("the load is on", SOON, async || (instances[1].count("/").await > 500).then_some(())).await;
    instances[1].kill();
    faultless(&load.finish().await, requests);
}

#[tokio::test]
async fn no_request_fails_while_an_http_2_instance_is_killed() {
    let _alone = alone().await;
    let server = async |name: &str| {
        Server::start(|port| {
            let mut command = node("it/real_clients/node_server.mjs");
            command.args(["2", port, name]);
            command
        })
        .await
    };
    let mut servers: [Server; 3] = tokio::join!(server("one"), server("two"), server("three")).into();
    let list: Vec<_> = servers.iter().map(Server::addr).collect();
    let sidecar = Sidecar::start(&web(&list, "http = \"2\"\n")).await;
    let load = Program::start(load(&format!("http://{}/", sidecar.service("web")), REQUESTS));
    let series = format!("outrigger_endpoint_requests_total{{endpoint=\"{}\"}}", list[1]);
    eventually("the load is on", SOON, async || (sidecar.metric(&series).await > 500.0).then_some(())).await;
    servers[1].kill();
    faultless(&load.finish().await, REQUESTS);
}
