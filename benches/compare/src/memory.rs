//! Resident memory: at the start, and for each idle client connection.

use crate::Outcome;
use crate::bench::Bench;
use crate::client::{Client, Until, request};
use crate::process::Running;
use crate::proxies::{Kind, Setup};
use crate::report::{AtMost, Report};
use crate::statistics::Median;
use std::time::Duration;

const SOME: usize = 1_000;
const MANY: usize = 5_000;

/// What connections do before they are idle.
#[derive(Clone, Copy, PartialEq)]
enum Idle {
    /// They made one request and wait.
    Waiting,
    /// They never said anything.
    Silent,
}

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    report.section("Memory");
    report.say(
        "Resident (MiB) of all processes of a proxy, each freshly started; in brackets with shared pages divided among those who \
         share them. Per connection: from the start to 5,000.",
    );
    let mut head: Vec<String> = ["resident, MiB", "start"].map(str::to_owned).into();
    for kind in ["waiting", "silent"] {
        head.extend([
            format!("{SOME} {kind}"),
            format!("{MANY} {kind}"),
            format!("KiB per {kind} connection"),
        ]);
    }
    let mut rows = Vec::new();
    for proxy in bench.proxies.iter().filter(|proxy| proxy.kind != Kind::Relay && !proxy.kind.is_tuned()) {
        let mut row = vec![proxy.name.clone()];
        for idle in [Idle::Waiting, Idle::Silent] {
            let setup = Setup::one(&bench.instances)?;
            let running = proxy.start(&setup, &bench.folder("memory"))?;
            let (start, share) = settled(&running)?;
            let mut client = Client::connect(&[], 0)?;
            let mut levels = Vec::new();
            for count in [SOME, MANY] {
                client.grow(&setup.addrs(), count)?;
                if idle == Idle::Waiting {
                    // The ring of idle connections goes round once: each has asked, the early ones twice.
                    client.burst(&request("/100"), 32, Until::Count(count))?;
                }
                levels.push(settled(&running)?.0);
            }
            let per = levels.last().map_or(0.0, |level| (*level as f64 - start as f64) / MANY as f64);
            if idle == Idle::Waiting {
                row.push(format!("{:.1} ({:.1})", mib(start), mib(share)));
            }
            row.extend(levels.iter().map(|level| format!("{:.1}", mib(*level))));
            row.push(format!("{per:.1}"));
            let (figure, what) = match idle {
                Idle::Waiting => ("memory-waiting", "that made a request and waits"),
                Idle::Silent => ("memory-silent", "that never said anything"),
            };
            report.figures.entry(figure).or_default().push((proxy.name.clone(), per));
            if proxy.kind == Kind::Outrigger {
                if idle == Idle::Waiting {
                    report.goal("resident at the start", AtMost(8.0), "MiB", exactly(mib(start)), 1);
                }
                report.goal(&format!("memory per connection {what}"), AtMost(12.0), "KiB", exactly(per), 1);
            }
        }
        rows.push(row);
    }
    report.table(&head, &rows);
    Ok(())
}

/// Resident memory once it no longer changes, or after two seconds.
fn settled(running: &Running) -> Outcome<(u64, u64)> {
    let mut last = running.resident()?;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        let now = running.resident()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn exactly(value: f64) -> Median {
    Median { value, low: value, high: value }
}
