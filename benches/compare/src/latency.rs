//! Time that a proxy adds at a fixed rate of requests.

use crate::Outcome;
use crate::bench::{Bench, Started};
use crate::client::{Client, request};
use crate::cpu::reopened;
use crate::lane::Lane;
use crate::proxies::Kind;
use crate::report::{AtMost, Report, plain};
use crate::statistics::{Median, quantile};
use std::time::Duration;

const RATE: u32 = 2_000;
const REQUESTS: u32 = 800;
const CONNECTIONS: usize = 16;
const DIRECT: &str = "direct";

pub fn measure(bench: &Bench, started: &[Started], report: &mut Report) -> Outcome<()> {
    let rounds = bench.options.rounds;
    report.section(&format!("Latency at {RATE} requests per second"));
    report.say(&format!(
        "{CONNECTIONS} connections, 100 B, {REQUESTS} requests in each turn, {rounds} rounds. Requests are due at fixed times whatever \
         the answers do, and a latency counts from then. \"Added\" is over the direct path in the same round. The p99 is \
         mostly the machine's noise."
    ));
    let mut lanes = Vec::new();
    for one in started {
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

    let request = request("/100");
    let mut samples = vec![(Vec::new(), Vec::new()); lanes.len()];
    for round in 0..=rounds {
        for turn in 0..lanes.len() {
            let which = (turn + round) % lanes.len();
            let (Some(lane), Some(samples)) = (lanes.get_mut(which), samples.get_mut(which)) else {
                continue;
            };
            let mut took = lane
                .client
                .paced(&request, RATE, REQUESTS)
                .map_err(|error| format!("{}: {error}", lane.name))?;
            let at =
                |took: &mut [Duration], share| quantile(took, share).map_or(0.0, |d| d.as_secs_f64() * 1e6);
            // The first round warms up.
            if round > 0 {
                samples.0.push(at(&mut took, 0.5));
                samples.1.push(at(&mut took, 0.99));
            }
        }
    }
    let direct = samples.last().cloned().unwrap_or_default();
    let added = |own: &[f64], direct: &[f64]| {
        own.iter().zip(direct).map(|(own, direct)| own - direct).collect::<Vec<_>>()
    };
    let added_p50: Vec<Vec<f64>> = samples.iter().map(|(p50, _)| added(p50, &direct.0)).collect();
    let of = |kind: Kind| started.iter().position(|one| one.kind == kind).and_then(|at| added_p50.get(at));
    let anchor = of(Kind::Haproxy);
    let head = ["µs", "p50", "p99", "added p50", "added p99", "added p50 × HAProxy"].map(str::to_owned);
    let mut rows = Vec::new();
    for ((lane, (p50, p99)), own) in lanes.iter().zip(&samples).zip(&added_p50) {
        let mut row = vec![lane.name.clone(), plain(Median::of(p50), 0), plain(Median::of(p99), 0)];
        if lane.name == DIRECT {
            row.extend(["–", "–", "–"].map(str::to_owned));
        } else {
            row.push(plain(Median::of(own), 0));
            row.push(plain(Median::of(&added(p99, &direct.1)), 0));
            row.push(plain(anchor.and_then(|anchor| Median::of_ratios(own, anchor)), 2));
            if let Some(median) = Median::of(own) {
                report.figures.entry("latency").or_default().push((lane.name.clone(), median.value));
            }
        }
        rows.push(row);
    }
    report.table(&head, &rows);
    let ratio = of(Kind::Outrigger).zip(anchor).and_then(|(own, anchor)| Median::of_ratios(own, anchor));
    if let (Some(ratio), Some(peer)) = (ratio, started.iter().find(|one| one.kind == Kind::Haproxy)) {
        report.goal(&format!("p50 added at {RATE} requests/s, ÷ {}", peer.name), AtMost(0.95), "", ratio, 2);
    }
    reopened(&lanes, report);
    Ok(())
}
