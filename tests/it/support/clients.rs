//! Real clients and servers of other makers, run as programs.

use super::{Process, eventually, free_port};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;

/// No program may take longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Python program under `tests/`, in the environment that `tests/clients` made.
pub fn python(script: &str) -> Command {
    let folder = std::env::var_os("OUTRIGGER_TEST_CLIENTS").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"),
                PathBuf::from,
            );
            cache.join("outrigger-test-clients")
        },
        PathBuf::from,
    );
    let binary = folder.join("bin/python");
    assert!(binary.exists(), "{} is missing: run tests/clients first", binary.display());
    with(binary, script)
}

/// A program under `tests/` for Node.
pub fn node(script: &str) -> Command {
    with("node".into(), script)
}

fn with(binary: PathBuf, script: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    assert!(script.exists(), "{} is missing", script.display());
    let mut command = Command::new(binary);
    command.arg(script);
    command
}

/// A server that some program is; killed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Process,
    addr: SocketAddr,
    _folder: TempDir,
}

impl Server {
    /// Starts it on a free port, which `command` is given, and waits until it accepts connections.
    pub async fn start(command: impl FnOnce(&str) -> Command) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Process::start(&mut command(&addr.port().to_string()), &folder.path().join("log"));
        eventually("the server accepts connections", Duration::from_secs(30), async || {
            assert!(process.is_running(), "the server ended: {}", process.output());
            TcpStream::connect(addr).await.ok()
        })
        .await;
        Self { process, addr, _folder: folder }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// A client that some program is; killed when dropped.
#[derive(Debug)]
pub struct Program {
    process: Process,
    name: String,
    _folder: TempDir,
}

impl Program {
    pub fn start(mut command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let process = Process::start(&mut command, &folder.path().join("log"));
        Self { process, name: format!("{command:?}"), _folder: folder }
    }

    /// Waits for its end; what it said, if all went well.
    pub async fn finish(mut self) -> String {
        let status = self.process.ended(PATIENCE).await;
        let output = self.process.output();
        assert!(status.success(), "{} ended with {status}:\n{output}", self.name);
        output
    }

    /// One from its start to its end.
    pub async fn run(command: Command) -> String {
        Self::start(command).finish().await
    }
}

/// A certificate for 127.0.0.1, and the authority that vouches for it.
#[derive(Debug)]
pub struct Certificate(TempDir);

impl Certificate {
    pub fn new() -> Self {
        let own = Self(tempfile::tempdir().expect("a folder"));
        let usage = "basicConstraints=critical,CA:TRUE";
        own.openssl(&["-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem", "-addext", usage]);
        let names =
            ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=CA:FALSE"];
        let by = [
            "-subj",
            "/CN=localhost",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ];
        own.openssl(&[&by[..], &names[..]].concat());
        own
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        let output = command.args(["-days", "2"]).args(arguments).current_dir(self.0.path()).output();
        let output = output.expect("openssl");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What whoever is to believe it must trust.
    pub fn authority(&self) -> String {
        self.file("ca.pem")
    }

    pub fn cert(&self) -> String {
        self.file("cert.pem")
    }

    pub fn key(&self) -> String {
        self.file("key.pem")
    }

    /// The table that makes a listener of `service` use it.
    pub fn listen_tls(&self, service: &str) -> String {
        format!("[service.{service}.listen_tls]\ncert = {:?}\nkey = {:?}\n", self.cert(), self.key())
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a name").to_owned()
    }
}
