//! Python's grpcio on both sides.

use crate::support::clients::{Certificate, Program, Server, python};
use crate::support::web::{refusing, web};
use crate::support::{Sidecar, alone, eventually};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

async fn server(name: &str, flags: &[&str]) -> Server {
    Server::start(|port| {
        let mut command = python("it/real_clients/grpc_server.py");
        command.args([port, name]).args(flags);
        command
    })
    .await
}

async fn three() -> [Server; 3] {
    tokio::join!(server("one", &[]), server("two", &[]), server("three", &[])).into()
}

fn addrs(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(Server::addr).collect()
}

fn client(addr: SocketAddr, cases: &[&str]) -> Command {
    let mut command = python("it/real_clients/grpc_client.py");
    command.arg(addr.to_string()).args(cases);
    command
}

async fn call(addr: SocketAddr, cases: &[&str]) {
    let said = Program::run(client(addr, cases)).await;
    for case in cases {
        assert!(said.contains(&format!("ok {case}\n")), "{said}");
    }
}

#[tokio::test]
async fn all_that_a_grpc_client_does_works_through_the_proxy() {
    let server = server("one", &[]).await;
    let sidecar = Sidecar::start(&web(&[server.addr()], "")).await;
    let cases = ["kinds", "metadata", "errors", "deadlines", "cancellation", "health"];
    call(sidecar.service("web"), &cases).await;
    let service = sidecar.api("/api/services/web").await;
    assert_eq!(service["endpoints"][0]["in_flight"], 0, "{service}");
}

#[tokio::test]
async fn the_same_works_over_tls() {
    let (server, certificate) = (server("one", &[]).await, Certificate::new());
    let sidecar = Sidecar::start(&web(&[server.addr()], &certificate.listen_tls("web"))).await;
    let mut command = python("it/real_clients/grpc_client.py");
    command.args(["--ca", &certificate.authority(), &sidecar.service("web").to_string()]);
    command.args(["kinds", "metadata", "errors", "cancellation"]);
    Program::run(command).await;
}

#[tokio::test]
async fn the_calls_of_one_channel_are_spread_over_all_instances() {
    let servers = three().await;
    let sidecar = Sidecar::start(&web(&addrs(&servers), "")).await;
    call(sidecar.service("web"), &["spread"]).await;
}

#[tokio::test]
async fn a_call_that_an_instance_cannot_take_is_made_at_another() {
    let (one, two, sick) =
        tokio::join!(server("one", &[]), server("two", &[]), server("three", &["--unavailable"]));
    let sidecar = Sidecar::start(&web(&[one.addr(), two.addr(), sick.addr(), refusing()], "")).await;
    call(sidecar.service("web"), &["works"]).await;
    for reason in ["connect_failed", "status"] {
        assert!(sidecar.retried(reason).await > 0, "{reason}: {}", sidecar.metrics().await);
    }
}

#[tokio::test]
async fn only_calls_at_a_killed_instance_fail() {
    let _alone = alone().await;
    let mut servers = three().await;
    let sidecar = Sidecar::start(&web(&addrs(&servers), "")).await;
    let load = Program::start(client(sidecar.service("web"), &["steady"]));
    tokio::time::sleep(Duration::from_millis(2000)).await; // in the middle of three seconds of calls
    servers[1].kill();
    load.finish().await;
}

#[tokio::test]
async fn without_an_instance_the_answer_is_grpcs_own() {
    let sidecar = Sidecar::launch(&web(&[refusing()], "")).await;
    call(sidecar.service("web"), &["unavailable"]).await;
}

#[tokio::test]
async fn an_instance_whose_health_service_says_no_is_left_alone() {
    let (well, sick) = tokio::join!(server("one", &[]), server("two", &["--unavailable"]));
    for grpc in ["true", "\"test.Echo\""] {
        let rules = format!("health = {{ grpc = {grpc} }}\nretry.attempts = 1\n");
        let sidecar = Sidecar::start(&web(&[well.addr(), sick.addr()], &rules)).await;
        let wanted = [(well.addr(), "usable"), (sick.addr(), "unhealthy")];
        let mut wanted = wanted.map(|(addr, state)| (addr.to_string(), state.to_owned()));
        wanted.sort();
        eventually("both have been asked", Duration::from_secs(10), async || {
            (sidecar.states("web").await == wanted).then_some(())
        })
        .await;
        call(sidecar.service("web"), &["serves"]).await;
    }
}
