//! The scene: the instances behind, and the proxies in front of them.

use crate::Outcome;
use crate::backend::MIRROR;
use crate::client::{Client, request};
use crate::http2::Http2;
use crate::net::{free_port, local};
use crate::options::Options;
use crate::process::{Clock, LOAD_CPU, Running};
use crate::proxies::{Front, Kind, Proxy, Setup};
use crate::wire::{Certificate, Offer, Wire};
use std::io::ErrorKind;
use std::net::SocketAddr;
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
        let backend = backend(&options, &instances, None)?;
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
        self.start_with(proxy, &Setup::one(&self.instances)?, "side-by-side")
    }

    /// Starts a proxy; its configuration and its log go into this folder.
    pub fn start_with(&self, proxy: &Proxy, setup: &Setup, folder: &str) -> Outcome<Started> {
        let running = proxy.start(setup, &self.folder(folder))?;
        if proxy.kind != Kind::Relay {
            does_its_duty(setup).map_err(|error| format!("{}: {error}", proxy.name))?;
        }
        Ok(Started { name: proxy.name.clone(), running, addrs: setup.addrs() })
    }
}

/// A proxy that leaves out work that the others do would be cheap for the wrong reason.
fn does_its_duty(setup: &Setup) -> Outcome<()> {
    for service in &setup.services {
        let addr = local(service.port);
        let certificate = || setup.certificate.as_ref().ok_or("TLS without a certificate");
        let (offers, security): (&[Option<Offer>], _) = match service.front {
            Front::Plain => (&[None], None),
            Front::Http2 => (&[Some(Offer::Http2)], None),
            Front::Tls => (&[Some(Offer::Http1), Some(Offer::Http2)], Some(certificate()?)),
        };
        for offer in offers {
            let tls =
                security.zip(*offer).map(|(certificate, offer)| certificate.client(offer)).transpose()?;
            let request = if *offer == Some(Offer::Http2) {
                Http2::fetch(&[addr], MIRROR, tls.as_ref())?
            } else {
                mirrored(Wire::connect(addr, tls.as_ref())?)?
            };
            let request = String::from_utf8_lossy(&request).to_lowercase();
            // Which address is theirs to say: Envoy puts its own in place of a loopback address.
            let secure = (service.front == Front::Tls).then_some("x-forwarded-proto: https");
            for duty in ["x-forwarded-for: ", "host: bench.local"].into_iter().chain(secure) {
                if !request.lines().any(|line| line.starts_with(duty)) {
                    return Err(format!("instances do not get \"{duty}\" but:\n{request}").into());
                }
            }
        }
    }
    Ok(())
}

/// The head of a request as an instance got it.
fn mirrored(mut wire: Wire) -> Outcome<Vec<u8>> {
    let begun = Instant::now();
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    wire.write(&request(MIRROR))?;
    loop {
        match wire.read(&mut buffer) {
            Ok(0) => return Err("a mirrored request broke off".into()),
            Ok(read) => seen.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if begun.elapsed() > Duration::from_secs(5) {
                    return Err("a mirrored request was not answered".into());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
        let mut ends = memchr::memmem::find_iter(&seen, b"\r\n\r\n");
        if let (Some(head), Some(_)) = (ends.next(), ends.next()) {
            return Ok(seen.split_off(head + 4));
        }
    }
}

/// Starts one process of instances on the load's CPU; with a certificate they speak TLS.
pub fn backend(
    options: &Options,
    addrs: &[SocketAddr],
    certificate: Option<&Certificate>,
) -> Outcome<Running> {
    let own = std::env::current_exe()?.display().to_string();
    let mut command = vec![own, if certificate.is_some() { "backend-tls" } else { "backend" }.to_owned()];
    if let Some(certificate) = certificate {
        command.extend([&certificate.certificate, &certificate.key].map(|file| file.display().to_string()));
    }
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
