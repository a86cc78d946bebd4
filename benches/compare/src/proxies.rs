//! The proxies: how each is found, configured and started.

use crate::Outcome;
use crate::client::{Client, Until, request};
use crate::http2::Http2;
use crate::net::{free_port, local};
use crate::process::{PROXY_CPU, Running, file_limit};
use crate::template::{Values, fill};
use crate::wire::{Certificate, Offer};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A proxy must answer its first request within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Descriptors beyond the connections: logs, listeners, checks.
const SPARE_FILES: usize = 2_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Outrigger,
    Haproxy,
    /// With every knob turned for it, at the price of duties; targets are set against the one before.
    HaproxyTuned,
    Nginx,
    NginxTuned,
    Envoy,
    /// What is run by an executable `compare-NAME`.
    Other,
    /// The floor: our relay that parses nothing.
    Relay,
}

impl Kind {
    pub fn text(self) -> &'static str {
        match self {
            Self::Outrigger => "Outrigger",
            Self::Haproxy | Self::HaproxyTuned => "HAProxy",
            Self::Nginx | Self::NginxTuned => "nginx",
            Self::Envoy => "Envoy",
            Self::Other => "other",
            Self::Relay => "L4 relay",
        }
    }

    pub fn is_tuned(self) -> bool {
        matches!(self, Self::HaproxyTuned | Self::NginxTuned)
    }
}

/// A kind that is here, and its executable.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub kind: Kind,
    /// Its product name and, where there are several about, its version.
    pub name: String,
    pub program: PathBuf,
    pub version: String,
}

/// What a proxy is told; the same for all.
#[derive(Clone)]
pub struct Setup {
    pub services: Vec<Service>,
    pub workers: usize,
    /// Client and upstream connections that it must be able to hold.
    pub connections: usize,
    pub check_interval: u32,
    /// For services with TLS on either side.
    pub certificate: Option<Certificate>,
}

#[derive(Clone)]
pub struct Service {
    pub port: u16,
    pub instances: Vec<SocketAddr>,
    pub front: Front,
    /// Its instances speak TLS.
    pub tls_instances: bool,
}

/// What is spoken to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Front {
    Plain,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// TLS; with HTTP/2 or HTTP/1.1, as the client likes.
    Tls,
}

impl Setup {
    /// One service, and room for what the ordinary parts open.
    pub fn one(instances: &[SocketAddr]) -> Outcome<Self> {
        Self::of(&[(Front::Plain, instances, false)], None)
    }

    /// As [`Self::one`] with several services: what they speak to clients, their instances, and whether these speak TLS.
    pub fn of(services: &[(Front, &[SocketAddr], bool)], certificate: Option<&Certificate>) -> Outcome<Self> {
        let service = |(front, instances, tls_instances): &(Front, &[SocketAddr], bool)| {
            let (instances, tls_instances) = (instances.to_vec(), *tls_instances);
            Ok(Service { port: free_port()?, instances, front: *front, tls_instances })
        };
        let services = services.iter().map(service).collect::<Outcome<_>>()?;
        let certificate = certificate.cloned();
        Ok(Self { services, workers: 1, connections: 8_192, check_interval: 10, certificate })
    }

    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.services.iter().map(|service| local(service.port)).collect()
    }
}

/// All that can be measured here: Outrigger first, then those on the PATH, then the floor.
pub fn find(outrigger: &Path) -> Outcome<Vec<Proxy>> {
    let mut found = vec![Proxy {
        kind: Kind::Outrigger,
        name: Kind::Outrigger.text().to_owned(),
        version: version(outrigger, "--version")
            .ok_or("the outrigger binary does not run: build it with cargo build --release")?,
        program: outrigger.to_path_buf(),
    }];
    for (kind, name, flag) in [
        (Kind::Haproxy, "haproxy", "-v"),
        (Kind::HaproxyTuned, "haproxy", "-v"),
        (Kind::Nginx, "nginx", "-v"),
        (Kind::NginxTuned, "nginx", "-v"),
        (Kind::Envoy, "envoy", "--version"),
    ] {
        if let Some(version) = version(Path::new(name), flag) {
            let short: Vec<&str> = version.split('.').take(2).collect();
            let tuned = if kind.is_tuned() { ", tuned" } else { "" };
            let full = format!("{} {}{tuned}", kind.text(), short.join("."));
            found.push(Proxy { kind, name: full, program: name.into(), version });
        }
    }
    for (name, program) in others() {
        found.push(Proxy { kind: Kind::Other, name, program, version: String::new() });
    }
    let name = Kind::Relay.text().to_owned();
    found.push(Proxy { kind: Kind::Relay, name, program: std::env::current_exe()?, version: String::new() });
    Ok(found)
}

/// The executables `compare-NAME` on the PATH, by NAME; the first of a name counts.
fn others() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for entry in
        std::env::split_paths(&path).filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten()
    {
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_prefix("compare-")) {
            found.entry(name.to_owned()).or_insert_with(|| entry.path());
        }
    }
    found
}

/// The first thing in what a program says of itself that looks like a version.
fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let words = text.split(|c: char| c.is_whitespace() || c == '/');
    let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let word = words.into_iter().find(number)?;
    Some(word.split(['-', '+']).next().unwrap_or(word).to_owned())
}

impl Proxy {
    /// Writes the configuration into the folder; returns the command that runs it.
    pub fn configure(&self, setup: &Setup, folder: &Path) -> Outcome<Vec<String>> {
        let program = self.program.display().to_string();
        let folder = &folder.join(self.slug());
        fs::create_dir_all(folder)?;
        let (template, file) = match self.kind {
            Kind::Outrigger => (include_str!("../proxies/outrigger.toml"), "outrigger.toml"),
            Kind::Haproxy | Kind::HaproxyTuned => (include_str!("../proxies/haproxy.cfg"), "haproxy.cfg"),
            Kind::Nginx | Kind::NginxTuned => (include_str!("../proxies/nginx.conf"), "nginx.conf"),
            Kind::Envoy => (include_str!("../proxies/envoy.yaml"), "envoy.yaml"),
            Kind::Relay | Kind::Other => {
                let service = setup.services.first().ok_or("no service")?;
                let mut command = vec![program];
                command.extend((self.kind == Kind::Relay).then(|| "relay".to_owned()));
                command.push(local(service.port).to_string());
                command.extend(service.instances.iter().map(ToString::to_string));
                return Ok(command);
            }
        };
        let file = folder.join(file);
        fs::write(&file, fill(template, &values(setup, folder, self.kind.is_tuned())?)?)?;
        let file = file.display().to_string();
        let command: &[&str] = match self.kind {
            Kind::Outrigger => &["run", &file],
            Kind::Haproxy | Kind::HaproxyTuned => &["-db", "-f", &file],
            Kind::Nginx | Kind::NginxTuned => &["-c", &file, "-p", &folder.display().to_string()],
            _ => &["-c", &file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"],
        };
        Ok(std::iter::once(program).chain(command.iter().map(|word| (*word).to_owned())).collect())
    }

    /// Its name as that of a file.
    fn slug(&self) -> String {
        self.name.to_lowercase().replace(", ", "-").replace(' ', "-")
    }

    /// Where it writes what it has to say.
    pub fn log(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.log", self.slug()))
    }

    /// Starts it on the proxies' CPU, and waits until every service has answered a request.
    pub fn start(&self, setup: &Setup, folder: &Path) -> Outcome<Running> {
        let command = self.configure(setup, folder)?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let log = self.log(folder);
        let mut running = Running::start(PROXY_CPU, &command, &log)?;
        let begun = Instant::now();
        for service in &setup.services {
            while !answers(service, setup.certificate.as_ref()) {
                if !running.alive() || begun.elapsed() > PATIENCE {
                    return Err(format!("{} does not serve; see {}", self.name, log.display()).into());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        running.settle()?;
        Ok(running)
    }
}

fn answers(service: &Service, certificate: Option<&Certificate>) -> bool {
    let addrs = [local(service.port)];
    let asked = |client: Outcome<Client>| client?.burst(&request("/100"), 1, Until::Count(1));
    let answered = match (service.front, certificate) {
        (Front::Http2, _) => Http2::connect(&addrs, 1, 1, None)
            .and_then(|mut client| client.burst("/100", Some(100), Until::Count(1))),
        (Front::Tls, Some(certificate)) => {
            certificate.client(Offer::Http1).and_then(|tls| asked(Client::secured(&addrs, 1, Some(tls))))
        }
        _ => asked(Client::connect(&addrs, 1)),
    };
    answered.is_ok()
}

fn values(setup: &Setup, folder: &Path, tuned: bool) -> Outcome<Values> {
    let only_if = |is: bool| if is { vec![Values::default()] } else { Vec::new() };
    let service = |(number, service): (usize, &Service)| {
        let addresses: Vec<String> = service.instances.iter().map(ToString::to_string).collect();
        let instance = |(index, addr): (usize, &SocketAddr)| {
            let values = Values::default().with("index", index).with("address", addr);
            values.with("ip", addr.ip()).with("instance_port", addr.port())
        };
        let values = match &setup.certificate {
            Some(Certificate { certificate, key, both }) => Values::default()
                .with("certificate", certificate.display())
                .with("key", key.display())
                .with("both", both.display()),
            None => Values::default(),
        };
        values
            .with("name", format!("s{number}"))
            .with("port", service.port)
            .with("addresses", addresses.join(","))
            // nginx keeps so many idle connections for all instances together.
            .with("pool", (2 * service.instances.len()).clamp(512, setup.connections))
            .with_list("http", only_if(service.front == Front::Plain))
            .with_list("http2", only_if(service.front == Front::Http2))
            .with_list("https", only_if(service.front == Front::Tls))
            .with_list("plain_instances", only_if(!service.tls_instances))
            .with_list("tls_instances", only_if(service.tls_instances))
            .with_list("instance", service.instances.iter().enumerate().map(instance).collect())
    };
    Ok(Values::default()
        .with("workers", setup.workers)
        .with("admin", free_port()?)
        .with("connections", setup.connections)
        .with("files", file_limit().min((setup.connections + SPARE_FILES) as u64))
        .with("check_interval", setup.check_interval)
        .with("folder", folder.display())
        .with_list("tuned", only_if(tuned))
        .with_list("ordinary", only_if(!tuned))
        .with_list("service", setup.services.iter().enumerate().map(service).collect()))
}
