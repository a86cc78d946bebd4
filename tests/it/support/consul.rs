//! Real Consul agents, started for one test each.

use super::registry::consul_entry;
use super::{Instance, Process, eventually, free_port, server_binary};
use crate::scenarios::MARK;
use outrigger::registry::consul::ConsulSettings;
use outrigger::registry::{Credential, TlsFiles};
use outrigger::telemetry::Secret;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use url::Url;

/// The token of an agent with ACLs that may do everything.
pub const ROOT_TOKEN: &str = "11111111-2222-3333-4444-555555555555";

/// An agent, mostly a single one that is its own server. Killed when dropped.
#[derive(Debug)]
pub struct ConsulAgent {
    // Before the folder with its log, so that it ends first.
    process: Process,
    folder: TempDir,
    options: Options,
    ports: Ports,
    /// Its node's name.
    node: String,
    /// Further arguments.
    extra: Vec<String>,
    http: reqwest::Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Keeps everything in memory; ready in half a second.
    Dev,
    /// Survives a restart; a second or two until it has elected itself.
    Data,
    /// One of several servers; survives a restart.
    Server,
    /// No server, but knows some.
    Client,
}

#[derive(Clone, Copy, Debug)]
struct Options {
    kind: Kind,
    acls: bool,
    tls: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    http: u16,
    https: u16,
    pub(super) serf: u16,
    pub(super) server: u16,
}

impl Ports {
    pub(super) fn free() -> Self {
        Self { http: free_port(), https: free_port(), serf: free_port(), server: free_port() }
    }
}

impl ConsulAgent {
    /// Of the tests' servers, see `tests/servers`.
    pub const VERSION: &str = "consul 1.8.7";

    /// An agent whose memory dies with it.
    pub async fn dev() -> Self {
        Self::start(Options { kind: Kind::Dev, acls: false, tls: false }).await
    }

    /// An agent that remembers.
    pub async fn with_data() -> Self {
        Self::start(Options { kind: Kind::Data, acls: false, tls: false }).await
    }

    /// An agent whose memory dies with it, and that denies everything to everybody but [`ROOT_TOKEN`].
    pub async fn dev_with_acls() -> Self {
        Self::start(Options { kind: Kind::Dev, acls: true, tls: false }).await
    }

    /// An agent whose memory dies with it, and that has an HTTPS port too, for clients with a certificate.
    pub async fn dev_with_tls() -> Self {
        Self::start(Options { kind: Kind::Dev, acls: false, tls: true }).await
    }

    /// An agent whose memory dies with it, and the port where it answers DNS.
    pub async fn dev_with_dns() -> (Self, u16) {
        let (dns, options) = (free_port(), Options { kind: Kind::Dev, acls: false, tls: false });
        let extra = vec!["-dns-port".to_owned(), dns.to_string()];
        let agent = Self::spawn(options, "n1", Ports::free(), extra);
        agent.ready().await;
        (agent, dns)
    }

    /// A server that waits for a second one and has no leader until then.
    pub async fn leaderless() -> Self {
        let agent = Self::member(true, "n1", Ports::free(), vec!["-bootstrap-expect=2".to_owned()]);
        eventually("an agent that answers", Duration::from_secs(30), async || {
            agent.request("GET", "/v1/agent/self", Value::Null).await.ok()
        })
        .await;
        agent
    }

    /// The second server of [`Self::leaderless`].
    pub fn joined(&self) -> Self {
        let join = format!("-retry-join=127.0.0.1:{}", self.ports.serf);
        let extra = ["-bootstrap-expect=2", "-retry-interval=1s", &join].map(ToOwned::to_owned);
        Self::member(true, "n2", Ports::free(), extra.into())
    }

    async fn start(options: Options) -> Self {
        let agent = Self::spawn(options, "n1", Ports::free(), Vec::new());
        agent.ready().await;
        agent
    }

    /// One of several servers, or a client; `extra` arguments say whom to join. It is not waited for.
    pub(super) fn member(is_server: bool, node: &str, ports: Ports, extra: Vec<String>) -> Self {
        let kind = if is_server { Kind::Server } else { Kind::Client };
        Self::spawn(Options { kind, acls: false, tls: false }, node, ports, extra)
    }

    fn spawn(options: Options, node: &str, ports: Ports, extra: Vec<String>) -> Self {
        outrigger::registry::install_provider();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        if options.tls {
            certificates(&folder);
        }
        let process = run(&folder, options, ports, node, &extra);
        Self { process, folder, options, ports, node: node.to_owned(), extra, http }
    }

    /// Waits until the agent has a leader and knows its own node.
    pub async fn ready(&self) {
        eventually("a ready Consul agent", Duration::from_secs(30), async || {
            let path = format!("/v1/health/node/{}", self.node);
            let answer = self.request("GET", &path, Value::Null).await.ok()?;
            answer.contains("serfHealth").then_some(())
        })
        .await;
    }

    pub fn port(&self) -> u16 {
        self.ports.http
    }

    pub fn url(&self) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}", self.ports.http)).unwrap()
    }

    /// Settings to reach it by HTTPS.
    pub fn tls_settings(&self) -> ConsulSettings {
        let url = format!("https://127.0.0.1:{}", self.ports.https);
        let file = |name: &str| Some(self.folder.path().join(name));
        let tls = TlsFiles { ca: file(CA), cert: file(CLIENT[0]), key: file(CLIENT[1]) };
        ConsulSettings { addresses: vec![Url::parse(&url).unwrap()], tls, ..self.settings() }
    }

    /// Settings to reach it, with the root token if it has ACLs.
    pub fn settings(&self) -> ConsulSettings {
        ConsulSettings {
            addresses: vec![self.url()],
            token: self.options.acls.then(|| Credential::Text(Secret::new(ROOT_TOKEN))),
            tls: TlsFiles::default(),
            namespace: None,
        }
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// How many requests it has answered on its HTTP address, those of this test included.
    pub fn requests(&self) -> u64 {
        let lines = self.process.output();
        lines.lines().filter(|line| line.contains("Request finished")).count() as u64
    }

    /// Where it logs each request.
    pub fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    /// How many requests with this in their method and path it has answered.
    pub fn requests_of(&self, what: &str) -> u64 {
        let lines = self.process.output();
        lines.lines().filter(|line| line.contains("Request finished") && line.contains(what)).count() as u64
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same ports, with what it remembers, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// The same without waiting.
    pub fn launch(&mut self) {
        self.process.kill();
        self.process = run(&self.folder, self.options, self.ports, &self.node, &self.extra);
    }

    /// SIGSTOP: it still accepts connections, and says nothing.
    pub fn stop(&self) {
        self.process.signal("STOP");
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.process.signal("CONT");
    }

    /// What a source URL says for a service.
    pub fn source(&self, service: &str) -> String {
        format!("consul://127.0.0.1:{}/{service}", self.port())
    }

    /// Registers running instances under their own names, with weight 1.
    pub async fn register_all(&self, name: &str, instances: &[Instance]) {
        for instance in instances {
            self.register(&consul_entry(name, instance.name(), instance.addr(), 1)).await;
        }
    }

    /// Which server leads, as this agent knows: host and port of its server port.
    pub async fn leader(&self) -> Option<String> {
        let answer = self.request("GET", "/v1/status/leader", Value::Null).await.ok()?;
        let leader = answer.trim().trim_matches('"').to_owned();
        (!leader.is_empty()).then_some(leader)
    }

    /// What it was asked for a service's instances since it was first started: paths and queries, in order.
    pub fn health_queries(&self, service: &str) -> Vec<String> {
        let path = format!("/v1/health/service/{service}");
        let log = self.process.output();
        let finished = log.lines().filter(|line| line.contains("Request finished"));
        let urls = finished.filter_map(|line| line.split_once("url=")?.1.split(' ').next());
        let of = |url: &&str| {
            url.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('?'))
        };
        urls.filter(of).map(ToOwned::to_owned).collect()
    }

    /// Registers a service by the agent's own JSON, see [`service`].
    pub async fn register(&self, service: &Value) {
        self.put("/v1/agent/service/register", service.clone()).await;
    }

    pub async fn deregister(&self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), Value::Null).await;
    }

    /// `pass`, `warn` or `fail` for the TTL check of a service that has one.
    pub async fn report(&self, id: &str, status: &str) {
        self.put(&format!("/v1/agent/check/{status}/service:{id}"), Value::Null).await;
    }

    pub async fn service_maintenance(&self, id: &str, enable: bool) {
        self.put(&format!("/v1/agent/service/maintenance/{id}?enable={enable}"), Value::Null).await;
    }

    pub async fn node_maintenance(&self, enable: bool) {
        self.put(&format!("/v1/agent/maintenance?enable={enable}"), Value::Null).await;
    }

    /// A policy with these rules, and a token that has it; its secret.
    pub async fn token(&self, name: &str, rules: &str) -> String {
        self.put("/v1/acl/policy", json!({"Name": name, "Rules": rules})).await;
        let token = self.put("/v1/acl/token", json!({"Policies": [{"Name": name}]})).await;
        let token: Value = serde_json::from_str(&token).unwrap();
        token["SecretID"].as_str().unwrap().to_owned()
    }

    /// Any GET that must succeed; its JSON.
    pub async fn get(&self, path: &str) -> Value {
        let text = self.request("GET", path, Value::Null).await.unwrap_or_else(|e| panic!("GET {path}: {e}"));
        serde_json::from_str(&text).unwrap()
    }

    /// The public half of a token.
    pub async fn accessor(&self, token: &str) -> String {
        let tokens = self.request("GET", "/v1/acl/tokens", Value::Null).await.expect("tokens");
        let tokens: Vec<Value> = serde_json::from_str(&tokens).unwrap();
        let mut accessors = tokens.iter().filter_map(|token| token["AccessorID"].as_str());
        let ours = async |accessor: &str| {
            let path = format!("/v1/acl/token/{accessor}");
            self.request("GET", &path, Value::Null).await.is_ok_and(|answer| answer.contains(token))
        };
        loop {
            let accessor = accessors.next().expect("the token");
            if ours(accessor).await {
                return accessor.to_owned();
            }
        }
    }

    /// The id of a policy that [`Self::token`] has made.
    pub async fn policy(&self, name: &str) -> String {
        let policies = self.request("GET", "/v1/acl/policies", Value::Null).await.expect("policies");
        let policies: Vec<Value> = serde_json::from_str(&policies).unwrap();
        let policy = policies.iter().find(|policy| policy["Name"] == name).expect("the policy");
        policy["ID"].as_str().expect("an id").to_owned()
    }

    /// Any other PUT that must succeed.
    pub async fn put(&self, path: &str, body: Value) -> String {
        self.request("PUT", path, body).await.unwrap_or_else(|e| panic!("PUT {path}: {e}"))
    }

    pub async fn request(&self, method: &str, path: &str, body: Value) -> Result<String, String> {
        // So that who counts requests can tell them from a sidecar's.
        let mark = if path.contains('?') { '&' } else { '?' };
        let url = format!("http://127.0.0.1:{}{path}{mark}{MARK}", self.ports.http);
        let mut request = self.http.request(method.parse().unwrap(), url).timeout(Duration::from_secs(10));
        if self.options.acls {
            request = request.header("X-Consul-Token", ROOT_TOKEN);
        }
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let response = request.send().await.map_err(|e| e.to_string())?;
        let status = response.status();
        let text = response.text().await.map_err(|e| e.to_string())?;
        if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}")) }
    }
}

/// A registration: add or change fields by `["Meta"] = ...`.
pub fn service(name: &str, id: &str, port: u16) -> Value {
    json!({"Name": name, "ID": id, "Port": port})
}

/// The same with a TTL check, passing for `ttl` from the start.
pub fn with_ttl(mut service: Value, ttl: Duration) -> Value {
    service["Check"] = json!({"TTL": format!("{}ms", ttl.as_millis()), "Status": "passing"});
    service
}

const QUICK: &str = "performance { raft_multiplier = 1 }";
const CA: &str = "consul-agent-ca.pem";
const SERVER: [&str; 2] = ["dc1-server-consul-0.pem", "dc1-server-consul-0-key.pem"];
const CLIENT: [&str; 2] = ["dc1-client-consul-0.pem", "dc1-client-consul-0-key.pem"];

/// Consul makes its own.
fn certificates(folder: &TempDir) {
    for arguments in [&["ca", "create"][..], &["cert", "create", "-server"], &["cert", "create", "-client"]] {
        let mut command = Command::new(server_binary("consul"));
        let output = command.arg("tls").args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn run(folder: &TempDir, options: Options, ports: Ports, node: &str, extra: &[String]) -> Process {
    let mut command = Command::new(server_binary("consul"));
    command.args(["agent", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", node]);
    command.args(["-disable-host-node-id", "-dns-port", "-1", "-grpc-port", "-1", "-serf-wan-port", "-1"]);
    command.args(["-http-port", &ports.http.to_string(), "-server-port", &ports.server.to_string()]);
    command.args(["-serf-lan-port", &ports.serf.to_string()]);
    // It then logs each request.
    command.args(["-log-level", "debug"]).args(extra);
    match options.kind {
        Kind::Dev => {
            command.arg("-dev");
        }
        Kind::Data => {
            command.args(["-server", "-bootstrap-expect", "1", "-data-dir"]).arg(folder.path().join("data"));
            // Elects itself in about a second instead of seven.
            command.args(["-hcl", QUICK]);
        }
        Kind::Server => {
            command.args(["-server", "-data-dir"]).arg(folder.path().join("data")).args(["-hcl", QUICK]);
        }
        Kind::Client => {
            command.arg("-data-dir").arg(folder.path().join("data"));
        }
    }
    if options.acls {
        let tokens = format!("tokens {{ master = \"{ROOT_TOKEN}\" agent = \"{ROOT_TOKEN}\" }}");
        command.args(["-hcl", &format!("acl {{ enabled = true default_policy = \"deny\" {tokens} }}")]);
    }
    if options.tls {
        let https = ports.https;
        let [cert, key] = SERVER;
        command.args(["-hcl", &format!("ports {{ https = {https} }} verify_incoming_https = true")]);
        command.args(["-hcl", &format!("ca_file = \"{CA}\" cert_file = \"{cert}\" key_file = \"{key}\"")]);
        command.current_dir(folder.path());
    }
    Process::start(&mut command, &folder.path().join("log"))
}
