//! What grows with the number of endpoints, services, client connections and workers.

use crate::Outcome;
use crate::bench::{Bench, backend};
use crate::client::{Client, Until, request};
use crate::lane::{Lane, cpu_rounds};
use crate::net::free_port;
use crate::process::{Running, file_limit};
use crate::proxies::{Front, Kind, Proxy, Service, Setup};
use crate::report::{Report, plain};
use crate::statistics::Median;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const BURST: Duration = Duration::from_millis(200);
const IN_FLIGHT: usize = 64;

/// Outrigger starts at most so many checks per second in all; with many instances HAProxy is told the same.
const CHECKS_PER_SECOND: usize = 50;

/// For the connections of the other sizes, listeners, logs.
const SPARE_FILES: u64 = 2_000;

/// One size of something, in front of which a proxy of its own is started.
struct Case {
    label: String,
    setup: Setup,
    clients: usize,
}

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    report.section("Scale");
    report.say(&format!(
        "CPU time per request (100 B) with {IN_FLIGHT} requests under way, {} rounds. The sizes of one proxy run side by side and take \
         turns; ratios are against its smallest size in the same round.",
        rounds(bench)
    ));
    let few = &bench.instances;

    // 10,000 loopback addresses that one listener serves.
    let port = free_port()?;
    let _behind = backend(&bench.options, &[(Ipv4Addr::UNSPECIFIED, port).into()], None)?;
    let many: Vec<SocketAddr> =
        (0..10_000_u32).map(|n| (Ipv4Addr::from(0x7f01_0001 + n), port).into()).collect();
    // Each process holds so many at one time, beside what it needs itself.
    let room = usize::try_from(file_limit().saturating_sub(SPARE_FILES)).unwrap_or(usize::MAX);
    let counts = [3, 100, if bench.options.quick { 1_000 } else { many.len() }.min(room)];
    topic(bench, report, "endpoints", || {
        let case = |count: usize| {
            let instances: Vec<SocketAddr> = many.iter().take(count).copied().collect();
            let setup = Setup {
                connections: 16_384,
                check_interval: count.div_ceil(CHECKS_PER_SECOND).max(10) as u32,
                ..Setup::one(&instances)?
            };
            Ok(Case { label: count.to_string(), setup, clients: IN_FLIGHT })
        };
        counts.into_iter().map(case).collect()
    })?;

    topic(bench, report, "services", || {
        let case = |count: usize| {
            let service = || {
                Ok(Service {
                    port: free_port()?,
                    instances: few.clone(),
                    front: Front::Plain,
                    tls_instances: false,
                })
            };
            let services = (0..count).map(|_| service()).collect::<Outcome<Vec<_>>>()?;
            let setup = Setup { services, ..Setup::one(few)? };
            Ok(Case { label: count.to_string(), setup, clients: 200 })
        };
        [1, 200].into_iter().map(case).collect()
    })?;

    // Outrigger allows as many clients as it has two descriptors for, less some of its own.
    let allowed = usize::try_from(file_limit().saturating_sub(400) / 2).unwrap_or(usize::MAX);
    let most = if bench.options.quick { 2_000 } else { 10_000 }.min(allowed);
    topic(bench, report, "client connections", || {
        let case = |clients: usize| {
            let setup = Setup { connections: 16_384, ..Setup::one(few)? };
            Ok(Case { label: clients.to_string(), setup, clients })
        };
        [IN_FLIGHT, most].into_iter().map(case).collect()
    })?;
    evenness(bench, report)
}

fn rounds(bench: &Bench) -> usize {
    if bench.options.quick { 4 } else { bench.options.rounds.div_ceil(2) }
}

/// Measures the cases of each proxy side by side, and prints one table for all proxies.
fn topic(
    bench: &Bench,
    report: &mut Report,
    what: &str,
    cases: impl Fn() -> Outcome<Vec<Case>>,
) -> Outcome<()> {
    let mut head = vec![what.to_owned()];
    let mut rows = Vec::new();
    for proxy in &bench.proxies {
        let wanted = match proxy.kind {
            Kind::Outrigger => true,
            // Most of the time goes into the others here, and a quick run proves nothing anyway.
            Kind::Haproxy | Kind::Nginx => !bench.options.quick,
            _ => false,
        };
        if !wanted {
            continue;
        }
        eprintln!("compare: {what}, {}", proxy.name.clone());
        let cases = cases()?;
        let row = row(bench, proxy, what, &cases, &mut head)
            .map_err(|error| format!("{what}: {}: {error}", proxy.name.clone()))?;
        rows.push(row);
    }
    report.table(&head, &rows);
    Ok(())
}

fn row(
    bench: &Bench,
    proxy: &Proxy,
    what: &str,
    cases: &[Case],
    head: &mut Vec<String>,
) -> Outcome<Vec<String>> {
    let request = request("/100");
    let mut running = Vec::new();
    for case in cases {
        let folder = bench.folder(&format!("scale/{}-{}", what.replace(' ', "-"), case.label));
        running.push(proxy.start(&case.setup, &folder)?);
    }
    let mut lanes = Vec::new();
    for (case, running) in cases.iter().zip(&running) {
        let mut client = Client::connect(&case.setup.addrs(), case.clients)?;
        // Every connection has been used, and every instance connected to, before it counts.
        let instances = case.setup.services.first().map_or(0, |service| service.instances.len());
        client.burst(&request, IN_FLIGHT, Until::Count(2 * instances.max(case.clients)))?;
        lanes.push(Lane { name: case.label.clone(), running: Some(running), client, in_flight: IN_FLIGHT });
    }
    let samples = cpu_rounds(&mut lanes, "/100", rounds(bench), BURST, bench.clock)?;
    let smallest = samples.first().ok_or("no cases")?;
    let (mut row, first) = (vec![proxy.name.clone()], head.len() == 1);
    for ((case, running), own) in cases.iter().zip(&running).zip(&samples) {
        if first {
            head.extend([format!("{}: µs", case.label), "×".to_owned(), "MiB".to_owned()]);
        }
        row.push(plain(Median::of(own), 1));
        row.push(plain(Median::of_ratios(own, smallest), 2));
        row.push(format!("{:.1}", running.resident()?.0 as f64 / 1024.0));
    }
    Ok(row)
}

/// How many connections each of two workers got: told by whose CPU time grows when a connection asks.
fn evenness(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let Some(proxy) = bench.proxies.iter().find(|proxy| proxy.kind == Kind::Outrigger) else { return Ok(()) };
    let setup = Setup { workers: 2, ..Setup::one(&bench.instances)? };
    let running = proxy.start(&setup, &bench.folder("scale/workers"))?;
    let mut rows = Vec::new();
    for count in [8, 64, 500] {
        let mut clients =
            (0..count).map(|_| Client::connect(&setup.addrs(), 1)).collect::<Outcome<Vec<Client>>>()?;
        let mut shares = [0, 0];
        for client in &mut clients {
            let before = workers(&running)?;
            client.burst(&request("/100"), 1, Until::Count(20))?;
            let after = workers(&running)?;
            let spent = [after[0].saturating_sub(before[0]), after[1].saturating_sub(before[1])];
            shares[usize::from(spent[1] > spent[0])] += 1;
        }
        rows.push(vec![count.to_string(), shares[0].to_string(), shares[1].to_string()]);
    }
    report.say("Connections of Outrigger with two workers:");
    report.table(&["connections", "first worker", "second worker"].map(str::to_owned), &rows);
    Ok(())
}

fn workers(running: &Running) -> Outcome<[u64; 2]> {
    let of: Vec<u64> = running
        .threads()?
        .iter()
        .filter(|(name, _)| name.starts_with("worker-"))
        .map(|(_, time)| *time)
        .collect();
    of.try_into().map_err(|_| "Outrigger has not two threads named worker-N".into())
}
