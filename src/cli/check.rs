//! `outrigger check`: everything that is wrong with a configuration file, at once.

use super::{Outcome, Output, config_file};
use crate::config::{self, Environment, Loaded, Origin, Resolved};
use clap::Args;
use std::path::PathBuf;

/// Check a configuration file: all problems at once, each with key path and line.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Default: $OUTRIGGER_CONFIG, ./outrigger.toml, /etc/outrigger/outrigger.toml.
    config: Option<PathBuf>,
    /// Print every effective value and where it came from; secrets as ***.
    #[arg(long)]
    resolve: bool,
}

impl Check {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        let env = Environment::Process;
        let path = match config_file(self.config, &env) {
            Ok(path) => path,
            Err(error) => {
                output.error(error);
                return Outcome::Refused;
            }
        };
        let Loaded { settings, values } = match config::load(&path, &env) {
            Ok(loaded) => loaded,
            Err(problems) => {
                output.error(problems);
                return Outcome::Refused;
            }
        };
        if self.resolve {
            print_values(output, &values);
        } else {
            let services: Vec<_> = settings.services.iter().map(|one| one.name.as_str()).collect();
            let registrations: Vec<_> = settings.registrations.iter().map(|one| one.name.as_str()).collect();
            let kinds = [("service", services), ("registration", registrations)];
            let kinds: Vec<_> = kinds.iter().filter_map(|(what, names)| counted(what, names)).collect();
            output.line(format_args!("{}: fine, {}", path.display(), kinds.join("; ")));
        }
        Outcome::Fine
    }
}

/// `2 services: a, b`; `None` for none.
fn counted(what: &str, names: &[&str]) -> Option<String> {
    let s = if names.len() == 1 { "" } else { "s" };
    (!names.is_empty()).then(|| format!("{} {what}{s}: {}", names.len(), names.join(", ")))
}

/// `path = value  # origin`, which is TOML again.
fn print_values(output: &mut Output, values: &[Resolved]) {
    const WIDEST: usize = 60;
    let lines: Vec<_> = values.iter().map(|v| (format!("{} = {}", v.path, v.value), &v.origin)).collect();
    let width =
        lines.iter().map(|(line, _)| line.chars().count()).filter(|n| *n <= WIDEST).max().unwrap_or(0);
    for (line, origin) in lines {
        match origin {
            Origin::Line { file, line: number, .. } => {
                output.line(format_args!("{line:width$}  # {file}:{number}"))
            }
            origin => output.line(format_args!("{line:width$}  # {origin}")),
        }
    }
}
