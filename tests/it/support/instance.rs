//! An application instance as a process: it can be stopped, killed and started again on its port.

use super::{Process, client, eventually, free_port};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::net::TcpStream;

#[path = "../../../examples/instance/pattern.rs"]
pub mod pattern;

/// One running `examples/instance`; killed when dropped.
#[derive(Debug)]
pub struct Instance {
    process: Process,
    name: String,
    addr: SocketAddr,
    flags: Vec<String>,
    folder: TempDir,
}

impl Instance {
    /// On a free port of 127.0.0.1, accepting connections.
    pub async fn start(name: &str) -> Self {
        Self::with_flags(name, &[]).await
    }

    /// With flags such as `["--status", "503"]` or `["--delay", "200"]` (milliseconds).
    pub async fn with_flags(name: &str, flags: &[&str]) -> Self {
        Self::at(name, (Ipv4Addr::LOCALHOST, free_port()).into(), flags).await
    }

    /// On a given address.
    pub async fn at(name: &str, addr: SocketAddr, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let flags: Vec<_> = flags.iter().map(ToString::to_string).collect();
        let process = launch(name, addr, &flags, folder.path());
        let mut instance = Self { process, name: name.to_owned(), addr, flags, folder };
        instance.accepts().await;
        instance
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL: its connections are reset, its port refuses.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP: the kernel still accepts connections, nobody answers.
    pub fn stop(&self) {
        self.process.signal("STOP");
    }

    /// SIGCONT: the end of a stop.
    pub fn cont(&self) {
        self.process.signal("CONT");
    }

    /// SIGKILL if it still runs, then a new process on the same port, its counts and health as new.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.name, self.addr, &self.flags, self.folder.path());
        self.accepts().await;
    }

    /// Requests it has seen, by path.
    pub async fn counts(&self) -> BTreeMap<String, u64> {
        client::get(self.addr, "/count").await.json()
    }

    /// Requests it has seen for one path.
    pub async fn count(&self, path: &str) -> u64 {
        self.counts().await.get(path).copied().unwrap_or_default()
    }

    /// What `/health` answers from now on.
    pub async fn set_health(&self, status: u16) {
        let request = http::Request::post(format!("/health/set/{status}"));
        let answer = client::request(self.addr, request.body(client::empty()).unwrap()).await;
        assert_eq!(answer.expect("an answer").status, 200);
    }

    async fn accepts(&mut self) {
        let what = format!("instance {} accepts connections on {}", self.name, self.addr);
        let (addr, process) = (self.addr, &mut self.process);
        eventually(&what, Duration::from_secs(20), async || {
            assert!(process.is_running(), "the instance ended: {}", process.output());
            TcpStream::connect(addr).await.ok()
        })
        .await;
    }
}

fn launch(name: &str, addr: SocketAddr, flags: &[String], folder: &Path) -> Process {
    let (host, port): (IpAddr, u16) = (addr.ip(), addr.port());
    let mut command = Command::new(binary());
    command.args(["--name", name, "--host", &host.to_string(), "--port", &port.to_string()]).args(flags);
    Process::start(&mut command, &folder.join("log"))
}

/// The example beside this test binary. `cargo test` builds it, `cargo test --test it` does not: then it is built here.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let deps = std::env::current_exe().expect("this test's path");
        let profile = deps.ancestors().nth(2).expect("target/PROFILE/deps/it");
        let binary = profile.join("examples/instance");
        if modified(&binary) < newest_source() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--example", "instance"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            build.env("CARGO_TARGET_DIR", profile.parent().expect("target"));
            // What cargo tells this test about its package would make build scripts run again.
            for (name, _) in std::env::vars_os() {
                if ["CARGO_PKG_", "CARGO_MANIFEST_"]
                    .iter()
                    .any(|told| name.to_string_lossy().starts_with(told))
                {
                    build.env_remove(name);
                }
            }
            if profile.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo").success(), "the example `instance` cannot be built");
        }
        binary
    })
}

fn newest_source() -> SystemTime {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/instance");
    let files = std::fs::read_dir(folder).expect("the example's sources");
    files.map(|file| modified(&file.expect("a source").path())).max().expect("a source")
}

/// When the file was written; long ago if there is none.
fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
