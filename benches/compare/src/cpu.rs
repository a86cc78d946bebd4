//! CPU time per request, by size of the answer.

use crate::Outcome;
use crate::backend::SIZES;
use crate::bench::Bench;
use crate::client::Client;
use crate::lane::{Lane, cpu_rounds};
use crate::proxies::{Kind, Proxy};
use crate::report::{AtMost, Report, plain};
use crate::statistics::Median;
use std::time::Duration;

const BURST: Duration = Duration::from_millis(200);
const CONNECTIONS: usize = 64;

/// By size: the figure, its name, and the targets.
const TARGETS: [(&str, &str, Targets); 3] = [
    ("cpu-100", "100 B", Targets { peers: Some(0.95), envoy: Some(0.30) }),
    ("cpu-10k", "10 KB", Targets { peers: Some(0.95), envoy: None }),
    ("cpu-1m", "1 MB", Targets { peers: Some(0.70), envoy: None }),
];

/// What a ratio is to be at most: against HAProxy and nginx, and against Envoy.
#[derive(Clone, Copy, Default)]
pub struct Targets {
    peers: Option<f64>,
    envoy: Option<f64>,
}

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let starts = bench.rounds_by_start();
    report.section("CPU time per request");
    report.say(&format!(
        "{CONNECTIONS} keep-alive connections, bursts of {} ms in turns, {} rounds over {} starts of the proxies. Medians; ratios are \
         medians of the ratios within each round. \"Tuned\" is with every knob turned for it, at the price of duties: see \
         README.md.",
        BURST.as_millis(),
        bench.options.rounds,
        starts.len(),
    ));
    let mut by_size = vec![vec![Vec::new(); bench.proxies.len()]; SIZES.len()];
    for rounds in starts {
        let started = bench.start_all()?;
        let mut lanes = Vec::new();
        for one in &started {
            let client = Client::connect(&one.addrs, CONNECTIONS)?;
            lanes.push(Lane {
                name: one.name.clone(),
                running: Some(&one.running),
                client,
                in_flight: CONNECTIONS,
            });
        }
        for (samples, (path, _)) in by_size.iter_mut().zip(SIZES) {
            eprintln!("compare: CPU per request, {path}, {rounds} rounds");
            let fresh = cpu_rounds(&mut lanes, path, rounds, BURST, bench.clock)?;
            samples.iter_mut().zip(fresh).for_each(|(all, fresh)| all.extend(fresh));
        }
        reopened(&lanes, report);
    }
    for (samples, (figure, size, targets)) in by_size.iter().zip(TARGETS) {
        tell(&bench.proxies, samples, (figure, size, targets), report);
    }
    Ok(())
}

/// The table, the bars and the targets of one size.
pub fn tell(
    proxies: &[Proxy],
    samples: &[Vec<f64>],
    (figure, size, targets): (&'static str, &str, Targets),
    report: &mut Report,
) {
    let of = |kind: Kind| proxies.iter().position(|one| one.kind == kind).and_then(|at| samples.get(at));
    let peers: Vec<_> = proxies
        .iter()
        .zip(samples)
        .filter(|(one, _)| !matches!(one.kind, Kind::Outrigger | Kind::Relay))
        .collect();
    let mut head = vec![size.to_owned(), "µs per request".to_owned()];
    head.extend(peers.iter().map(|(peer, _)| format!("× {}", peer.name)));
    let mut rows = Vec::new();
    for (one, own) in proxies.iter().zip(samples) {
        let mut row = vec![one.name.clone(), plain(Median::of(own), 1)];
        row.extend(peers.iter().map(|(_, anchor)| plain(Median::of_ratios(own, anchor), 2)));
        rows.push(row);
        if let Some(ratio) = of(Kind::Haproxy).and_then(|anchor| Median::of_ratios(own, anchor)) {
            report.figures.entry(figure).or_default().push((one.name.clone(), ratio.value));
        }
    }
    report.table(&head, &rows);
    for (peer, anchor) in peers {
        let target = match peer.kind {
            Kind::Haproxy | Kind::Nginx => targets.peers,
            Kind::Envoy => targets.envoy,
            _ => None,
        };
        let ratio = of(Kind::Outrigger).and_then(|own| Median::of_ratios(own, anchor));
        if let Some((target, ratio)) = target.zip(ratio) {
            report.goal(&format!("CPU per request, {size}, ÷ {}", peer.name), AtMost(target), "", ratio, 2);
        }
    }
}

/// Connections that were lost on the way would make the numbers mean something else.
pub fn reopened(lanes: &[Lane<'_>], report: &mut Report) {
    for lane in lanes.iter().filter(|lane| lane.client.reopened > 0) {
        report.say(&format!("{} closed {} connections between requests.", lane.name, lane.client.reopened));
    }
}
