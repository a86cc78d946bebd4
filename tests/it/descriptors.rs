//! File descriptors: what clients may take of them, and what happens when there are none left.

use crate::support::client::Connection;
use crate::support::{Instance, Sidecar, eventually};
use std::process::Command;
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// A sidecar that begins under `ulimit` with these arguments.
async fn under(ulimit: &str, instance: &Instance) -> Sidecar {
    let config = format!("workers = 1\n[service.web]\nfrom = \"static://{}\"\n", instance.addr());
    let mut sidecar = Sidecar::launch_in(tempfile::tempdir().unwrap(), &config, |command| {
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(format!("ulimit {ulimit} && exec \"$0\" \"$@\""));
        shell.arg(command.get_program()).args(command.get_args());
        *command = shell;
    })
    .await;
    sidecar.ready(SOON).await;
    // The connections that asked whether it is ready are closed now: no descriptor comes back later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    sidecar
}

async fn open(sidecar: &Sidecar, count: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(Connection::open(sidecar.service("web")).await.unwrap());
    }
    connections
}

/// Sets the soft limit of a running sidecar, so that it can open no more; or so many more at least.
fn limit(sidecar: &Sidecar, more: usize) {
    let is_open =
        |number: &usize| std::fs::symlink_metadata(format!("/proc/{}/fd/{number}", sidecar.id())).is_ok();
    // The system gives the lowest free number, and none from the limit on.
    let lowest_free = (0..).find(|number| !is_open(number)).unwrap();
    let soft = format!("--nofile={}:", lowest_free + more);
    let status = Command::new("prlimit").args(["--pid", &sidecar.id().to_string(), &soft]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_low_soft_limit_is_raised() {
    let instance = Instance::start("a").await;
    let sidecar = under("-Sn 64", &instance).await;
    let mut idle = open(&sidecar, 100).await;
    for connection in &mut idle {
        let answer = timeout(SOON, connection.get("/")).await.expect("an answer in time");
        assert_eq!(answer.unwrap().status, 200);
    }
}

#[tokio::test]
async fn idle_clients_leave_descriptors_for_requests_and_for_the_admin_address() {
    let instance = Instance::start("a").await;
    let sidecar = under("-n 128", &instance).await;
    let mut idle = open(&sidecar, 150).await;
    let answer = timeout(SOON, idle[0].get("/")).await.expect("an answer in time");
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(sidecar.metric("outrigger_connections{side=\"client\"}").await, 16.0);
    let log = sidecar.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("limit of open files")).collect();
    assert_eq!(told.len(), 1, "{log}");
    for number in ["128", "10000", "16"] {
        assert!(told[0].contains(number), "{number}: {log}");
    }
    // The next in the queue gets the place of one that leaves.
    drop(idle.remove(1));
    let answer = timeout(SOON, idle[15].get("/")).await.expect("an answer in time");
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn accepting_that_fails_is_told_when_it_begins_and_when_it_ends() {
    let instance = Instance::start("a").await;
    let sidecar = under("-n 1024", &instance).await;
    limit(&sidecar, 0);
    let mut waiting = open(&sidecar, 3).await;
    let count = |what: &str| sidecar.log().matches(what).count();
    let begun = "connections cannot be accepted";
    eventually("it is told", SOON, async || (count(begun) > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    limit(&sidecar, 64);
    for connection in &mut waiting {
        let answer = timeout(SOON, connection.get("/")).await.expect("an answer in time");
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!((count(begun), count("connections are accepted again")), (1, 1), "{}", sidecar.log());
}

#[tokio::test]
async fn an_instance_is_not_blamed_for_descriptors_that_we_lack() {
    let instance = Instance::start("a").await;
    let sidecar = under("-n 1024", &instance).await;
    let mut client = open(&sidecar, 1).await.remove(0);
    let one = "outrigger_connections{side=\"client\"}";
    eventually("it is accepted", SOON, async || (sidecar.metric(one).await == 1.0).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    limit(&sidecar, 0);
    for _ in 0..8 {
        let answer = timeout(SOON, client.get("/")).await.expect("an answer in time").unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
        assert!(answer.header("x-outrigger-error").unwrap().starts_with("overloaded; "));
    }
    limit(&sidecar, 64);
    let answer = timeout(SOON, client.get("/")).await.expect("an answer in time").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}
