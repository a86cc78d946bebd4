//! Measures Outrigger beside other proxies: see README.md in the folder above.

mod backend;
mod bench;
mod client;
mod cpu;
mod frame;
mod http2;
mod lane;
mod latency;
mod memory;
mod net;
mod options;
mod picture;
mod poll;
mod process;
mod protocols;
mod proxies;
mod relay;
mod report;
mod scale;
mod startup;
mod statistics;
mod template;
mod throughput;
mod wire;

use bench::Bench;
use options::{Options, Part};
use report::Report;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZero;

/// A measurement that fails says why and ends; nothing here is handled in two ways.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let outcome = match arguments.peek().map(String::as_str) {
        Some("backend") => addrs(arguments.skip(1)).and_then(|addrs| backend::serve(&addrs, None)),
        Some("backend-tls") => tls_backend(arguments.skip(1)),
        Some("relay") => addrs(arguments.skip(1)).and_then(|addrs| {
            let (own, backends) = addrs.split_first().ok_or("no address")?;
            relay::serve(*own, backends)
        }),
        Some("--help") => {
            print!("{}", options::USAGE);
            Ok(())
        }
        _ => Options::parse(arguments).and_then(compare),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn addrs(arguments: impl Iterator<Item = String>) -> Outcome<Vec<SocketAddr>> {
    Ok(arguments.map(|argument| argument.parse()).collect::<Result<_, _>>()?)
}

/// `CERTIFICATE KEY ADDR...`
fn tls_backend(mut arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let mut file = || arguments.next().map(std::path::PathBuf::from).ok_or("no certificate");
    let (certificate, key) = (file()?, file()?);
    let certificate = wire::Certificate { both: certificate.clone(), certificate, key };
    backend::serve(&addrs(arguments)?, Some(&certificate.server()?))
}

fn compare(options: Options) -> Outcome<()> {
    if std::thread::available_parallelism().map_or(1, NonZero::get) < 2 {
        return Err("two CPUs are needed: one for the proxy, one for the load".into());
    }
    process::pin(process::LOAD_CPU)?;
    process::raise_file_limit();
    // Waking up for the next request when it is due, not some 50 µs later.
    rustix::thread::set_current_timer_slack(NonZero::new(1))?;
    fs::create_dir_all(&options.folder)?;
    let proxies = proxies::find(&options.outrigger)?;
    let bench = Bench::new(options, proxies)?;
    let mut report = Report::default();
    if bench.options.wants(Part::Cpu) {
        cpu::measure(&bench, &mut report)?;
    }
    if bench.options.wants(Part::Http2) {
        protocols::http2(&bench, &mut report)?;
    }
    if bench.options.wants(Part::Tls) {
        protocols::tls(&bench, &mut report)?;
    }
    if bench.options.wants(Part::Latency) {
        latency::measure(&bench, &mut report)?;
    }
    if bench.options.wants(Part::Rps) {
        throughput::measure(&bench, &mut report)?;
    }
    if bench.options.wants(Part::Memory) {
        memory::measure(&bench, &mut report)?;
    }
    if bench.options.wants(Part::Startup) {
        startup::measure(&bench, &mut report)?;
    }
    if bench.options.wants(Part::Scale) {
        scale::measure(&bench, &mut report)?;
    }
    let text = report.markdown(&preface(&bench));
    fs::write(bench.options.folder.join("report.md"), &text)?;
    print!("{text}");
    for file in picture::draw(&report, bench.options.pictures())? {
        eprintln!("compare: drew {file}");
    }
    Ok(())
}

fn preface(bench: &Bench) -> String {
    let versions: Vec<String> = bench
        .proxies
        .iter()
        .filter(|proxy| !proxy.version.is_empty() && !proxy.kind.is_tuned())
        .map(|proxy| format!("{} {}", proxy.kind.text(), proxy.version))
        .collect();
    format!(
        "{}. Each proxy with one worker on CPU {}, client and instances on CPU {}. CPU time from {}. HTTP/1.1 where nothing else is said.",
        versions.join(", "),
        process::PROXY_CPU,
        process::LOAD_CPU,
        bench.clock.text(),
    )
}
