//! Real etcd: clusters of one or three members that can be killed, stopped and emptied.

use super::{Process, Relay, free_port, server_binary};
use outrigger::discovery::EtcdQuery;
use outrigger::registry::etcd::{DeleteRangeRequest, EtcdClient, EtcdSettings, PutRequest, RangeRequest};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// A running cluster in a folder of its own. Its members are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    binary: &'static str,
    members: Vec<Member>,
    /// Further arguments of every member.
    extra: Vec<String>,
    scheme: &'static str,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    process: Option<Process>,
}

impl Cluster {
    /// Starts `size` members of `etcd` (3.4) or `etcd35` and waits until each of them serves.
    pub async fn start(binary: &'static str, size: usize) -> Self {
        Self::start_with(binary, size, &[]).await
    }

    pub async fn start_with(binary: &'static str, size: usize, extra: &[&str]) -> Self {
        let cluster = Self::spawn(binary, size, extra, "http");
        for member in 0..size {
            cluster.serves(member).await;
        }
        cluster
    }

    /// A single member that speaks TLS to its clients and wants a certificate of them.
    pub fn start_tls(binary: &'static str, certificates: &Certificates) -> Self {
        let file = |option: &str, path: PathBuf| format!("--{option}={}", path.display());
        let extra = [
            file("cert-file", certificates.cert("server")),
            file("key-file", certificates.key("server")),
            file("trusted-ca-file", certificates.cert("ca")),
            "--client-cert-auth".to_owned(),
        ];
        Self::spawn(binary, 1, &extra.each_ref().map(String::as_str), "https")
    }

    fn spawn(binary: &'static str, size: usize, extra: &[&str], scheme: &'static str) -> Self {
        let member = |_| Member { client: free_port(), peer: free_port(), process: None };
        let mut cluster = Self {
            binary,
            members: (0..size).map(member).collect(),
            extra: extra.iter().map(ToString::to_string).collect(),
            scheme,
            folder: tempfile::tempdir().expect("a folder"),
        };
        (0..size).for_each(|member| cluster.launch(member));
        cluster
    }

    /// Starts a member that does not run, with what its folder holds.
    pub fn launch(&mut self, member: usize) {
        let name = |n: usize| format!("m{n}");
        let peers: Vec<_> = self.members.iter().map(|m| format!("http://127.0.0.1:{}", m.peer)).collect();
        let all: Vec<_> = peers.iter().enumerate().map(|(n, peer)| format!("{}={peer}", name(n))).collect();
        let client = self.url(member).to_string();
        let client = client.trim_end_matches('/');
        let mut command = Command::new(server_binary(self.binary));
        command
            .arg(format!("--name={}", name(member)))
            .arg(format!("--data-dir={}", self.data(member).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={}", peers[member]))
            .arg(format!("--initial-advertise-peer-urls={}", peers[member]))
            .arg(format!("--initial-cluster={}", all.join(",")))
            .args(["--logger=zap", "--log-level=warn"])
            .args(&self.extra);
        if self.binary == "etcd35" {
            command.arg("--unsafe-no-fsync");
        }
        let log = self.folder.path().join(format!("{}.log", name(member)));
        self.members[member].process = Some(Process::start(&mut command, &log));
    }

    fn data(&self, member: usize) -> PathBuf {
        self.folder.path().join(format!("data-{member}"))
    }

    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// What it is called in the table of scenarios.
    pub fn version(&self) -> &'static str {
        if self.binary == "etcd" { "etcd 3.4.23" } else { "etcd 3.5.16" }
    }

    /// The member that leads, by its own word and not for long.
    pub fn leader(&self) -> usize {
        let leads = |member: usize| {
            let url = self.url(member);
            let status = self.ctl_at(url.as_str(), &["endpoint", "status"]);
            // Endpoint, id, version, size, is leader ...
            status.split(", ").nth(4) == Some("true")
        };
        (0..self.size()).find(|member| leads(*member)).expect("a leader")
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn url(&self, member: usize) -> Url {
        let port = self.members[member].client;
        format!("{}://127.0.0.1:{port}", self.scheme).parse().expect("a URL")
    }

    pub fn addr(&self, member: usize) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.members[member].client).into()
    }

    /// All members, the first one first.
    pub fn settings(&self) -> EtcdSettings {
        EtcdSettings::new((0..self.members.len()).map(|member| self.url(member)).collect())
    }

    /// The first member alone, through a relay.
    pub fn settings_by(&self, relay: &Relay) -> EtcdSettings {
        EtcdSettings::new(vec![format!("{}://{}", self.scheme, relay.addr()).parse().expect("a URL")])
    }

    /// A client that begins at the first member.
    pub fn client(&self) -> EtcdClient {
        EtcdClient::new(self.settings())
    }

    /// A client of one member alone.
    pub fn client_of(&self, member: usize) -> EtcdClient {
        EtcdClient::new(EtcdSettings::new(vec![self.url(member)]))
    }

    /// Waits until a member answers a linearizable read.
    pub async fn serves(&self, member: usize) {
        let mut client = self.client_of(member);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Err(error) =
            client.range(RangeRequest { key: b"-".to_vec(), ..RangeRequest::default() }).await
        {
            assert!(tokio::time::Instant::now() < deadline, "member {member} does not serve: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn process(&self, member: usize) -> &Process {
        self.members[member].process.as_ref().expect("it runs")
    }

    /// SIGKILL; the data stays.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// SIGKILL to all members at once.
    pub fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }

    /// Starts all members that do not run, and waits for them.
    pub async fn restart_all(&mut self) {
        for member in 0..self.members.len() {
            if self.members[member].process.is_none() {
                self.launch(member);
            }
        }
        for member in 0..self.members.len() {
            self.serves(member).await;
        }
    }

    /// Removes the data of a member that does not run.
    pub fn wipe(&mut self, member: usize) {
        assert!(self.members[member].process.is_none(), "it still runs");
        std::fs::remove_dir_all(self.data(member)).expect("its folder");
    }

    /// Makes the data of a member that does not run from a backup.
    pub fn restore(&self, member: usize, backup: &std::path::Path) {
        let name = format!("--name=m{member}");
        let peer = format!("http://127.0.0.1:{}", self.members[member].peer);
        self.ctl(&[
            "snapshot",
            "restore",
            backup.to_str().expect("text"),
            &name,
            &format!("--initial-cluster=m{member}={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--data-dir={}", self.data(member).display()),
        ]);
    }

    /// SIGSTOP: the kernel still accepts connections for it.
    pub fn stop(&self, member: usize) {
        self.process(member).signal("STOP");
    }

    pub fn resume(&self, member: usize) {
        self.process(member).signal("CONT");
    }

    /// Runs `etcdctl` against the first member; gives what it printed.
    pub fn ctl(&self, args: &[&str]) -> String {
        self.ctl_at(self.url(0).as_str(), args)
    }

    fn ctl_at(&self, url: &str, args: &[&str]) -> String {
        let binary = if self.binary == "etcd35" { "etcdctl35" } else { "etcdctl" };
        let output = Command::new(server_binary(binary))
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={url}"))
            .args(args)
            .output()
            .expect("etcdctl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "etcdctl {args:?}: {text}{error}");
        text
    }

    /// How often the members were asked for a token.
    pub async fn authentications(&self) -> u64 {
        self.calls("\"Authenticate\"").await
    }

    /// How many calls the members were sent, streams included, those of this test too.
    pub async fn requests(&self) -> u64 {
        self.calls("").await
    }

    /// How many calls began whose labels contain this.
    pub async fn calls(&self, label: &str) -> u64 {
        let mut sum = 0;
        for member in 0..self.members.len() {
            let mut stream = TcpStream::connect(self.addr(member)).await.expect("a connection");
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("a request");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("metrics");
            let counts = text
                .lines()
                .filter(|line| line.starts_with("grpc_server_started_total") && line.contains(label));
            let count = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
            sum += counts.filter_map(count).sum::<u64>();
        }
        sum
    }

    /// Switches authentication on: `root`/`root`, and `reader`/`secret` who may read `prefix` alone.
    pub fn enable_auth(&self, prefix: &str) {
        self.ctl(&["user", "add", "root:root"]);
        self.ctl(&["user", "grant-role", "root", "root"]);
        self.ctl(&["role", "add", "reader"]);
        self.ctl(&["role", "grant-permission", "--prefix=true", "reader", "read", prefix]);
        self.ctl(&["user", "add", "reader:secret"]);
        self.ctl(&["user", "grant-role", "reader", "reader"]);
        self.ctl(&["auth", "enable"]);
    }
}

/// A certificate authority, and what it signed for `server` and `client`; and a `stranger` that signed itself.
#[derive(Debug)]
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    pub fn new() -> Self {
        let all = Self(tempfile::tempdir().expect("a folder"));
        for own in ["ca", "stranger"] {
            all.openssl(&["-x509", "-subj", &format!("/CN={own}"), "-addext", "keyUsage=keyCertSign"], own);
        }
        let (ca, key) = (all.cert("ca"), all.key("ca"));
        for signed in ["server", "client"] {
            let by = ["-CA", ca.to_str().expect("text"), "-CAkey", key.to_str().expect("text")];
            let what = ["-x509", "-subj", &format!("/CN={signed}"), "-addext", "subjectAltName=IP:127.0.0.1"];
            let usage = ["-addext", "basicConstraints=critical,CA:FALSE"];
            all.openssl(&[&what[..], &usage[..], &by[..]].concat(), signed);
        }
        all
    }

    pub fn cert(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.pem"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.key"))
    }

    fn openssl(&self, args: &[&str], name: &str) {
        let output = Command::new("openssl")
            .args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(args)
            .arg("-keyout")
            .arg(self.key(name))
            .arg("-out")
            .arg(self.cert(name))
            .output()
            .expect("openssl");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Writes a key; gives the revision.
pub async fn put(client: &mut EtcdClient, key: &str, value: impl AsRef<[u8]>) -> i64 {
    put_leased(client, key, value, 0).await
}

pub async fn put_leased(client: &mut EtcdClient, key: &str, value: impl AsRef<[u8]>, lease: i64) -> i64 {
    let request = PutRequest { key: key.into(), value: value.as_ref().to_vec(), lease };
    client.put(request).await.expect("a put").header.expect("a header").revision
}

/// Removes a key; gives the revision.
pub async fn delete(client: &mut EtcdClient, key: &str) -> i64 {
    let request = DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() };
    client.delete_range(request).await.expect("a deletion").header.expect("a header").revision
}

pub fn request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), lease: 0 }
}

/// Where the tests' instances are registered.
pub const PREFIX: &str = "svc/web/";

pub fn query() -> EtcdQuery {
    EtcdQuery::new(PREFIX)
}

/// Key and value of an instance at a port of this machine.
pub fn key(port: u16) -> String {
    format!("{PREFIX}{port}")
}

pub fn value(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Runs each of `scenario`'s functions as a test against etcd 3.4 and as one against 3.5.
macro_rules! on_both {
    ($($(#[$attribute:meta])* $name:ident)*) => {$(
        mod $name {
            #[tokio::test]
            $(#[$attribute])*
            async fn on_etcd_3_4() {
                super::scenario::$name("etcd").await;
            }

            #[tokio::test]
            $(#[$attribute])*
            async fn on_etcd_3_5() {
                super::scenario::$name("etcd35").await;
            }
        }
    )*};
}

pub(crate) use on_both;
