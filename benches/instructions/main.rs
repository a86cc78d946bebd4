//! Counts the instructions that the release binary spends on a request, by kind of traffic, and holds them against
//! ceilings. `run` builds what this needs and starts it.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement, not the product")]

mod ceilings;
mod http2;
mod mixes;
mod profile;
mod sidecar;
mod tls;
mod traffic;

use ceilings::{Ceiling, Ceilings};
use mixes::{Mix, Speaks};
use sidecar::Sidecar;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use tls::Secured;
use traffic::{Ask, Clients};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// What a small request is to cost one day, and what it could cost at best.
const AIMS: [(&str, u64); 2] = [("aim", 24_000), ("dream", 14_000)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Check,
    Set,
    Profile,
}

/// `MODE BINARY FOLDER CEILINGS [MIX...]`
struct Args {
    mode: Mode,
    binary: PathBuf,
    /// For logs and counts.
    folder: PathBuf,
    ceilings: PathBuf,
    mixes: Vec<&'static Mix>,
}

impl Args {
    fn read(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut word = || words.next().ok_or("start benches/instructions/run, which knows the arguments");
        let mode = match word()?.as_str() {
            "check" => Mode::Check,
            "set" => Mode::Set,
            "profile" => Mode::Profile,
            other => return Err(format!("unknown mode: {other}").into()),
        };
        let [binary, folder, ceilings] = [word()?, word()?, word()?].map(PathBuf::from);
        let named: Vec<_> = words.map(|name| mixes::named(&name)).collect::<Outcome<_>>()?;
        let mixes = if named.is_empty() { mixes::ALL.iter().collect() } else { named };
        Ok(Self { mode, binary, folder, ceilings, mixes })
    }
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    if words == ["--bench"] {
        println!("benches/instructions/run counts instructions; cargo bench measures time.");
        return ExitCode::SUCCESS;
    }
    match Args::read(words.into_iter()).and_then(|args| run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("benches/instructions: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all mixes are within their ceilings.
fn run(args: &Args) -> Outcome<bool> {
    let (mut ceilings, mut within) = (Ceilings::read(&args.ceilings)?, true);
    println!(
        "{:<10} {:>12} {:>9} {:>9}  {:<8} what is asked for",
        "mix", "instr./req.", "ceiling", "was", "verdict"
    );
    for mix in &args.mixes {
        let began = Instant::now();
        let counts = count(mix, &args.binary, &args.folder.join(mix.name))?;
        if args.mode == Mode::Set {
            ceilings.set(mix.name, counts.each);
        }
        let (ceiling, verdict) = match ceilings.of(mix.name) {
            ceiling if args.mode == Mode::Profile => (ceiling.unwrap_or_default(), ""),
            None => (Ceiling::default(), "NOT SET"),
            Some(ceiling) if counts.each > ceiling.most => (ceiling, "OVER"),
            Some(ceiling) => (ceiling, "ok"),
        };
        within &= matches!(verdict, "ok" | "");
        let took = began.elapsed().as_secs_f64();
        let (name, each, Ceiling { most, was }) = (mix.name, counts.each, ceiling);
        println!("{name:<10} {each:>12} {most:>9} {was:>9}  {verdict:<8} {} ({took:.0} s)", mix.says);
        if mix.name == "small" {
            let far = |(word, aim)| format!("the {word} is {aim}: {:.2} x", each as f64 / aim as f64);
            println!("{:<10} {}", "", AIMS.map(far).join(", "));
        }
        if args.mode == Mode::Profile {
            profile::print(&counts.dump, counts.requests)?;
        }
    }
    if args.mode == Mode::Set {
        ceilings.write(&args.ceilings)?;
    }
    Ok(within)
}

struct Counts {
    /// Instructions per request.
    each: u64,
    /// The longer of the two counts, and its requests.
    dump: PathBuf,
    requests: u64,
}

/// The difference between a long and a short count: what does not grow with the requests falls out.
fn count(mix: &Mix, binary: &Path, folder: &Path) -> Outcome<Counts> {
    let answer = (mix.answer)();
    let instances = traffic::instances(answer.wire)?;
    let mut sidecar = Sidecar::start(binary, folder, mix, instances)?;
    let (listeners, request, body) = (&sidecar.listeners, (mix.request)(), answer.body);
    let (mut clients, requests): (Box<dyn Ask>, _) = match mix.speaks {
        Speaks::Http1 => {
            let clients = Clients::connect(listeners, mix.connections, traffic::open, request, body)?;
            (Box::new(clients), mix.connections)
        }
        Speaks::Tls => {
            let clients = Clients::connect(listeners, mix.connections, Secured::connect, request, body)?;
            (Box::new(clients), mix.connections)
        }
        Speaks::Http2 { streams } => {
            let listener = *listeners.first().ok_or("no service")?;
            let clients = http2::Clients::connect(listener, mix.connections, streams, body)?;
            (Box::new(clients), mix.connections * streams)
        }
    };
    clients.ask(mix.warm_up)?;
    sidecar.dump()?;
    clients.ask(mix.short)?;
    let short = profile::total(&sidecar.dump()?)?;
    clients.ask(mix.long)?;
    let dump = sidecar.dump()?;
    let more = profile::total(&dump)?.saturating_sub(short);
    let each = more / u64::try_from((mix.long - mix.short) * requests)?;
    Ok(Counts { each, dump, requests: u64::try_from(mix.long * requests)? })
}
