//! Time that a proxy adds at a fixed rate of requests.

use crate::Outcome;
use crate::bench::Bench;
use crate::client::{Client, request};
use crate::cpu::reopened;
use crate::lane::{Lane, turns};
use crate::proxies::Kind;
use crate::report::{AtMost, Report, plain};
use crate::statistics::{Median, quantile};
use std::time::Duration;

const RATE: u32 = 2_000;
/// In each turn: 0.4 s, and half of that in a quick run.
const REQUESTS: u32 = 800;
const CONNECTIONS: usize = 16;
const DIRECT: &str = "direct";

/// The p50 and the p99 of each round.
type Rounds = (Vec<f64>, Vec<f64>);

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let starts = bench.rounds_by_start();
    let requests = if bench.options.quick { REQUESTS / 2 } else { REQUESTS };
    report.section(&format!("Latency at {RATE} requests per second"));
    report.say(&format!(
        "{CONNECTIONS} connections, 100 B, {requests} requests in each turn, {} rounds over {} starts of the proxies. Requests are due at \
         fixed times whatever the answers do, and a latency counts from then. \"Added\" is over the direct path in the same \
         round. The p99 is mostly the machine's noise.",
        bench.options.rounds,
        starts.len(),
    ));
    let mut samples = vec![Rounds::default(); bench.proxies.len() + 1];
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
        let client = Client::connect(&bench.instances, CONNECTIONS)?;
        lanes.push(Lane { name: DIRECT.to_owned(), running: None, client, in_flight: CONNECTIONS });
        take_turns(&mut lanes, requests, rounds, &mut samples)?;
        reopened(&lanes, report);
    }
    tell(bench, &samples, report);
    Ok(())
}

fn take_turns(lanes: &mut [Lane<'_>], requests: u32, rounds: usize, samples: &mut [Rounds]) -> Outcome<()> {
    let request = request("/100");
    for round in 0..=rounds {
        for which in turns(round, lanes.len()) {
            let (Some(lane), Some(samples)) = (lanes.get_mut(which), samples.get_mut(which)) else {
                continue;
            };
            let took = lane.client.paced(&request, RATE, requests);
            let mut took = took.map_err(|error| format!("{}: {error}", lane.name))?;
            let at =
                |took: &mut [Duration], share| quantile(took, share).map_or(0.0, |d| d.as_secs_f64() * 1e6);
            // The first round warms up.
            if round > 0 {
                samples.0.push(at(&mut took, 0.5));
                samples.1.push(at(&mut took, 0.99));
            }
        }
    }
    Ok(())
}

fn tell(bench: &Bench, samples: &[Rounds], report: &mut Report) {
    let direct = samples.last().cloned().unwrap_or_default();
    let added = |own: &[f64], direct: &[f64]| {
        own.iter().zip(direct).map(|(own, direct)| own - direct).collect::<Vec<_>>()
    };
    let added_p50: Vec<Vec<f64>> = samples.iter().map(|(p50, _)| added(p50, &direct.0)).collect();
    let of =
        |kind: Kind| bench.proxies.iter().position(|one| one.kind == kind).and_then(|at| added_p50.get(at));
    let anchor = of(Kind::Haproxy);
    let head = ["µs", "p50", "p99", "added p50", "added p99", "added p50 × HAProxy"].map(str::to_owned);
    let mut rows = Vec::new();
    let names = bench.proxies.iter().map(|proxy| proxy.name.as_str()).chain([DIRECT]);
    for ((name, (p50, p99)), own) in names.zip(samples).zip(&added_p50) {
        let mut row = vec![name.to_owned(), plain(Median::of(p50), 0), plain(Median::of(p99), 0)];
        if name == DIRECT {
            row.extend(["–", "–", "–"].map(str::to_owned));
        } else {
            row.push(plain(Median::of(own), 0));
            row.push(plain(Median::of(&added(p99, &direct.1)), 0));
            row.push(plain(anchor.and_then(|anchor| Median::of_ratios(own, anchor)), 2));
            if let Some(median) = Median::of(own) {
                report.figures.entry("latency").or_default().push((name.to_owned(), median.value));
            }
        }
        rows.push(row);
    }
    report.table(&head, &rows);
    let ratio = of(Kind::Outrigger).zip(anchor).and_then(|(own, anchor)| Median::of_ratios(own, anchor));
    if let (Some(ratio), Some(peer)) = (ratio, bench.proxies.iter().find(|one| one.kind == Kind::Haproxy)) {
        report.goal(&format!("p50 added at {RATE} requests/s, ÷ {}", peer.name), AtMost(0.95), "", ratio, 2);
    }
}
