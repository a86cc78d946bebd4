//! Registered instances that restart under load: `outrigger exec` around each, another sidecar in front of them.

use crate::support::registry::states;
use crate::support::{Load, Process, Registry, Sidecar, eventually, free_port};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);

/// One instance with a sidecar of its own, which registers it.
struct Site {
    port: u16,
    folder: TempDir,
    process: Option<Process>,
}

impl Site {
    fn new(registry: &str, number: usize) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "[admin]\nlisten = \"off\"\n[shutdown]\ndelay = \"600ms\"\n[register.web]\nport = {port}\nto = \"{registry}\"\n\
             id = \"web-{number}\"\naddress = \"127.0.0.1\"\nttl = \"5s\"\n\
             health = {{ http = \"/health\", interval = \"200ms\", timeout = \"200ms\", unhealthy_interval = \"100ms\", \
             unhealthy_interval_max = \"100ms\" }}\n"
        );
        std::fs::write(folder.path().join("outrigger.toml"), config).unwrap();
        Self { port, folder, process: None }
    }

    fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["exec", "outrigger.toml", "--"]).arg(instance());
        command.args(["--port", &self.port.to_string(), "--name", "web"]).current_dir(self.folder.path());
        self.process = Some(Process::start(&mut command, &self.folder.path().join("log")));
    }

    fn tell(&self) {
        self.process.as_ref().expect("it runs").signal("TERM");
    }

    /// 128 and SIGTERM: the instance has no other way to end.
    async fn ended(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let status = process.ended(SOON).await;
        assert_eq!(status.code(), Some(143), "{}", process.output());
    }
}

fn instance() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_outrigger")).with_file_name("examples").join("instance")
}

/// What `to` of a registration says.
fn address(registry: &Registry) -> String {
    match registry {
        Registry::Consul(agent) => format!("consul://127.0.0.1:{}", agent.port()),
        Registry::Etcd(cluster) => format!("etcd://{}", cluster.addr(0)),
    }
}

/// So many restarts, `at_once` together, of `sites` instances; no GET may fail at their callers.
async fn restarts_cost_no_request(registry: Registry, restarts: usize, sites: usize, at_once: usize) {
    let to = address(&registry);
    let mut sites: Vec<_> = (0..sites).map(|number| Site::new(&to, number)).collect();
    sites.iter_mut().for_each(Site::start);
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"))).await;
    let usable = async |count: usize| {
        eventually("all are usable", SOON, async || {
            let usable = states(&sidecar, "web").await.iter().filter(|state| *state == "usable").count();
            (usable == count).then_some(())
        })
        .await;
    };
    usable(sites.len()).await;
    let load = Load::start(sidecar.service("web"), "/", 8, Duration::from_secs(590));
    let count = sites.len();
    let mut done = 0;
    while done < restarts {
        let turn: Vec<_> = (done..done + at_once).map(|number| number % count).collect();
        turn.iter().for_each(|site| sites[*site].tell());
        for site in &turn {
            sites[*site].ended().await;
        }
        usable(count - at_once).await;
        turn.iter().for_each(|site| sites[*site].start());
        usable(count).await;
        done += at_once;
    }
    let report = load.stop().await;
    eprintln!("{done} restarts on {to}: {report:?}");
    assert_eq!(report.errors(), 0, "{report:?}");
    assert!(report.requests > 100, "{report:?}");
    for site in &sites {
        site.tell();
    }
    for site in &mut sites {
        site.ended().await;
    }
    let left = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["endpoints", &registry.source("web")])
        .output()
        .unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains("web-"), "ghosts: {left}");
}

#[tokio::test]
async fn a_few_restarts_of_instances_in_consul_cost_no_request() {
    restarts_cost_no_request(Registry::consul().await, 4, 3, 1).await;
}

#[tokio::test]
async fn a_few_restarts_of_instances_in_etcd_cost_no_request() {
    restarts_cost_no_request(Registry::etcd("etcd35").await, 4, 3, 1).await;
}

#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn a_hundred_restarts_of_instances_in_consul_cost_no_request() {
    restarts_cost_no_request(Registry::consul().await, 100, 9, 4).await;
}

#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn a_hundred_restarts_of_instances_in_etcd_cost_no_request() {
    restarts_cost_no_request(Registry::etcd("etcd35").await, 100, 9, 4).await;
}
