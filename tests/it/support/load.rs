//! Load on a server by wrk, and what wrk says of it.

use super::Process;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A running wrk; killed when dropped.
#[derive(Debug)]
pub struct Load {
    process: Process,
    bound: Duration,
    _folder: TempDir,
}

/// What wrk counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Answers read whole.
    pub requests: u64,
    /// Those of them with a status of 400 or more.
    pub failed: u64,
    /// Connections that could not be made.
    pub connect: u64,
    /// Connections that ended amid an answer, or answers that could not be parsed.
    pub read: u64,
    pub write: u64,
    /// Requests that took longer than two seconds.
    pub timeout: u64,
}

impl Report {
    /// All that did not go as a client wishes.
    pub fn errors(&self) -> u64 {
        self.failed + self.connect + self.read + self.write + self.timeout
    }
}

impl Load {
    /// Starts GETs on so many connections for `bound` (whole seconds, rounded up), or until [`Self::stop`] is called.
    pub fn start(addr: SocketAddr, path: &str, connections: u16, bound: Duration) -> Self {
        let seconds = bound.as_secs() + u64::from(bound.subsec_nanos() > 0);
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("wrk");
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "2s"]);
        command.arg(format!("http://{addr}{path}"));
        assert!(
            on_path("wrk"),
            "wrk is missing: install it (Debian: apt-get install wrk), or call tests/run"
        );
        let process = Process::start(&mut command, &folder.path().join("wrk"));
        Self { process, bound: Duration::from_secs(seconds), _folder: folder }
    }

    /// Load for so long; its report.
    pub async fn run(addr: SocketAddr, path: &str, connections: u16, time: Duration) -> Report {
        Self::start(addr, path, connections, time).finish().await
    }

    /// Whether it still sends.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits for its end.
    pub async fn finish(mut self) -> Report {
        let status = self.process.ended(self.bound + Duration::from_secs(20)).await;
        let output = self.process.output();
        assert!(status.success(), "wrk: {status}: {output}");
        parse(&output).unwrap_or_else(|| panic!("wrk's output cannot be read: {output}"))
    }

    /// Ends it early.
    pub async fn stop(self) -> Report {
        self.process.signal("INT");
        self.finish().await
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Reads wrk's summary; lines about errors are left out by wrk when there were none.
fn parse(output: &str) -> Option<Report> {
    let mut report = Report::default();
    let mut complete = false;
    for line in output.lines().map(str::trim) {
        if let Some((requests, _)) = line.split_once(" requests in ") {
            report.requests = requests.parse().ok()?;
            complete = true;
        } else if let Some(failed) = line.strip_prefix("Non-2xx or 3xx responses: ") {
            report.failed = failed.parse().ok()?;
        } else if let Some(errors) = line.strip_prefix("Socket errors: ") {
            for error in errors.split(", ") {
                let (kind, count) = error.split_once(' ')?;
                let count = count.parse().ok()?;
                match kind {
                    "connect" => report.connect = count,
                    "read" => report.read = count,
                    "write" => report.write = count,
                    "timeout" => report.timeout = count,
                    _ => return None,
                }
            }
        }
    }
    complete.then_some(report)
}
