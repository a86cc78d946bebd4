//! From exec to the first request that was answered through the proxy, and the size of the binaries.

use crate::Outcome;
use crate::bench::Bench;
use crate::client::request;
use crate::process::{PROXY_CPU, Running};
use crate::proxies::{Kind, Proxy, Setup};
use crate::report::{AtMost, Report, with_range};
use crate::statistics::Median;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let rounds = bench.options.rounds;
    report.section("Start and size");
    report.say(&format!(
        "From just before the start of the process to the end of its first answer, from an instance in a fixed list; asked again every \
         0.2 ms; {rounds} rounds in turns. Sizes without symbols; libraries that are loaded at run time come on top."
    ));
    let proxies: Vec<&Proxy> =
        bench.proxies.iter().filter(|proxy| proxy.kind != Kind::Relay && !proxy.kind.is_tuned()).collect();
    let mut samples = vec![Vec::new(); proxies.len()];
    for _ in 0..rounds {
        for (proxy, samples) in proxies.iter().zip(&mut samples) {
            samples.push(start(bench, proxy)?.as_secs_f64() * 1_000.0);
        }
    }
    let mut rows = Vec::new();
    for (proxy, own) in proxies.iter().zip(&samples) {
        let median = Median::of(own).ok_or("no rounds")?;
        let size = stripped_size(&proxy.program, &bench.options.folder)?;
        let size = size.map(|bytes| bytes as f64 / 1e6);
        rows.push(vec![
            proxy.name.clone(),
            with_range(median, 1),
            size.map_or_else(|| "–".to_owned(), |size| format!("{size:.1}")),
        ]);
        if proxy.kind == Kind::Outrigger {
            report.goal("exec to the first proxied request", AtMost(50.0), "ms", median, 1);
            let size = size.ok_or("strip is missing (binutils)")?;
            report.goal(
                "binary, stripped",
                AtMost(15.0),
                "MB",
                Median { value: size, low: size, high: size },
                1,
            );
        }
    }
    report.table(&["", "first answer, ms", "binary, MB"].map(str::to_owned), &rows);
    Ok(())
}

fn start(bench: &Bench, proxy: &Proxy) -> Outcome<Duration> {
    let setup = Setup::one(&bench.instances)?;
    let folder = bench.folder("startup");
    let command = proxy.configure(&setup, &folder)?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let addr = *setup.addrs().first().ok_or("no service")?;
    let log = proxy.log(&folder);
    let begun = Instant::now();
    let mut running = Running::start_bare(PROXY_CPU, &command, &log)?;
    loop {
        if let Ok(stream) = TcpStream::connect(addr)
            && ask(stream).unwrap_or(false)
        {
            break;
        }
        if !running.alive() || begun.elapsed() > PATIENCE {
            return Err(format!("{} does not serve; see {}", proxy.name.clone(), log.display()).into());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let took = begun.elapsed();
    running.settle()?;
    Ok(took)
}

/// True if a request is answered with 200.
fn ask(mut stream: TcpStream) -> std::io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&request("/100"))?;
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer)?;
    Ok(answer.get(..read).is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200 ")))
}

/// In bytes; `None` if there is no `strip`.
fn stripped_size(program: &Path, folder: &Path) -> Outcome<Option<u64>> {
    let found = if program.components().count() > 1 { Some(program.to_path_buf()) } else { on_path(program) };
    let Some(found) = found else { return Ok(None) };
    let stripped = folder.join("stripped");
    match Command::new("strip").arg("-o").arg(&stripped).arg(&found).status() {
        Ok(status) if status.success() => {}
        _ => return Ok(None),
    }
    let size = fs::metadata(&stripped)?.len();
    fs::remove_file(&stripped)?;
    Ok(Some(size))
}

fn on_path(program: &Path) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
