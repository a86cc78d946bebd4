//! Requests per second, by wrk: how fast one core of a proxy answers when the load does not wait.

use crate::Outcome;
use crate::bench::Bench;
use crate::lane::turns;
use crate::net::local;
use crate::report::{Report, plain};
use crate::statistics::Median;
use std::process::Command;

const SECONDS: u32 = 1;
const CONNECTIONS: u32 = 64;

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    if Command::new("wrk").arg("-v").output().is_err() {
        return Err("wrk is missing".into());
    }
    let rounds = (bench.options.rounds / 5).max(1);
    report.section("Requests per second");
    report.say(&format!(
        "wrk with one thread and {CONNECTIONS} connections, 100 B, turns of {SECONDS} s, {rounds} rounds. wrk and the instances share \
         a core, so the fastest are held back by the load: the CPU time per request says more."
    ));
    let started = bench.start_all()?;
    let mut lanes: Vec<(&str, u16)> =
        started.iter().filter_map(|one| Some((one.name.as_str(), one.addrs.first()?.port()))).collect();
    lanes.extend(bench.instances.first().map(|addr| ("direct", addr.port())));
    let mut samples = vec![Vec::new(); lanes.len()];
    for round in 0..rounds {
        for which in turns(round, lanes.len()) {
            if let (Some((name, port)), Some(samples)) = (lanes.get(which), samples.get_mut(which)) {
                samples.push(wrk(*port).map_err(|error| format!("{name}: {error}"))?);
            }
        }
    }
    let anchor =
        started.iter().position(|one| one.name.starts_with("HAProxy")).and_then(|at| samples.get(at));
    let head = ["wrk", "requests/s", "× HAProxy"].map(str::to_owned);
    let row = |((name, _), own): (&(&str, u16), &Vec<f64>)| {
        let ratio = anchor.and_then(|anchor| Median::of_ratios(own, anchor));
        vec![(*name).to_owned(), plain(Median::of(own), 0), plain(ratio, 2)]
    };
    let rows: Vec<_> = lanes.iter().zip(&samples).map(row).collect();
    report.table(&head, &rows);
    Ok(())
}

fn wrk(port: u16) -> Outcome<f64> {
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{CONNECTIONS}"),
            &format!("-d{SECONDS}s"),
            &format!("http://{}/100", local(port)),
        ])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(format!("wrk saw failures:\n{text}").into());
    }
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.ok_or_else(|| "wrk printed no rate".into())
}
