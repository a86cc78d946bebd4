//! The command line.

use crate::Outcome;
use std::path::{Path, PathBuf};

/// Rounds that can confirm a target.
pub const ENOUGH: usize = 40;

pub const USAGE: &str = "\
Measures Outrigger beside HAProxy, nginx, Envoy and a plain relay, on this machine and over loopback only.

  benches/compare/run [OPTIONS]

  --rounds N      rounds of the paired parts (default 40; fewer than 40 cannot confirm a target)
  --quick         6 rounds and a smaller scale part, in about 2 minutes: shows that it works, proves nothing
  --only A,B      only these parts: cpu, h2, tls, latency, rps, memory, startup, scale
  --help
";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Cpu,
    /// HTTP/2 with clients, with and without TLS.
    Http2,
    /// TLS with HTTP/1.1, on either side.
    Tls,
    Latency,
    Rps,
    Memory,
    Startup,
    Scale,
}

impl Part {
    pub const ALL: [(&str, Self); 8] = [
        ("cpu", Self::Cpu),
        ("h2", Self::Http2),
        ("tls", Self::Tls),
        ("latency", Self::Latency),
        ("rps", Self::Rps),
        ("memory", Self::Memory),
        ("startup", Self::Startup),
        ("scale", Self::Scale),
    ];
}

pub struct Options {
    pub rounds: usize,
    pub quick: bool,
    pub parts: Vec<Part>,
    pub outrigger: PathBuf,
    /// Where configurations, logs and the report go.
    pub folder: PathBuf,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            rounds: 0,
            quick: false,
            parts: Vec::new(),
            outrigger: "target/release/outrigger".into(),
            folder: "target/compare".into(),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--rounds" => options.rounds = value()?.parse().map_err(|_| "--rounds needs a number")?,
                "--quick" => options.quick = true,
                "--only" => {
                    for name in value()?.split(',') {
                        let part = Part::ALL.iter().find(|(known, _)| *known == name);
                        options
                            .parts
                            .push(part.ok_or_else(|| format!("there is no part {name}\n\n{USAGE}"))?.1);
                    }
                }
                "--outrigger" => options.outrigger = value()?.into(),
                "--folder" => options.folder = value()?.into(),
                _ => return Err(format!("unknown argument {argument}\n\n{USAGE}").into()),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 6 } else { ENOUGH };
        }
        if options.parts.is_empty() {
            options.parts = Part::ALL.iter().map(|(_, part)| *part).collect();
        }
        Ok(options)
    }

    /// The pictures that are shown to readers come from whole runs only.
    pub fn pictures(&self) -> &Path {
        let whole = !self.quick && self.rounds >= ENOUGH && self.parts.len() == Part::ALL.len();
        if whole { Path::new("benches/compare") } else { &self.folder }
    }

    pub fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}
