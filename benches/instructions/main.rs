//! Counts the instructions that the release binary spends on a request, by kind of traffic.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement, not the product")]

mod mixes;
mod sidecar;
mod traffic;

use mixes::Mix;
use sidecar::Sidecar;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use traffic::Clients;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut args = std::env::args_os().skip(1);
    let binary = PathBuf::from(args.next().ok_or("binary")?);
    let folder = PathBuf::from(args.next().ok_or("folder")?);
    let names: Vec<_> = args.map(|a| a.to_string_lossy().into_owned()).collect();
    for mix in mixes::ALL {
        if !names.is_empty() && !names.iter().any(|n| n == mix.name) { continue; }
        let t = std::time::Instant::now();
        let r = measure(mix, &binary, &folder.join(mix.name))?;
        println!("{:10} {r} {:?}", mix.name, t.elapsed());
    }
    Ok(())
}

/// Instructions per request, as the difference between two counts: what does not grow with the requests falls out.
fn measure(mix: &Mix, binary: &Path, folder: &Path) -> Outcome<u64> {
    let answer = (mix.answer)();
    let instances = traffic::instances(answer.wire)?;
    let t = std::time::Instant::now();
    let mut sidecar = Sidecar::start(binary, folder, mix, instances)?;
    println!("started {:?}", t.elapsed());
    let mut clients = Clients::connect(&sidecar.listeners, mix.connections, (mix.request)(), answer.body)?;
    clients.ask(mix.warm_up)?;
    sidecar.dump()?;
    println!("warm {:?}", t.elapsed());
    clients.ask(mix.counted)?;
    let once = counted(&sidecar.dump()?)?;
    println!("once {:?} {}", t.elapsed(), once / (mix.counted * mix.connections) as u64);
    clients.ask(2 * mix.counted)?;
    let twice = counted(&sidecar.dump()?)?;
    Ok(twice.saturating_sub(once) / u64::try_from(mix.counted * mix.connections)?)
}

/// What a dump of callgrind comes to.
fn counted(dump: &Path) -> Outcome<u64> {
    let text = fs::read_to_string(dump)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    Ok(total.ok_or("a dump without a total")?.trim().parse()?)
}
