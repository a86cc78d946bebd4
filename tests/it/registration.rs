//! Registering the local app from the command line and from a file that has nothing else.

use crate::support::consul::ConsulAgent;
use crate::support::etcd::Cluster;
use crate::support::registering::{SOON, catalogue_has, key_is_gone, key_is_there};
use crate::support::{Instance, Process, eventually, free_port};
use std::process::Command;
use std::time::Duration;

/// Its own limits after SIGTERM, and some more.
const END: Duration = Duration::from_secs(60);

/// `outrigger run` with these arguments, in a folder of its own.
struct Run {
    process: Process,
    _folder: tempfile::TempDir,
}

fn run(arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.arg("run").args(arguments).args(["--admin", &format!("127.0.0.1:{}", free_port())]);
    let process = Process::start(command.current_dir(folder.path()), &folder.path().join("log"));
    Run { process, _folder: folder }
}

#[tokio::test]
async fn one_option_registers_the_app_in_consul() {
    let agent = ConsulAgent::dev().await;
    let app = Instance::start("web-1").await;
    let url = format!(
        "consul://127.0.0.1:{}/web?port={}&health=/health&address=127.0.0.1&id=web-1",
        agent.port(),
        app.addr().port()
    );
    let mut run = run(&["--register", &url]);
    catalogue_has(&agent, Some(true), SOON).await;
    run.process.signal("TERM");
    catalogue_has(&agent, None, SOON).await;
    assert_eq!(run.process.ended(END).await.code(), Some(0), "{}", run.process.output());
}

#[tokio::test]
async fn one_option_registers_the_app_in_etcd_beside_a_service() {
    let cluster = Cluster::start("etcd35", 1).await;
    let app = Instance::start("web-1").await;
    let url = format!("etcd://{}/services/web/?port={}&ttl=5s", cluster.addr(0), app.addr().port());
    let to = format!("static://{}", app.addr());
    let mut run = run(&["--listen", &free_port().to_string(), "--to", &to, "--register", &url]);
    key_is_there(&cluster, 0, 0, SOON).await;
    let output = eventually("why this address", SOON, async || {
        let output = run.process.output();
        output.contains("registering").then_some(output)
    })
    .await;
    assert!(output.contains("default route"), "{output}");
    run.process.signal("INT");
    key_is_gone(&cluster, 0, SOON).await;
    assert_eq!(run.process.ended(END).await.code(), Some(0), "{}", run.process.output());
}

#[tokio::test]
async fn a_wrong_option_is_one_line() {
    for (url, message) in [
        ("consul://127.0.0.1:1/web", "--register: the app's port is missing: append ?port=8080"),
        ("consul://127.0.0.1:1?port=1", "--register: the service's name is missing"),
        ("consul:web?port=0", "--register: port: \"0\" is out of range"),
        ("consul:web?port=1&ttl=1s", "--register: ttl \"1s\" is out of range: \"5s\" to \"1day\""),
        ("consul:web?port=1&address=0.0.0.0", "--register: \"0.0.0.0\" is where one listens"),
        ("dns:web?port=1", "--register: "),
    ] {
        let mut run = run(&["--register", url]);
        assert_eq!(run.process.ended(SOON).await.code(), Some(2), "{url}");
        let output = run.process.output();
        assert!(output.starts_with(message) && output.lines().count() == 1, "{url}: {output}");
    }
}
