//! CPU time per request with HTTP/2 from clients, with TLS on either side, and of new connections over TLS.

use crate::Outcome;
use crate::backend::SIZES;
use crate::bench::{Bench, Started, backend};
use crate::client::Client;
use crate::cpu::{Targets, tell};
use crate::http2::Http2;
use crate::lane::{Lane, Load, cpu_rounds};
use crate::net::{free_port, local};
use crate::proxies::{Front, Kind, Proxy, Setup};
use crate::report::Report;
use crate::wire::{Certificate, Offer};
use std::net::SocketAddr;
use std::time::Duration;

const BURST: Duration = Duration::from_millis(150);

/// Of HTTP/1.1.
const CONNECTIONS: usize = 64;

/// New ones at once.
const HANDSHAKES: usize = 16;

/// Of HTTP/2, and the streams of each.
const MULTIPLEXED: (usize, usize) = (4, 16);

/// One table: what is asked for, by whom.
#[derive(Clone, Copy)]
struct Case {
    /// In the pictures.
    figure: &'static str,
    title: &'static str,
    /// Which of the part's services.
    service: usize,
    client: Speaks,
    path: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http1Tls,
    /// With a new connection for each request.
    Http1TlsAnew,
    Http2,
    Http2Tls,
}

const HTTP2: [Case; 4] = [
    case("h2-100", "HTTP/2, 100 B", 0, Speaks::Http2, 0),
    case("h2-10k", "HTTP/2, 10 KB", 0, Speaks::Http2, 1),
    case("h2-tls-100", "HTTP/2 over TLS, 100 B", 1, Speaks::Http2Tls, 0),
    case("h2-tls-10k", "HTTP/2 over TLS, 10 KB", 1, Speaks::Http2Tls, 1),
];

const TLS: [Case; 7] = [
    case("tls-100", "HTTPS, 100 B", 0, Speaks::Http1Tls, 0),
    case("tls-10k", "HTTPS, 10 KB", 0, Speaks::Http1Tls, 1),
    case("tls-1m", "HTTPS, 1 MB", 0, Speaks::Http1Tls, 2),
    case("tls-new", "HTTPS, a new connection for each", 0, Speaks::Http1TlsAnew, 0),
    case("tls-instances-100", "TLS with the instances, 100 B", 1, Speaks::Http1, 0),
    case("tls-instances-10k", "TLS with the instances, 10 KB", 1, Speaks::Http1, 1),
    case("tls-instances-1m", "TLS with the instances, 1 MB", 1, Speaks::Http1, 2),
];

const fn case(
    figure: &'static str,
    title: &'static str,
    service: usize,
    client: Speaks,
    size: usize,
) -> Case {
    Case { figure, title, service, client, path: SIZES[size].0 }
}

pub fn http2(bench: &Bench, report: &mut Report) -> Outcome<()> {
    report.section("CPU time per request with HTTP/2");
    let (connections, streams) = MULTIPLEXED;
    report.say(&format!(
        "{connections} connections from clients with {streams} streams each, without TLS by prior knowledge, with it by ALPN; HTTP/1.1 to \
         the instances, without TLS."
    ));
    let certificate = Certificate::make(&bench.folder("certificate"))?;
    let instances = bench.instances.as_slice();
    let services = [(Front::Http2, instances, false), (Front::Tls, instances, false)];
    measure(bench, &HTTP2, &services, &certificate, report)
}

pub fn tls(bench: &Bench, report: &mut Report) -> Outcome<()> {
    report.section("CPU time per request with TLS");
    report.say(&format!(
        "HTTP/1.1 on {CONNECTIONS} keep-alive connections; new connections {HANDSHAKES} at once, with one request each and never \
         resumed. With TLS from clients it is plain to the instances, and the other way round."
    ));
    let certificate = Certificate::make(&bench.folder("certificate"))?;
    let secure: Vec<SocketAddr> = (0..3).map(|_| free_port().map(local)).collect::<Outcome<_>>()?;
    let _secure = backend(&bench.options, &secure, Some(&certificate))?;
    let services = [(Front::Tls, bench.instances.as_slice(), false), (Front::Plain, secure.as_slice(), true)];
    measure(bench, &TLS, &services, &certificate, report)
}

impl Case {
    /// Proxies with other buffers take part.
    fn is_for_tuned(&self) -> bool {
        self.path == SIZES[2].0
    }
}

/// Measures the cases one after the other, all proxies side by side.
fn measure(
    bench: &Bench,
    cases: &[Case],
    services: &[(Front, &[SocketAddr], bool)],
    certificate: &Certificate,
    report: &mut Report,
) -> Outcome<()> {
    let proxies: Vec<Proxy> = bench
        .proxies
        .iter()
        .filter(|proxy| !matches!(proxy.kind, Kind::Other | Kind::Relay))
        .filter(|proxy| !proxy.kind.is_tuned() || cases.iter().any(Case::is_for_tuned))
        .cloned()
        .collect();
    let starts = bench.rounds_by_start();
    report.say(&format!(
        "TLS 1.3 with AES-128-GCM and X25519, a certificate of ECDSA with P-256. Bursts of {} ms in turns, {} rounds over {} starts of \
         the proxies.",
        BURST.as_millis(),
        bench.options.rounds,
        starts.len()
    ));
    let mut by_case = vec![vec![Vec::new(); proxies.len()]; cases.len()];
    for rounds in starts {
        let mut started = Vec::new();
        for proxy in &proxies {
            let setup = Setup::of(services, Some(certificate))?;
            started.push(bench.start_with(proxy, &setup, "protocols")?);
        }
        for (samples, case) in by_case.iter_mut().zip(cases) {
            eprintln!("compare: {}, {rounds} rounds", case.title);
            let (mut running, mut own) = (Vec::new(), Vec::new());
            for ((one, proxy), samples) in started.iter().zip(&proxies).zip(samples) {
                if case.is_for_tuned() || !proxy.kind.is_tuned() {
                    running.push(one);
                    own.push(samples);
                }
            }
            let fresh = rounds_of(bench, case, &running, certificate, rounds)?;
            own.into_iter().zip(fresh).for_each(|(all, fresh)| all.extend(fresh));
        }
    }
    for (samples, case) in by_case.iter().zip(cases) {
        let (proxies, samples): (Vec<Proxy>, Vec<Vec<f64>>) =
            proxies.iter().cloned().zip(samples.iter().cloned()).filter(|(_, own)| !own.is_empty()).unzip();
        tell(&proxies, &samples, (case.figure, case.title, Targets::default()), report);
    }
    Ok(())
}

/// CPU time per request, by proxy and round.
fn rounds_of(
    bench: &Bench,
    case: &Case,
    started: &[&Started],
    certificate: &Certificate,
    rounds: usize,
) -> Outcome<Vec<Vec<f64>>> {
    let tls = match case.client {
        Speaks::Http1 | Speaks::Http2 => None,
        Speaks::Http1Tls | Speaks::Http1TlsAnew => Some(certificate.client(Offer::Http1)?),
        Speaks::Http2Tls => Some(certificate.client(Offer::Http2)?),
    };
    match case.client {
        Speaks::Http1 | Speaks::Http1Tls => {
            let connect = |addr| Client::secured(&[addr], CONNECTIONS, tls.clone());
            take_turns(bench, case, started, CONNECTIONS, connect, rounds)
        }
        Speaks::Http1TlsAnew => {
            let connect = |addr| Client::secured(&[addr], HANDSHAKES, tls.clone()).map(Client::anew);
            take_turns(bench, case, started, HANDSHAKES, connect, rounds)
        }
        Speaks::Http2 | Speaks::Http2Tls => {
            let (connections, streams) = MULTIPLEXED;
            let connect = |addr| Http2::connect(&[addr], connections, streams, tls.as_ref());
            take_turns(bench, case, started, connections * streams, connect, rounds)
        }
    }
}

fn take_turns<L: Load>(
    bench: &Bench,
    case: &Case,
    started: &[&Started],
    in_flight: usize,
    connect: impl Fn(SocketAddr) -> Outcome<L>,
    rounds: usize,
) -> Outcome<Vec<Vec<f64>>> {
    let mut lanes = Vec::new();
    for Started { name, running, addrs } in started {
        let client = connect(*addrs.get(case.service).ok_or("no such service")?)?;
        lanes.push(Lane { name: name.clone(), running: Some(running), client, in_flight });
    }
    cpu_rounds(&mut lanes, case.path, rounds, BURST, bench.clock)
}
