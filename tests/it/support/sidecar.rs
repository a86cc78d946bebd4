//! The real `outrigger run` as a process, and its window on the admin address.

use super::client::{self, Client, Response};
use super::{Process, eventually, free_port, metrics};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use toml::Table;

/// A running sidecar; killed when dropped, its log shown when the test fails.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    config: Table,
    admin: SocketAddr,
    folder: TempDir,
}

impl Sidecar {
    /// Starts it with this configuration and waits until it is ready (20 s at most).
    ///
    /// What a test need not care about is added: an admin address where there is none, a port for every service that
    /// has neither `port` nor `listen`. Relative paths in it lie in [`Self::folder`].
    pub async fn start(config: &str) -> Self {
        let mut sidecar = Self::launch(config).await;
        sidecar.ready(Duration::from_secs(20)).await;
        sidecar
    }

    /// The same, in a folder that the test has put files into, with changes to the command (flags, environment).
    /// Waits only for the admin address to answer.
    pub async fn launch_in(folder: TempDir, config: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut config = parsed(config);
        let admin = fill(&mut config, &Table::new());
        let file = folder.path().join("outrigger.toml");
        write(&file, &config);
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.arg("run").arg(&file).current_dir(folder.path());
        change(&mut command);
        let process = Process::start(&mut command, &folder.path().join("log"));
        let mut sidecar = Self { process, config, admin, folder };
        let running = &mut sidecar.process;
        eventually("the admin address answers", Duration::from_secs(20), async || {
            assert!(running.is_running(), "the sidecar ended:\n{}", running.output());
            client::try_get(admin, "/livez").await.ok()
        })
        .await;
        sidecar
    }

    /// Starts it and waits only for the admin address to answer.
    pub async fn launch(config: &str) -> Self {
        Self::launch_in(tempfile::tempdir().expect("a folder"), config, |_| {}).await
    }

    /// Waits until `/readyz` answers 200.
    pub async fn ready(&mut self, limit: Duration) {
        let (admin, process) = (self.admin, &mut self.process);
        eventually("the sidecar is ready", limit, async || {
            assert!(process.is_running(), "the sidecar ended:\n{}", process.output());
            client::try_get(admin, "/readyz").await.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }

    /// Where the app calls this service, on 127.0.0.1.
    pub fn service(&self, name: &str) -> SocketAddr {
        let service = &self.config["service"][name];
        if let Some(port) = service.get("port") {
            return (Ipv4Addr::LOCALHOST, u16::try_from(port.as_integer().unwrap()).unwrap()).into();
        }
        service["listen"][0].as_str().expect("an address").parse().expect("an address")
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The folder of its configuration, its working directory too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// One GET to a service of it, on a connection of its own.
    pub async fn get(&self, service: &str, path: &str) -> Response {
        client::get(self.service(service), path).await
    }

    /// A client that keeps its connection to a service.
    pub fn client(&self, service: &str) -> Client {
        Client::new(self.service(service))
    }

    /// The JSON at a path of the admin address, such as `/api/services/web`.
    pub async fn api(&self, path: &str) -> Value {
        let answer = client::get(self.admin, path).await;
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    /// The state of every endpoint of a service, by address, as `/api/services/NAME` tells it.
    pub async fn states(&self, service: &str) -> Vec<(String, String)> {
        let service = self.api(&format!("/api/services/{service}")).await;
        let text = |endpoint: &Value, key: &str| endpoint[key].as_str().unwrap_or_default().to_owned();
        let endpoints = service["endpoints"].as_array().expect("endpoints").iter();
        let mut states: Vec<_> = endpoints.map(|e| (text(e, "addr"), text(e, "state"))).collect();
        states.sort();
        states
    }

    pub async fn metrics(&self) -> String {
        let answer = client::get(self.admin, "/metrics").await;
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// The sum of all series of this name that have at least these labels, as in
    /// `outrigger_requests_total{service="web"}`; 0 where there is none.
    pub async fn metric(&self, series: &str) -> f64 {
        metrics::sum(&self.metrics().await, series)
    }

    /// Puts a new configuration in the place of the old one, in one step; services keep the ports they were given.
    /// It is for the test to send `HUP`, or for the sidecar to notice.
    pub fn rewrite(&mut self, config: &str) {
        let mut new = parsed(config);
        fill(&mut new, &self.config);
        write(&self.config_file(), &new);
        self.config = new;
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("outrigger.toml")
    }

    /// SIGTERM; it must end with exit code 0 within its own limits (withdraw 3 s, wait 5 s, grace 25 s, drain 5 s).
    pub async fn stop(&mut self) {
        self.process.signal("TERM");
        self.stop_was_asked().await;
    }

    /// Waits for the end that [`Self::signal`] asked for; it must be exit code 0.
    pub async fn stop_was_asked(&mut self) {
        let status = self.process.ended(Duration::from_secs(60)).await;
        assert_eq!(status.code(), Some(0), "{status}:\n{}", self.log());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

fn parsed(config: &str) -> Table {
    config.parse().unwrap_or_else(|e| panic!("{e}\n{config}"))
}

fn write(file: &Path, config: &Table) {
    let new = file.with_extension("new");
    std::fs::write(&new, config.to_string()).expect("a file");
    std::fs::rename(new, file).expect("a file");
}

/// Adds the addresses that the test left open, those of `before` where it has them; the admin address.
fn fill(config: &mut Table, before: &Table) -> SocketAddr {
    for (name, service) in config.get_mut("service").and_then(|s| s.as_table_mut()).into_iter().flatten() {
        let service = service.as_table_mut().expect("a service is a table");
        if !service.contains_key("port") && !service.contains_key("listen") {
            let earlier = before.get("service").and_then(|all| all.get(name)?.get("port")).cloned();
            service.insert("port".to_owned(), earlier.unwrap_or_else(|| i64::from(free_port()).into()));
        }
    }
    let admin = config.entry("admin").or_insert_with(|| Table::new().into()).as_table_mut().expect("[admin]");
    let earlier = before.get("admin").and_then(|admin| admin.get("listen")).cloned();
    let listen = admin
        .entry("listen")
        .or_insert_with(|| earlier.unwrap_or_else(|| format!("127.0.0.1:{}", free_port()).into()));
    listen.as_str().expect("an address").parse().expect("an address")
}

#[test]
fn a_configuration_gets_the_addresses_that_it_leaves_open() {
    let mut config = parsed("[service.a]\nfrom = \"static://127.0.0.1:1\"\n[service.b]\nport = 7\n");
    let admin = fill(&mut config, &Table::new());
    let port = config["service"]["a"]["port"].as_integer().unwrap();
    assert_ne!(i64::from(admin.port()), port);
    assert_eq!(config["service"]["b"]["port"].as_integer(), Some(7));
    let mut next = parsed("[service.a]\nfrom = \"static://127.0.0.1:2\"\n");
    assert_eq!(fill(&mut next, &config), admin);
    assert_eq!(next["service"]["a"]["port"].as_integer(), Some(port));
}
