//! Real DNS servers: nsd, which has a zone that the test writes, and unbound, a resolver in front of it.

use super::{Process, eventually, free_port, server_binary};
use outrigger::registry::dns::{DnsSettings, Servers};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UdpSocket;

/// nsd with the zone `lab.`, about which it answers with authority; about `broken.`, whose file is missing, it answers
/// SERVFAIL, about everything else REFUSED. Killed when dropped.
#[derive(Debug)]
pub struct Nsd {
    // Before the folder with its log, so that it ends first.
    process: Process,
    port: u16,
    zone: &'static str,
    folder: TempDir,
    serial: u32,
}

impl Nsd {
    /// Starts it; `records` are lines of its zone, relative to `lab.`, with a TTL of 1 s unless they have their own.
    pub async fn start(records: &str) -> Self {
        Self::start_zone("lab.", records).await
    }

    /// With another zone instead of `lab.`
    pub async fn start_zone(zone: &'static str, records: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let at = folder.path().display();
        let config = format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{at}\"\n  \
             database: \"\"\n  pidfile: \"{at}/pid\"\n  zonelistfile: \"{at}/list\"\n  xfrdfile: \"{at}/state\"\n  \
             server-count: 1\n  rrl-ratelimit: 0\n\
             remote-control:\n  control-enable: no\n\
             zone:\n  name: \"{zone}\"\n  zonefile: \"the.zone\"\n\
             zone:\n  name: \"broken.\"\n  zonefile: \"broken.zone\"\n"
        );
        std::fs::write(folder.path().join("nsd.conf"), config).expect("a file");
        write(folder.path(), zone, records, 1);
        let nsd = Self { process: run("nsd", folder.path()), port, zone, folder, serial: 1 };
        nsd.ready().await;
        nsd
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Other records instead of those before, at once; from its restart on if it was killed.
    pub fn change(&mut self, records: &str) {
        self.serial += 1;
        write(self.folder.path(), self.zone, records, self.serial);
        if self.process.is_running() {
            self.process.signal("HUP");
        }
    }

    /// SIGSTOP for all of its processes: questions wait.
    pub fn freeze(&self) {
        self.signal_all("STOP");
    }

    /// SIGCONT: the end of a freeze.
    pub fn thaw(&self) {
        self.signal_all("CONT");
    }

    /// SIGKILL; its other processes end with the first.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Self::kill`], and waits until it answers.
    pub async fn restart(&mut self) {
        self.process = run("nsd", self.folder.path());
        self.ready().await;
    }

    /// Waits for an answer, whatever it is.
    async fn ready(&self) {
        // A question of RFC 1035 for the A records of the root.
        const QUESTION: [u8; 17] = [0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        socket.connect(self.addr()).await.expect("a socket");
        eventually("nsd answers", Duration::from_secs(30), async || {
            let _ = socket.send(&QUESTION).await;
            let mut answer = [0; 512];
            let answer = socket.recv(&mut answer);
            tokio::time::timeout(Duration::from_millis(100), answer).await.ok()?.ok()
        })
        .await;
    }

    fn signal_all(&self, name: &str) {
        let mut ids = vec![self.process.id()];
        let mut next = 0;
        while let Some(id) = ids.get(next) {
            let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
            ids.extend(
                children.expect("its children").split_whitespace().map(|id| id.parse::<u32>().unwrap()),
            );
            next += 1;
        }
        assert!(ids.len() >= 3, "nsd has three processes once it serves: {ids:?}");
        let ids = ids.iter().map(ToString::to_string);
        let status = Command::new("kill").arg(format!("-{name}")).args(ids).status();
        assert!(status.expect("kill").success(), "kill -{name}");
    }
}

/// unbound, which asks one [`Nsd`] about `lab.` and remembers its answers for as long as they may be. Killed when
/// dropped.
#[derive(Debug)]
pub struct Unbound {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl Unbound {
    pub async fn before(nsd: &Nsd) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let (at, behind) = (folder.path().display(), nsd.port);
        let config = format!(
            "server:\n  interface: 127.0.0.1\n  port: {port}\n  username: \"\"\n  chroot: \"\"\n  directory: \"{at}\"\n  \
             pidfile: \"{at}/pid\"\n  use-syslog: no\n  logfile: \"\"\n  log-queries: yes\n  num-threads: 1\n  \
             do-not-query-localhost: no\n  module-config: \"iterator\"\n  access-control: 127.0.0.0/8 allow\n\
             remote-control:\n  control-enable: no\n\
             stub-zone:\n  name: \"lab.\"\n  stub-addr: 127.0.0.1@{behind}\n\
             stub-zone:\n  name: \"broken.\"\n  stub-addr: 127.0.0.1@{behind}\n"
        );
        std::fs::write(folder.path().join("unbound.conf"), config).expect("a file");
        let process = run("unbound", folder.path());
        eventually("unbound answers", Duration::from_secs(30), async || {
            process.output().contains("start of service").then_some(())
        })
        .await;
        Self { process, port, _folder: folder }
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// How many questions of a type about a name it was asked.
    pub fn questions(&self, name: &str, kind: &str) -> usize {
        let asked = format!("127.0.0.1 {name}. {kind} IN");
        self.process.output().lines().filter(|line| line.ends_with(&asked)).count()
    }

    /// SIGSTOP: questions wait.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// SIGCONT: the end of a freeze.
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }
}

/// Settings to ask these servers.
pub fn asking(servers: &[SocketAddr]) -> DnsSettings {
    DnsSettings { servers: Servers::Given(servers.to_vec()), ..DnsSettings::default() }
}

fn run(server: &str, folder: &Path) -> Process {
    let mut command = Command::new(server_binary(server));
    command.arg("-d").arg("-c").arg(folder.join(format!("{server}.conf")));
    Process::start(&mut command, &folder.join("log"))
}

/// A "no" holds for a second.
fn write(folder: &Path, zone: &str, records: &str, serial: u32) {
    let head = format!(
        "$ORIGIN {zone}\n$TTL 1\n@ SOA ns admin {serial} 3600 600 86400 1\n@ NS ns\nns A 127.0.0.1\n"
    );
    std::fs::write(folder.join("new.zone"), format!("{head}{records}\n")).expect("a file");
    std::fs::rename(folder.join("new.zone"), folder.join("the.zone")).expect("a file");
}
