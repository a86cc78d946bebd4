//! The scene: the instances behind, and the proxies in front of them.

use crate::Outcome;
use crate::backend::MIRROR;
use crate::client::{Client, request};
use crate::net::{free_port, local};
use crate::options::Options;
use crate::process::{Clock, LOAD_CPU, Running};
use crate::proxies::{Kind, Proxy, Setup};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub struct Bench {
    pub options: Options,
    pub clock: Clock,
    pub proxies: Vec<Proxy>,
    /// Three instances.
    pub instances: Vec<SocketAddr>,
    _backend: Running,
}

/// A proxy with one service, ready.
pub struct Started {
    pub name: String,
    pub running: Running,
    pub addrs: Vec<SocketAddr>,
}

/// Fresh processes in a paired part: where a process happens to lie in memory makes it faster or slower as a whole, which
/// no number of rounds would show.
const STARTS: usize = 4;

impl Bench {
    /// How many rounds follow each start of the proxies.
    pub fn rounds_by_start(&self) -> Vec<usize> {
        let (rounds, starts) = (self.options.rounds, if self.options.quick { 2 } else { STARTS });
        (0..starts)
            .map(|n| rounds / starts + usize::from(n < rounds % starts))
            .filter(|rounds| *rounds > 0)
            .collect()
    }

    pub fn new(options: Options, proxies: Vec<Proxy>) -> Outcome<Self> {
        let clock = Clock::choose();
        let instances = (0..3).map(|_| free_port().map(local)).collect::<Outcome<Vec<_>>>()?;
        let backend = backend(&options, &instances)?;
        Ok(Self { options, clock, proxies, instances, _backend: backend })
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        std::path::absolute(self.options.folder.join(name)).unwrap_or_else(|_| self.options.folder.join(name))
    }

    /// Starts all proxies in front of the three instances.
    pub fn start_all(&self) -> Outcome<Vec<Started>> {
        self.proxies.iter().map(|proxy| self.start(proxy)).collect()
    }

    pub fn start(&self, proxy: &Proxy) -> Outcome<Started> {
        let setup = Setup::one(&self.instances)?;
        let running = proxy.start(&setup, &self.folder("side-by-side"))?;
        if proxy.kind != Kind::Relay {
            does_its_duty(&setup.addrs()).map_err(|error| format!("{}: {error}", proxy.name))?;
        }
        Ok(Started { name: proxy.name.clone(), running, addrs: setup.addrs() })
    }
}

/// A proxy that leaves out work that the others do would be cheap for the wrong reason.
fn does_its_duty(addrs: &[SocketAddr]) -> Outcome<()> {
    let mut stream = TcpStream::connect(addrs)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&request(MIRROR))?;
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    while seen.matches("\r\n\r\n").count() < 2 {
        match stream.read(&mut buffer)? {
            0 => return Err("a mirrored request broke off".into()),
            read => {
                seen.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).to_lowercase())
            }
        }
    }
    let (_, request) = seen.split_once("\r\n\r\n").unwrap_or_default();
    // Which address is theirs to say: Envoy puts its own in place of a loopback address.
    for duty in ["x-forwarded-for: ", "host: bench.local"] {
        if !request.lines().any(|line| line.starts_with(duty)) {
            return Err(format!("instances do not get \"{duty}\" but:\n{request}").into());
        }
    }
    Ok(())
}

/// Starts one process of instances on the load's CPU.
pub fn backend(options: &Options, addrs: &[SocketAddr]) -> Outcome<Running> {
    let own = std::env::current_exe()?.display().to_string();
    let mut command = vec![own, "backend".to_owned()];
    command.extend(addrs.iter().map(ToString::to_string));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut backend = Running::start(LOAD_CPU, &command, &options.folder.join("backend.log"))?;
    let begun = Instant::now();
    for addr in addrs {
        let addr = if addr.ip().is_unspecified() { local(addr.port()) } else { *addr };
        while Client::connect(&[addr], 1).is_err() {
            if !backend.alive() || begun.elapsed() > Duration::from_secs(10) {
                return Err("the instances do not start; see backend.log".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(backend)
}
